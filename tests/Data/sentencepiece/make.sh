#!/bin/sh
# Creates the models and the expected token IDs in this folder with the tools of the sentencepiece package (0.1.97).
set -e
cd "$(dirname "$0")"
train() {
  name=$1; shift
  spm_train --input=corpus.txt --model_prefix="$name" --hard_vocab_limit=false --minloglevel=2 --num_threads=1 "$@"
  rm "$name.vocab"
}
train t5 --character_coverage=0.98 --vocab_size=500 --pad_id=0 --eos_id=1 --unk_id=2 --bos_id=-1 --normalization_rule_name=nmt_nfkc
train bytes --character_coverage=0.98 --vocab_size=700 --byte_fallback=true --normalization_rule_name=nmt_nfkc --user_defined_symbols='<sep>,<mask>'
train casefold --character_coverage=1 --vocab_size=750 --normalization_rule_name=nmt_nfkc_cf --user_defined_symbols='<sep>' --add_dummy_prefix=false
train identity --character_coverage=1 --vocab_size=750 --normalization_rule_name=identity --remove_extra_whitespaces=false
train suffix --character_coverage=0.98 --vocab_size=450 --normalization_rule_name=identity --treat_whitespace_as_suffix=true
train bpe --character_coverage=1 --model_type=bpe --vocab_size=600 --normalization_rule_name=identity
for name in t5 bytes casefold identity suffix; do
  spm_encode --model="$name.model" --output_format=id < mixed.txt > "$name.ids"
done
