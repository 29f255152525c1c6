"""A small vocabulary of CLIP's kind, and texts with their ids as the plain algorithm finds them. Usage: make.py FOLDER"""
import collections
import json
import random
import sys
import unicodedata

CORPUS = """a photo of a cat and a dog on the beach, a small red cat that isn't sleeping. the goat's goats are standing on the mountain in the
morning, they're walking slowly; we've seen 12 of them at 10:45! a video of waves on the beach, of the sea and of the sun in 2024.
die schöne katze läuft über die straße. un café très élégant, naïve façade. кошка и собака на пляже. 猫が寝ている。 🐐🐐 goat 🌊""".split()
SUFFIXES = ["'re", "'ve", "'ll", "'s", "'t", "'m", "'d"]
BOS, EOS = "<|startoftext|>", "<|endoftext|>"

printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
symbols = {value: chr(value) for value in printable}
for value in range(256):
    if value not in symbols:
        symbols[value] = chr(0x100 + len(symbols) - len(printable))


def pieces_of(word):
    letters = [symbols[value] for value in word.encode()]
    return (*letters[:-1], letters[-1] + "</w>")


def join(word, pair):
    result, i = [], 0
    while i < len(word):
        if word[i:i + 2] == pair:
            result.append(pair[0] + pair[1])
            i += 2
        else:
            result.append(word[i])
            i += 1
    return tuple(result)


def train(count):
    words, merges = collections.Counter(pieces_of(word) for text in CORPUS for word in split(text)), []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = collections.Counter({join(word, best): times for word, times in words.items()})
    return merges


def kind(character):
    category = unicodedata.category(character)[0]
    return "space" if character.isspace() else {"L": "letter", "N": "digit"}.get(category, "other")


def split(text):
    words, i = [], 0
    while i < len(text):
        special = next((word for word in [BOS, EOS, *SUFFIXES] if text.startswith(word, i)), None)
        end = i + (len(special) if special else 1)
        if not special and kind(text[i]) in ("letter", "other"):
            while end < len(text) and kind(text[end]) == kind(text[i]):
                end += 1
        if special or kind(text[i]) != "space":
            words.append(text[i:end])
        i = end
    return words


def encode(text):
    ids = []
    for word in split(" ".join(text.lower().split())):
        if word in (BOS, EOS):
            ids.append(vocabulary[word])
            continue
        pieces = pieces_of(word)
        while len(pieces) > 1:
            best = min(zip(pieces, pieces[1:]), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            pieces = join(pieces, best)
        ids += [vocabulary[piece] for piece in pieces]
    return ids


folder = sys.argv[1] if len(sys.argv) > 1 else "."
merges = train(140)
ranks = {pair: rank for rank, pair in enumerate(merges)}
byte_symbols = [symbols[value] for value in printable] + [symbols[value] for value in range(256) if value not in printable]
vocabulary = {piece: i for i, piece in enumerate(byte_symbols + [symbol + "</w>" for symbol in byte_symbols] + ["".join(pair) for pair in merges] + [BOS, EOS])}

random.seed(3)
texts = ["", "  \t\n ", "A photo of a CAT", "the goat's goats aren't standing", "they're, we've: I'll!!", "10:45 in 2024, x2", "Ein schöner Straßenkater läuft ÜBER",
         "ΟΔΟΣ ΣΟΦΟΣ", "ΑΣ\u0332Α ΑΣ\u0332", "кошка и собака", "猫が寝ている。", "🐐🌊 waves 🐐", "a\u00A0b\u2003c\x1cd", "<|endoftext|>beach<|startoftext|>", "!'s ''t 'S", "𝒳𝒴 ½ ² ٣", "goatgoatgoat" * 9,
         "\u200Bzero\u200Dwidth", "İstanbul", "\x00\x01\x7f", "a" * 60]
alphabets = ["abcdefgoat thes'", "aeiou 0123!?.,'", "".join(chr(c) for c in range(0x21, 0x250)) + "      ", "äöüßéèкошка猫が🐐🌊 '"]
texts += ["".join(random.choice(alphabet) for _ in range(random.randrange(1, 60))) for alphabet in alphabets for _ in range(25)]
texts = [text for text in texts if "&" not in text and unicodedata.normalize("NFC", text) == text]

with open(f"{folder}/vocab.json", "w", encoding="utf-8") as file:
    json.dump(vocabulary, file, ensure_ascii=False)
with open(f"{folder}/merges.txt", "w", encoding="utf-8") as file:
    file.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
with open(f"{folder}/texts.json", "w", encoding="utf-8") as file:
    json.dump([{"text": text, "ids": encode(text)} for text in texts], file, indent=0)
