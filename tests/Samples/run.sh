#!/usr/bin/env bash
# Runs the samples with small settings in a temporary folder. The last line is 'N passed, N failed'.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0

# check NAME FILE ARGUMENTS...: checks that the sample succeeds and creates the file.
check() {
  local name=$1 file=$2; shift 2
  if (cd "$folder" && dotnet "$root/samples/$name/bin/Release/net10.0/$name.dll" "$@") > "$folder/log" 2>&1 && [ -s "$folder/$file" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "samples/$name failed:"
    tail -20 "$folder/log"
  fi
}

check CustomArchitecture custom/red-right.gif 20 custom
check ComposeTrainingStage out/squares.gif 4
check Generate videos/a-goat-7.mp4 "a goat" --steps 2 --seed 7 --out videos
check GenerateWithDependencyInjection out/postcard-1.mp4
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
