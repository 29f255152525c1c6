#!/usr/bin/env bash
# Trains the SentencePiece vocabulary of the sticker model's text encoder on the captions that data/prepare.mjs wrote.
# usage: vocabulary.sh [DATA_FOLDER [TOKENIZER_FOLDER]]; the same captions always give the same model, byte for byte.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$(realpath -m "${1:-$here/.work/stickers}")
target=$(realpath -m "${2:-$here/tokenizer}")
command -v spm_train >/dev/null || { echo "spm_train is missing: apt-get install sentencepiece" >&2; exit 1; }
[ -f "$data/corpus.txt" ] || { echo "$data/corpus.txt is missing: run data/prepare.mjs first" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$data/corpus.txt" "$work/"
cd "$work" # names without a folder: the model records them
# Ids as in T5 (pad 0, end 1, unknown 2, no beginning). Case is folded; what no piece covers falls back to bytes.
nice -n 10 spm_train --input=corpus.txt --model_prefix=spiece --model_type=unigram --vocab_size=2048 \
  --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1 --byte_fallback=true --normalization_rule_name=nmt_nfkc_cf \
  --character_coverage=1.0 --required_chars="abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"()&%+-/#@$" \
  --num_threads=1 --shuffle_input_sentence=false --random_seed=1 --minloglevel=1
mkdir -p "$target"
cp spiece.model "$target/spiece.model.part"
mv "$target/spiece.model.part" "$target/spiece.model"
echo "$target/spiece.model"
