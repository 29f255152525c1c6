#!/usr/bin/env bash
# Runs the samples and the stages of recipes/stickers with tiny settings in a temporary folder. The last line is 'N passed, N failed'.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0
export OMP_NUM_THREADS=1 # tiny networks are slower with more threads

# check NAME FILE PROGRAM ARGUMENTS...: checks that the program succeeds and creates the file.
check() {
  local name=$1 file=$2 program=$3; shift 3
  local start=$SECONDS
  if (cd "$folder" && dotnet "$root/$program" "$@") > "$folder/log" 2>&1 && [ -s "$folder/$file" ]; then
    passed=$((passed + 1))
    echo "$name: $((SECONDS - start)) s"
  else
    failed=$((failed + 1))
    echo "$name failed:"
    tail -20 "$folder/log"
  fi
}

sample() {
  local name=$1 file=$2; shift 2
  check "samples/$name" "$file" "samples/$name/bin/Release/net10.0/$name.dll" "$@"
}

# says NAME PATTERN ARGUMENTS...: checks that a sample prints a line. The programs that it finds are those of $programs, or else those in PATH.
says() {
  local name=$1 pattern=$2 dotnet; shift 2
  dotnet=$(type -P dotnet)
  (cd "$folder" && PATH=${programs:-$PATH} "$dotnet" "$root/samples/$name/bin/Release/net10.0/$name.dll" "$@") > "$folder/log" 2>&1
  if grep -q -- "$pattern" "$folder/log"; then
    passed=$((passed + 1))
    echo "samples/$name: prints '$pattern'"
  else
    failed=$((failed + 1))
    echo "samples/$name does not print '$pattern':"
    tail -20 "$folder/log"
  fi
}

# recipe FILE VERB ARGUMENTS...: runs a step of recipes/stickers.
recipe() {
  local file=$1 verb=$2; shift 2
  check "recipes/stickers: $verb" "$file" recipes/stickers/Train/bin/Release/net10.0/Train.dll "$verb" \
    --recipe "$folder/recipe.json" --data "$folder" --run "$folder/run" --threads 1 "$@"
}

sample CustomArchitecture custom/red-right.gif 4 custom
sample ComposeTrainingStage out/squares.gif 1
sample Generate videos/a-goat-7.mp4 "a goat" --steps 1 --seed 7 --frames 8 --out videos
says Generate "Warning: .*'goat'" "a gaot" --steps 1 --seed 7 --frames 8 --out videos
programs=$folder/nothing says Generate "ffmpeg is required to write MP4 files" "a goat" --out nothing # before the model is loaded
sample GenerateWithDependencyInjection out/postcard-1.mp4
mkdir "$folder/prompts"
echo "a goat" > "$folder/prompts/goat.txt"
sample WorkerService prompts/goat.mp4 --Prompts prompts --Once true --OpenSora:Steps 1 --OpenSora:Frames 8

# The recipe, with four stills and a clip of 8 frames: 64x64 pixels of RGBA.
cp "$root"/tests/Samples/stickers/* "$folder"
ffmpeg -v error -f lavfi -i testsrc=size=64x64:rate=8 -frames:v 4 -pix_fmt rgba -f rawvideo "$folder/stills.u8"
ffmpeg -v error -f lavfi -i testsrc=size=64x64:rate=8 -frames:v 8 -pix_fmt rgba -f rawvideo "$folder/clips.u8"
recipe run/vae.safetensors vae
recipe run/moved.safetensors cache
recipe run/text.safetensors text
recipe run/images/checkpoint-01-00000003.safetensors images
recipe run/videos/checkpoint-01-00000006.safetensors videos
recipe run/long/checkpoint-01-00000003.safetensors long
recipe sheet.png sheet --stage images --frames 1 --steps 1 --prompts prompts.txt --out sheet.png
recipe tiny/model.json export --out tiny
recipe table.md evaluate --model tiny --each 2 --seeds 1 --table table.md --out evaluation.png

# Two clips of a second, with captions from a text file and from the file name.
mkdir "$folder/clips"
for source in color gradients; do
  ffmpeg -v error -f lavfi -i "$source=size=64x64:rate=8:duration=1" -pix_fmt yuv420p "$folder/clips/$source.mp4"
done
echo "a gradient" > "$folder/clips/gradients.txt"
sample TrainYourOwn mine/result.mp4 clips --minutes 0.02 --out mine --model tiny

# A film of two shots of two seconds, with a caption beside it.
mkdir "$folder/films"
ffmpeg -v error -f lavfi -i testsrc=size=96x64:rate=8:duration=2 -f lavfi -i smptebars=size=96x64:rate=8:duration=2 \
  -filter_complex "[0][1]concat=n=2" -pix_fmt yuv420p "$folder/films/film.mp4"
echo "a test pattern" > "$folder/films/film.txt"
sample PrepareAndTrain prepared/result.mp4 films --minutes 0.02 --out prepared --model tiny
check "opensora prepare" data/manifest.csv src/OpenSora.Cli/bin/Release/net10.0/OpenSora.Cli.dll \
  prepare films --out data --captions sidecar --where "black < 0.5" --parquet

# The command line. Models are searched in folders named 'models'.
opensora() {
  local name=$1 file=$2; shift 2
  check "opensora $name" "$file" src/OpenSora.Cli/bin/Release/net10.0/OpenSora.Cli.dll "$@"
}
cat > "$folder/train.json" << 'JSON'
{
  "OpenSora": { "Training": {
    "Stages": [ { "Name": "stills", "Source": "stills", "Steps": 2, "BatchSize": 1 } ],
    "Checkpoints": { "Folder": "run/command" } } },
  "Run": { "Model": "tiny", "Output": "trained", "Sources": { "stills": { "Path": "clips", "Frames": 1 } } }
}
JSON
opensora generate goat.mp4 generate "a goat" --out goat.mp4 --steps 1 --frames 8 --seed 7 --json
opensora train trained/model.json train train.json
opensora plan log plan train.json
opensora bench log bench --model trained --frames 1 --steps 1
opensora verify log models verify trained
opensora diagnose log diagnose

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
