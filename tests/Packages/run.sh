#!/usr/bin/env bash
# Packs the library and builds a program that references the packages, in a folder outside the repository. The program must generate a video; without
# libtorch, it must report which package to reference.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/tmp" && export TMPDIR=$folder/tmp # commands of the SDK leave empty folders in it
fail() { echo "tests/Packages: $*" >&2; exit 1; }

for project in OpenSora OpenSora.Stickers; do
  dotnet pack "$repository/src/$project" -c Release -nodeReuse:false --verbosity quiet -tl:off -o "$folder/packages" >"$folder/pack.log" || { cat "$folder/pack.log"; fail "$project cannot be packed"; }
done
"$repository/tests/Packages/check.sh" "$folder/packages" || fail "the packages are not complete"
version=$(basename "$folder"/packages/OpenSora.Lib.Stickers.*.nupkg .nupkg) && version=${version#OpenSora.Lib.Stickers.}
mkdir "$folder/app" && cd "$folder/app"
sed "s/OPENSORA_VERSION/$version/" "$repository/tests/Packages/App.csproj.txt" >App.csproj
cp "$repository/tests/Packages/Program.cs.txt" Program.cs
# Our packages are restored to a temporary folder; the others come from the global packages folder of this machine.
global=$(dotnet nuget locals global-packages --list | sed 's/^global-packages: //')
build() {
  rm -rf bin obj
  dotnet build -c Release -nodeReuse:false --verbosity quiet -tl:off -p:UseCurrentRuntimeIdentifier=true -p:SelfContained=false -p:LibTorch="$1" \
    -p:RestoreAdditionalProjectSources="$folder/packages" -p:RestorePackagesPath="$folder/cache" -p:RestoreFallbackFolders="$global" >build.log || { cat build.log; fail "the program does not build"; }
}

build libtorch-cpu-linux-x64
"$(find bin -name App -type f)" >out.log 2>&1 || { cat out.log; fail "the program failed"; }
grep -q '^sum 3$' out.log || fail "TorchSharp computed a wrong result"
[ "$(ffprobe -v error -count_frames -select_streams v -show_entries stream=nb_read_frames -of csv=p=0 goat.mp4)" = 8 ] || fail "goat.mp4 does not contain 8 frames"

build ''
"$(find bin -name App -type f)" >out.log 2>&1 && fail "the program ran without libtorch"
grep -q 'Reference the package TorchSharp-cpu' out.log || { cat out.log; fail "the missing package is not named"; }
[ "$(wc -l <out.log)" -lt 30 ] || fail "the message about libtorch has $(wc -l <out.log) lines"
