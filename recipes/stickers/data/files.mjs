// Writes ordinary files from the packed ones: PNG pictures and MP4 clips on colored backgrounds, and stickers.csv with their captions.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';

const columns = ['path', 'caption', 'kind', 'thing', 'style', 'background', 'frames', 'fps', 'width', 'height', 'source', 'licence', 'alternatives'];

/** Every picture is put on white and on `backgrounds` further colors, drawn by seed. Files that are there already are kept. */
export async function writeFiles(folder, { backgrounds, seed }, log) {
  const index = JSON.parse(readFileSync(join(folder, 'index.json'), 'utf8'));
  if (!(backgrounds >= 0 && backgrounds < index.palette.length)) throw new Error(`--backgrounds is ${backgrounds}; expected 0 to ${index.palette.length - 1}.`);
  const rows = [columns.join(',')], used = new Set();
  for (const [kind, list] of [['still', index.stills], ['clip', index.clips]]) {
    mkdirSync(join(folder, `${kind}s`), { recursive: true });
    const count = kind === 'clip' ? index.frames : 1, pixels = count * index.width * index.height;
    const rgba = Buffer.alloc(pixels * 4), rgb = Buffer.alloc(pixels * 3);
    const packed = openSync(join(folder, list.file), 'r');
    try {
      for (const [i, item] of list.items.entries()) {
        let loaded = false;
        for (const color of chooseColors(index.palette, backgrounds, `${seed} ${kind} ${item.source} ${item.code}`)) {
          const path = `${kind}s/${slug(item.thing)}-${slug(item.style)}-${color.name}.${kind === 'clip' ? 'mp4' : 'png'}`;
          if (used.has(path)) throw new Error(`Two pictures would be written to ${path}.`);
          used.add(path);
          rows.push(row(index, kind, item, color, path, count, hash(`${seed} ${path}`)));
          const target = join(folder, path);
          if (existsSync(target)) continue;
          if (!loaded && readSync(packed, rgba, 0, rgba.length, i * rgba.length) !== rgba.length) throw new Error(`${list.file} is shorter than index.json says: delete it and run again.`);
          loaded = true;
          compose(rgba, color.rgb, rgb);
          if (kind === 'clip') await encodeClip(rgb, index, `${target}.part`);
          else await sharp(rgb, { raw: { width: index.width, height: index.height, channels: 3 } }).png({ compressionLevel: 9 }).toFile(`${target}.part`);
          renameSync(`${target}.part`, target);
        }
        if (i % 100 === 99) log(`${kind}s: ${i + 1} of ${list.items.length}`);
      }
    } finally {
      closeSync(packed);
    }
  }
  const csv = join(folder, 'stickers.csv');
  writeFileSync(`${csv}.part`, rows.join('\n') + '\n');
  renameSync(`${csv}.part`, csv);
  log(`${rows.length - 1} files, ${csv}`);
}

function row(index, kind, { thing, style, source, licence, captions, plain }, color, path, frames, draw) {
  const all = captions.map(c => c.replace('{background}', color.phrase));
  const full = all.filter(c => c.includes(style)); // names thing, style and background
  const caption = full[draw % full.length];
  const alternatives = [...plain, ...all.filter(c => c !== caption)].join('|');
  const fps = kind === 'clip' ? index.fps : 0;
  return [path, caption, kind, thing, style, color.name, frames, fps, index.width, index.height, source, licence, alternatives].map(quoted).join(',');
}

const quoted = value => /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
const slug = text => text.toLowerCase().replace(/'/g, '').replace(/[^a-z0-9]+/g, '-');
const hash = text => createHash('sha256').update(text).digest().readUInt32LE();

/** White first, then the colors that the text's hash puts first. */
const chooseColors = ([white, ...others], count, text) =>
  [white, ...others.map(c => [hash(`${text} ${c.name}`), c]).sort((a, b) => a[0] - b[0]).slice(0, count).map(([, c]) => c)];

function compose(rgba, background, rgb) {
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let c = 0; c < 3; c++) rgb[to + c] = Math.round((rgba[from + c] * alpha + background[c] * (255 - alpha)) / 255);
  }
}

/** Near-lossless H.264 in 4:4:4, so that small colored edges stay sharp; the same input gives the same bytes. */
function encodeClip(rgb, { width, height, fps }, target) {
  const ffmpeg = spawn('ffmpeg', ['-v', 'error', '-nostdin', '-y', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', `${width}x${height}`, '-r', String(fps),
    '-i', 'pipe:0', '-vf', 'scale=out_color_matrix=bt709:out_range=tv,format=yuv444p', '-colorspace', 'bt709', '-color_primaries', 'bt709', '-color_trc', 'bt709',
    '-color_range', 'tv', '-c:v', 'libx264', '-preset', 'medium', '-crf', '10', '-threads', '1', '-fflags', '+bitexact', '-flags:v', '+bitexact',
    '-movflags', '+faststart', '-f', 'mp4', target], { stdio: ['pipe', 'ignore', 'pipe'] });
  return new Promise((resolve, reject) => {
    let errors = '';
    ffmpeg.stderr.on('data', text => errors += text);
    ffmpeg.on('error', e => reject(new Error(`ffmpeg could not be started (${e.message}): install it, for instance with apt-get install ffmpeg.`)));
    ffmpeg.on('close', code => code === 0 ? resolve() : reject(new Error(`ffmpeg failed on ${target} (exit code ${code}): ${errors.trim()}`)));
    ffmpeg.stdin.on('error', e => errors += `${e.message}\n`);
    ffmpeg.stdin.end(rgb);
  });
}
