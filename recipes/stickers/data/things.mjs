// The things that are pictured: which emoji take part, what each is called, and the captions that name it.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
const names = JSON.parse(readFileSync(new URL('names.json', import.meta.url), 'utf8'));
const synonyms = new Set(readFileSync(new URL('synonyms.txt', import.meta.url), 'utf8').trim().split('\n'));

/** Background colors: what the caption says, and the pixel. */
export const palette = [
  { name: 'white', phrase: 'a white', rgb: [255, 255, 255] },
  { name: 'black', phrase: 'a black', rgb: [0, 0, 0] },
  { name: 'grey', phrase: 'a grey', rgb: [128, 128, 128] },
  { name: 'red', phrase: 'a red', rgb: [214, 40, 40] },
  { name: 'orange', phrase: 'an orange', rgb: [247, 127, 0] },
  { name: 'yellow', phrase: 'a yellow', rgb: [255, 217, 61] },
  { name: 'green', phrase: 'a green', rgb: [56, 161, 68] },
  { name: 'blue', phrase: 'a blue', rgb: [45, 108, 223] },
  { name: 'purple', phrase: 'a purple', rgb: [126, 63, 178] },
  { name: 'pink', phrase: 'a pink', rgb: [255, 158, 196] },
];

// Mere signs (letters and arrows on a blue or purple square), flags of countries and families that differ by one child look
// so much alike at 128 pixels that they teach the model nothing but confusion.
const leftOut = new Set(['country-flag', 'subdivision-flag', 'keycap', 'alphanum', 'skin-tone', 'transport-sign', 'av-symbol',
  'arrow', 'gender', 'math', 'currency', 'zodiac', 'religion', 'other-symbol']);
const keptSymbols = new Set(['recycling symbol', 'check mark button', 'check mark', 'cross mark', 'trident emblem', 'fleur de lis',
  'yin yang', 'peace symbol', 'atom symbol', 'infinity', 'heavy dollar sign', 'name badge', 'sparkle']);
const leftOutNames = [/ facing right$/, /^family /, /^(kiss|couple with heart) (wo)?man (wo)?man$/, /(o clock|thirty)$/,
  /^(black|white) (small|medium|medium small) square$/];

/** The code points of an emoji without the variation selector, which the packages write or leave out as they like. */
export const codeOf = name => name.toLowerCase().split('-').map(c => c.padStart(4, '0')).filter(c => c !== 'fe0f').join('-');

const tidy = text => text.toLowerCase().replaceAll('_', ' ').replace(/[’‘]/g, "'").replace(/[“”,:.!]/g, ' ')
  .replace(/\s+/g, ' ').trim();

/** All things in a fixed order: { code, thing, phrase, also, category }. */
export function things() {
  const keywords = new Map(Object.entries(require('emojilib/dist/emoji-en-US.json')).map(([emoji, words]) =>
    [codeOf([...emoji].map(c => c.codePointAt(0).toString(16)).join('-')), words.map(tidy)]));
  const users = new Map(); // word or name -> the emoji that it is a keyword, a name, or a word of a name of
  const use = (word, code) => users.set(word, (users.get(word) ?? new Set()).add(code));
  const all = require('emoji-datasource/emoji.json').toSorted((a, b) => a.sort_order - b.sort_order);
  for (const emoji of all) {
    const code = codeOf(emoji.unified);
    const words = [...keywords.get(code) ?? [], ...emoji.short_names.map(tidy)];
    for (const word of [...words, ...(words[0] ?? '').split(' ')]) use(word, code);
  }

  const result = [], seen = new Map();
  for (const emoji of all) {
    const code = codeOf(emoji.unified);
    const [given, ...words] = keywords.get(code) ?? [];
    if (!given || leftOut.has(emoji.subcategory) && !keptSymbols.has(given) || leftOutNames.some(r => r.test(given))) continue;
    const rule = names[code] ?? names[given] ?? {};
    const thing = rule.name ?? given.replace(/^(man|woman|person) (\w+ hair|beard)$/, '$1 with $2').replace(/^(man|woman|person) bald$/, 'bald $1');
    if (seen.has(thing)) throw new Error(`"${thing}" names both ${seen.get(thing)} and ${code}: give one of them a name in names.json.`);
    seen.set(thing, code);
    // Synonyms: those of names.json, then keywords that no other emoji has, as far as synonyms.txt approves of them: the packages'
    // keywords are meant for searching and include many words that do not name the object.
    const own = [...emoji.short_names.map(tidy), ...words].filter(w => synonyms.has(w) && users.get(w).size === 1);
    const also = [...new Set([...rule.also ?? [], ...own])].filter(w => w !== thing && !(w in names)).slice(0, 3);
    result.push({ code, thing, phrase: withArticle(thing, rule.article), also: also.map(w => withArticle(w)), category: emoji.category,
      group: emoji.subcategory });
  }
  return result;
}

