#!/usr/bin/env bash
# Checks the packages in a folder: readme, icon, license, symbols, links, sizes, and no paths of this machine. Usage: tests/Packages/check.sh FOLDER
set -uo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$1"
extracted=$(mktemp -d)
trap 'rm -rf "$extracted"' EXIT
problems=0
problem() { echo "$1: $2" >&2; problems=$((problems + 1)); }

shopt -s nullglob
packages=(*.nupkg)
[ ${#packages[@]} -gt 0 ] || problem "$1" "there are no packages"
# MSBuild extracts them, because unzip is not installed everywhere.
cat >"$extracted/extract.proj" <<EOF
<Project>
  <ItemGroup><Package Include="$PWD/*.nupkg" /></ItemGroup>
  <Target Name="Extract"><Unzip SourceFiles="%(Package.FullPath)" DestinationFolder="$extracted/%(Package.Filename)%(Package.Extension)" /></Target>
</Project>
EOF
TMPDIR=$extracted dotnet msbuild "$extracted/extract.proj" -nodeReuse:false -verbosity:quiet -tl:off || exit 1

for package in "${packages[@]}"; do
  content=$extracted/$package
  files=$(cd "$content" && find . -type f | sed 's|^\./||')
  nuspec=$(cat "$content"/*.nuspec)
  for file in README.md icon.png; do
    grep -qx "$file" <<<"$files" || problem "$package" "there is no $file"
  done
  grep -q '<license type="expression">' <<<"$nuspec" || problem "$package" "there is no license expression"
  grep -q '<description>' <<<"$nuspec" || problem "$package" "there is no description"
  relative=$(grep -oE '\]\([^)]*\)' "$content/README.md" | grep -vE '\((https?://|#)')
  [ -z "$relative" ] || problem "$package" "the readme has relative links: $relative"
  if grep -qE '^lib/.*\.dll$' <<<"$files"; then
    [ -f "${package%.nupkg}.snupkg" ] || problem "$package" "there is no symbol package"
    grep -qE '^lib/.*\.xml$' <<<"$files" || problem "$package" "there is no XML documentation"
  fi
  # The path of the symbols is in each assembly; /_/ stands for the repository, so that the same sources give the same assembly in every folder.
  paths=$(find "$content" -name 'OpenSora*.dll' -exec grep -lF "$repository/" {} +)
  [ -z "$paths" ] || problem "$package" "paths of this machine are in $paths"
  if [[ $package != OpenSora.Lib.Stickers.* ]] && [ "$(stat -c %s "$package")" -gt 100000000 ]; then
    problem "$package" "the package is larger than 100 MB"
  fi
done
[ "$problems" = 0 ]
