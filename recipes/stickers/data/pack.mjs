// Decodes the packages' pictures into two flat files of RGBA bytes, straight alpha, that a program can map into memory.
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, renameSync, writeFileSync, writeSync, rmSync, statSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { dirname, join } from 'node:path';
import { createRequire } from 'node:module';
import sharp from 'sharp';
import { captions, codeOf, knownWords, palette, plainCaptions, things } from './things.mjs';

export const size = 128;
/** Every 3rd frame of 24 a second. 24 of them are 3 seconds: the whole of an ordinary loop of 72 frames. */
export const frames = 24, interval = 3, fps = 8;

const require = createRequire(import.meta.url);
const fluent = 'MIT', noto = 'Apache-2.0';
const sources = {
  stills: [
    { name: '@lobehub/fluent-emoji-3d', folder: 'assets', style: '3D', licence: fluent },
    { name: 'emoji-datasource-google', folder: 'img/google/64', style: 'flat', licence: noto },
  ],
  clips: [1, 2, 3, 4].map(n => ({ name: `@lobehub/fluent-emoji-anim-${n}`, folder: 'assets', style: '3D', licence: fluent })),
};

/** What there is to decode: { stills: [item], clips: [item] }, in a fixed order; `input` is the picture's file. */
export async function catalogue() {
  const all = things();
  const result = {};
  for (const [kind, list] of Object.entries(sources)) {
    const items = [];
    for (const source of list) {
      const folder = join(dirname(require.resolve(`${source.name}/package.json`)), source.folder);
      const files = new Map(readdirSync(folder).filter(f => /\.(webp|png)$/.test(f)).map(f => [codeOf(f.replace(/\.\w+$/, '')), join(folder, f)]));
      for (const thing of all) {
        const input = files.get(thing.code);
        if (!input) continue;
        const item = { ...thing, style: source.style, source: source.name, licence: source.licence, input };
        if (kind === 'clips') {
          const { pages = 1 } = await sharp(input, { animated: true }).metadata();
          if (pages < 2) continue; // these packages hold a still for what has no animation
          Object.assign(item, { sourceFrames: pages, loop: Math.ceil(pages / interval) });
        }
        items.push(item);
      }
    }
    result[kind] = items;
  }
  return result;
}

const resized = image => image.ensureAlpha().resize(size, size, { fit: 'contain', background: { r: 0, g: 0, b: 0, alpha: 0 } }).raw().toBuffer();

const decodeStill = item => resized(sharp(item.input).toColourspace('srgb'));

async function decodeClip(item) {
  const all = await resized(sharp(item.input, { animated: true }).toColourspace('srgb'));
  const bytes = size * size * 4;
  if (all.length !== bytes * item.sourceFrames) throw new Error(`${item.input}: ${all.length} bytes decoded, ${bytes * item.sourceFrames} expected.`);
  // A clip that is shorter than 3 seconds starts again, as it does where it is shown.
  return Buffer.concat(Array.from({ length: frames }, (_, i) => {
    const at = i * interval % item.sourceFrames;
    return all.subarray(at * bytes, (at + 1) * bytes);
  }));
}

/** Writes stills.u8 and clips.u8 into the folder. Goes on where it was stopped, and is done at once when both are there. */
export async function pack(folder, items, log) {
  mkdirSync(folder, { recursive: true });
  for (const [kind, decode, count] of [['stills', decodeStill, 1], ['clips', decodeClip, frames]]) {
    const list = items[kind], bytes = count * size * size * 4;
    const target = join(folder, `${kind}.u8`), part = `${target}.part`, state = `${target}.state`;
    // The state names the list that the file belongs to, so that a change of the selection starts over.
    const list_id = createHash('sha256').update(JSON.stringify([bytes, interval, list.map(i => [i.source, i.code])])).digest('hex').slice(0, 16);
    const [saved, done] = existsSync(state) ? readFileSync(state, 'utf8').split(' ') : [];
    if (saved === list_id && existsSync(target) && statSync(target).size === list.length * bytes) continue;
    let next = saved === list_id && existsSync(part) ? Number(done) : 0;
    if (next === 0) rmSync(part, { force: true });
    const file = openSync(part, next === 0 ? 'w' : 'r+');
    try {
      for (; next < list.length; next++) {
        const data = await decode(list[next]);
        if (data.length !== bytes) throw new Error(`${list[next].input}: ${data.length} bytes decoded, ${bytes} expected.`);
        writeSync(file, data, 0, bytes, next * bytes);
        if (next % 50 === 49) {
          writeFileSync(state, `${list_id} ${next + 1}`);
          log(`${kind}: ${next + 1} of ${list.length}`);
        }
      }
    } finally {
      closeSync(file);
    }
    writeFileSync(state, `${list_id} ${list.length}`);
    renameSync(part, target);
    log(`${kind}: ${list.length}, ${target}`);
  }
  writeIndex(folder, items);
}

/** index.json says what lies where in the two files, and how it may be called. */
function writeIndex(folder, items) {
  const entry = kind => ({ code, thing, phrase, also, category, style, source, licence, sourceFrames, loop }) => ({
    code, thing, style, category, source, licence, sourceFrames, loop,
    captions: captions({ phrase }, style, kind), plain: plainCaptions({ thing, phrase, also }, style, kind),
  });
  const index = {
    version: 1, palette, width: size, height: size, frames, fps, layout: 'RGBA, straight alpha, rows from the top',
    stills: { file: 'stills.u8', shape: [items.stills.length, size, size, 4], items: items.stills.map(entry('still')) },
    clips: { file: 'clips.u8', shape: [items.clips.length, frames, size, size, 4], items: items.clips.map(entry('clip')) },
  };
  replace(join(folder, 'index.json'), JSON.stringify(index, null, 1));

  // The text for the vocabulary: every caption on a background of its turn, every plain one twice, and the words of the keywords, so
  // that other English is cut into sensible pieces as well.
  const lines = [...index.stills.items, ...index.clips.items].flatMap((item, i) => [
    ...item.captions.map((c, j) => c.replace('{background}', palette[(i + j) % palette.length].phrase)), ...item.plain, ...item.plain]);
  replace(join(folder, 'corpus.txt'), [...lines, ...knownWords()].join('\n'));
}

function replace(target, text) {
  writeFileSync(`${target}.part`, text + '\n');
  renameSync(`${target}.part`, target);
}