const massNouns = new Set(`fire fog salt butter bacon popcorn bread rice curry spaghetti sushi oden sake garlic ginger broccoli lettuce
  paella stew corn beer coffee soap yarn wood money poop shrimp jewelry luggage fireworks running cooking construction sewing bowling
  badminton soccer racing dna carpentry candy custard chocolate cheese milk water honey seaweed kelp music toast
  dough meat beef pork steak ham golf tennis hockey snow rain lightning weather thunder wind sand saturn earth santa tea dust mail clothing
  makeup coral lacrosse softball-game bark glue medicine handcraft maize tempura kale choy pasta silverware oatmeal porridge sunshine dynamite dice mahjong matcha boba tennis soda`.split(/\s+/));
const singularWithS = /(ss|us|is|as|os|lens|news)$/;

/** "goat" to "a goat", "umbrella" to "an umbrella", "grapes" and "fire" as they are. */
export function withArticle(noun, article) {
  if (article === undefined) {
    const head = noun.match(/^(man|woman|person)\b(?!'| and)/)?.[0] ?? noun.split(/ (?:with|of|on|in|over|behind|at|for|showing|without|and) /)[0];
    const last = head.split(' ').at(-1);
    const plural = /s$/.test(last) && !singularWithS.test(last) || /^(men|women|people|feet|teeth|mice)\b/.test(head) || /^(thumbs|palms) /.test(noun);
    article = plural || massNouns.has(last) ? '' : /^([aeio]|u(?!ni|s[ei]|fo|kulele)|hour|honest|x-ray|sos |suv)/.test(noun) && !/^(one|once|euro|ewe)\b/.test(noun) ? 'an' : 'a';
  }
  return article === '' ? noun : `${article} ${noun}`;
}

/** Puts adjectives into "a goat", "an umbrella", "grapes": "an animated 3D goat". */
function described(phrase, adjectives) {
  const match = /^(an?|the) (.*)$/.exec(phrase);
  if (!match) return `${adjectives} ${phrase}`;
  const article = match[1] === 'the' ? 'the' : /^[aeiou]/.test(adjectives) ? 'an' : 'a';
  return `${article} ${adjectives} ${match[2]}`;
}

/** Captions of one picture. {background} stands for a palette color with its article. The first is the standard one. */
export function captions({ phrase }, style, kind) {
  const bare = phrase.replace(/^(an?|the) /, ''), on = 'on {background} background';
  return kind === 'clip'
    ? [`${described(phrase, `animated ${style}`)} ${on}`, `${described(phrase, style)} moving ${on}`, `an animated sticker of ${phrase} ${on}, ${style}`,
      `an animation of ${described(phrase, style)} ${on}`, `${described(phrase, 'animated')} ${on}`, `animated ${style} ${bare}, {background} background`]
    : [`${described(phrase, style)} ${on}`, `a ${style} sticker of ${phrase} ${on}`, `a ${style} picture of ${phrase} ${on}`,
      `${phrase} ${on}, ${style} style`, `${phrase} ${on}`, `${style} ${bare}, {background} background`];
}

/** Captions that say no more than what it is, as people type them: the thing, described or not, and its synonyms. */
export function plainCaptions({ phrase, thing, also }, style, kind) {
  return [...new Set([phrase, thing, described(phrase, kind === 'clip' ? `animated ${style}` : style), ...also])];
}

/** Every word that the packages know, for the vocabulary. */
export const knownWords = () => Object.values(require('emojilib/dist/emoji-en-US.json')).flat().map(tidy).filter(w => /[a-z]{2}/.test(w));
