#!/usr/bin/env bash
# Uses the packages as an application developer does, in a folder outside the repository.
#   tests/Packages/run.sh FOLDER    all uses of the packages in FOLDER: a console program, a web application, a program in one file, a project made by
#                                   the template, and the command opensora, with and without libtorch
#   tests/Packages/run.sh           the console program only, with packages that it builds
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tests=$repository/tests/Packages
packages=${1:+$(realpath "$1")}
folder=$(mktemp -d)
web=
trap '[ -z "$web" ] || kill "$web" 2>/dev/null; rm -rf "$folder"' EXIT
mkdir "$folder/tmp" && export TMPDIR=$folder/tmp # commands of the SDK leave empty folders in it
fail() { echo "tests/Packages: $*" >&2; exit 1; }
quiet() { "$@" >"$folder/log" 2>&1 || { cat "$folder/log"; fail "this command failed: $*"; }; }
done_with() { echo "tests/Packages: $1, $SECONDS s"; SECONDS=0; }

if [ -z "$packages" ]; then
  packages=$folder/packages
  for project in OpenSora OpenSora.Stickers; do
    quiet dotnet pack "$repository/src/$project" -c Release -nodeReuse:false --verbosity quiet -tl:off -o "$packages"
  done
fi
version=$(basename "$packages"/OpenSora.Lib.Stickers.*.nupkg .nupkg) && version=${version#OpenSora.Lib.Stickers.}

# The package sources are those of the machine and our folder. Our packages are restored to a temporary folder; the others come from the global packages
# folder of this machine, so that libtorch is not downloaded and extracted again.
global=$(dotnet nuget locals global-packages --list | sed 's/^global-packages: //')
export RestoreAdditionalProjectSources=$packages RestorePackagesPath=$folder/cache RestoreFallbackFolders=$global
build() {
  quiet dotnet build "$@" -c Release -nodeReuse:false --verbosity quiet -tl:off
}
has_frames() { # FILE COUNT
  [ "$(ffprobe -v error -count_frames -select_streams v -show_entries stream=nb_read_frames -of csv=p=0 "$1")" = "$2" ] || fail "$1 does not contain $2 frames"
}
# Starts the web application of this folder and requests a video from it.
serves() { # NAME FRAMES
  local address=
  "$(find bin -name "$1" -type f)" --urls http://127.0.0.1:0 >out.log 2>&1 &
  web=$!
  for _ in $(seq 300); do
    address=$(sed -n 's/.*Now listening on: //p' out.log)
    [ -z "$address" ] || break
    kill -0 "$web" 2>/dev/null || { cat out.log; fail "the web application $1 ended"; }
    sleep 0.2
  done
  [ -n "$address" ] || { cat out.log; fail "the web application $1 did not start"; }
  no_proxy=127.0.0.1 has_frames "$address/videos?prompt=a+goat" "$2"
  kill "$web" && wait "$web" 2>/dev/null || true
  web=
}

# A console program of two package references and six lines. Its first native call is TorchSharp's own, before any type of OpenSora.
mkdir "$folder/App" && cd "$folder/App"
sed "s/OPENSORA_VERSION/$version/" "$tests/App.csproj.txt" >App.csproj
cp "$tests/Program.cs.txt" Program.cs
[ "$(grep -c . Program.cs)" -le 6 ] && [ "$(grep -c '<PackageReference' App.csproj)" = 2 ] || fail "the program needs more than two references and six lines"
build -p:LibTorch=libtorch-cpu-linux-x64
"$(find bin -name App -type f)" >out.log 2>&1 || { cat out.log; fail "the program failed"; }
grep -q '^sum 3$' out.log || fail "TorchSharp computed a wrong result"
has_frames goat.mp4 8

rm -rf bin obj
build -p:LibTorch=
"$(find bin -name App -type f)" >out.log 2>&1 && fail "the program ran without libtorch"
grep -q 'Reference the package TorchSharp-cpu' out.log || { cat out.log; fail "the missing package is not named"; }
[ "$(wc -l <out.log)" -lt 30 ] || fail "the message about libtorch has $(wc -l <out.log) lines"
done_with "console program"
[ $# -gt 0 ] || exit 0

# A web application of four lines of set-up and one endpoint.
mkdir "$folder/Web" && cd "$folder/Web"
sed -e "s/OPENSORA_VERSION/$version/" -e 's/Microsoft.NET.Sdk/&.Web/' "$tests/App.csproj.txt" >Web.csproj
cp "$tests/Web.cs.txt" Program.cs
[ "$(sed '/MapGet/,$d' Program.cs | grep -c .)" -le 4 ] || fail "the web application needs more than four lines of set-up"
build -p:LibTorch=libtorch-cpu-linux-x64
serves Web 8
rm -rf bin
done_with "web application"

# The sample in one file. The SDK builds it in a folder of the user's data.
mkdir "$folder/FileBased" && cd "$folder/FileBased"
sed "s/@\*-\*/@$version/" "$repository/samples/FileBased/video.cs" >video.cs
mkdir "$folder/data"
XDG_DATA_HOME=$folder/data quiet dotnet run video.cs "a goat"
has_frames video.mp4 24
rm -rf "$folder/data"
done_with "program in one file"

# The template.
cd "$folder"
quiet dotnet new install "$packages/OpenSora.Lib.Templates.$version.nupkg" --debug:custom-hive "$folder/hive"
quiet dotnet new opensora-app -o "$folder/My.Videos" --debug:custom-hive "$folder/hive"
grep -q OpenSora.App -r "$folder/My.Videos" --include=*.cs --include=*.csproj && fail "the template's name is not replaced"
cd "$folder/My.Videos"
build
serves My.Videos 24
rm -rf bin
done_with "template"

# The command, with and without libtorch.
quiet dotnet tool install OpenSora.Lib.Cli --version "$version" --tool-path "$folder/tools" --source "$packages"
opensora() { "$folder/tools/opensora" "$@" >"$folder/log" 2>&1 || { cat "$folder/log"; fail "opensora $* failed"; }; }
opensora inspect "$repository/models/stickers"
grep -q fits "$folder/log" || { cat "$folder/log"; fail "opensora inspect does not recognize the model"; }
NUGET_PACKAGES=$folder/nothing opensora inspect "$repository/models/stickers"
grep -q "opensora setup" "$folder/log" || { cat "$folder/log"; fail "opensora inspect does not name the command that installs libtorch"; }
grep -qw tensors "$folder/log" || { cat "$folder/log"; fail "opensora inspect does not show the tensors without libtorch"; }
opensora setup
done_with "command"
