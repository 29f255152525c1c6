// Makes the sticker model's training data. See ../README.md.
import { parseArgs } from 'node:util';
import { setPriority } from 'node:os';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import sharp from 'sharp';
import { writeFiles } from './files.mjs';
import { catalogue, pack } from './pack.mjs';

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: fileURLToPath(new URL('../.work/stickers', import.meta.url)) },
    backgrounds: { type: 'string', default: '2' },
    seed: { type: 'string', default: '1' },
    pack: { type: 'boolean', default: false },
  },
});
setPriority(10);
sharp.concurrency(1);
sharp.cache(false);

const out = resolve(values.out);
const items = await catalogue();
console.log(`${items.stills.length} stills, ${items.clips.length} clips`);
await pack(out, items, console.log);
if (!values.pack) await writeFiles(out, { backgrounds: Number(values.backgrounds), seed: values.seed }, console.log);
