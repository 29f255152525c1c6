#!/usr/bin/env bash
# Packs the library and uses the packages as an application developer does, in a folder outside the repository: a console program, a web application, a
# program in one file, a project made by the template, and the command opensora. Without libtorch, a program must report which package to reference.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tests=$repository/tests/Packages
folder=$(mktemp -d)
web=
trap '[ -z "$web" ] || kill "$web" 2>/dev/null; rm -rf "$folder"' EXIT
mkdir "$folder/tmp" && export TMPDIR=$folder/tmp # commands of the SDK leave empty folders in it
fail() { echo "tests/Packages: $*" >&2; exit 1; }
quiet() { "$@" >"$folder/log" 2>&1 || { cat "$folder/log"; fail "this command failed: $*"; }; }

for project in src/OpenSora src/OpenSora.Stickers src/OpenSora.Cli templates; do
  quiet dotnet pack "$repository/$project" -c Release -nodeReuse:false --verbosity quiet -tl:off -o "$folder/packages"
done
"$tests/check.sh" "$folder/packages" || fail "the packages are not complete"
version=$(basename "$folder"/packages/OpenSora.Lib.Stickers.*.nupkg .nupkg) && version=${version#OpenSora.Lib.Stickers.}

# The package sources are those of the machine and our folder. Our packages are restored to a temporary folder; the others come from the global packages
# folder of this machine.
global=$(dotnet nuget locals global-packages --list | sed 's/^global-packages: //')
export RestoreAdditionalProjectSources=$folder/packages RestorePackagesPath=$folder/cache RestoreFallbackFolders=$global
build() {
  quiet dotnet build "$@" -c Release -nodeReuse:false --verbosity quiet -tl:off
}
has_frames() { # FILE COUNT
  [ "$(ffprobe -v error -count_frames -select_streams v -show_entries stream=nb_read_frames -of csv=p=0 "$1")" = "$2" ] || fail "$1 does not contain $2 frames"
}

# A console program of two package references and six lines.
mkdir "$folder/App" && cd "$folder/App"
sed "s/OPENSORA_VERSION/$version/" "$tests/App.csproj.txt" >App.csproj
cp "$tests/Program.cs.txt" Program.cs
build -p:LibTorch=libtorch-cpu-linux-x64
"$(find bin -name App -type f)" >out.log 2>&1 || { cat out.log; fail "the program failed"; }
grep -q '^sum 3$' out.log || fail "TorchSharp computed a wrong result"
has_frames goat.mp4 8

rm -rf bin obj
build -p:LibTorch=
"$(find bin -name App -type f)" >out.log 2>&1 && fail "the program ran without libtorch"
grep -q 'Reference the package TorchSharp-cpu' out.log || { cat out.log; fail "the missing package is not named"; }
[ "$(wc -l <out.log)" -lt 30 ] || fail "the message about libtorch has $(wc -l <out.log) lines"

# A web application of four lines of set-up and one endpoint.
mkdir "$folder/Web" && cd "$folder/Web"
sed -e "s/OPENSORA_VERSION/$version/" -e 's/Microsoft.NET.Sdk/&.Web/' "$tests/App.csproj.txt" >Web.csproj
cp "$tests/Web.cs.txt" Program.cs
build -p:LibTorch=libtorch-cpu-linux-x64
"$(find bin -name Web -type f)" --urls http://127.0.0.1:0 >out.log 2>&1 &
web=$!
address=
for _ in $(seq 300); do
  address=$(sed -n 's/.*Now listening on: //p' out.log)
  [ -z "$address" ] || break
  kill -0 "$web" 2>/dev/null || { cat out.log; fail "the web application ended"; }
  sleep 0.2
done
[ -n "$address" ] || { cat out.log; fail "the web application did not start"; }
no_proxy=127.0.0.1 has_frames "$address/videos?prompt=a+goat" 8
kill "$web" && wait "$web" 2>/dev/null || true
web=

# The sample in one file.
mkdir "$folder/FileBased" && cd "$folder/FileBased"
sed "s/@\*-\*/@$version/" "$repository/samples/FileBased/video.cs" >video.cs
quiet dotnet run video.cs "a goat"
[ -s video.mp4 ] || fail "samples/FileBased/video.cs did not write video.mp4"

# The template.
cd "$folder"
quiet dotnet new install "$folder/packages/OpenSora.Lib.Templates.$version.nupkg" --debug:custom-hive "$folder/hive"
quiet dotnet new opensora-app -o "$folder/My.Videos" --no-restore --debug:custom-hive "$folder/hive"
build "$folder/My.Videos"
grep -q OpenSora.App -r "$folder/My.Videos" --include=*.cs --include=*.csproj && fail "the template's name is not replaced"

# The command, with and without libtorch.
quiet dotnet tool install OpenSora.Lib.Cli --version "$version" --tool-path "$folder/tools" --source "$folder/packages"
"$folder/tools/opensora" inspect "$repository/models/stickers" >"$folder/log" 2>&1 || { cat "$folder/log"; fail "opensora inspect failed"; }
grep -q fits "$folder/log" || { cat "$folder/log"; fail "opensora inspect does not recognize the model"; }
NUGET_PACKAGES=$folder/nothing "$folder/tools/opensora" inspect "$repository/models/stickers" >"$folder/log" 2>&1 || { cat "$folder/log"; fail "opensora inspect failed without libtorch"; }
grep -q "opensora setup" "$folder/log" || { cat "$folder/log"; fail "opensora inspect does not name the command that installs libtorch"; }
