#!/usr/bin/env bash
# The project's one script. Each verb does the set-up it needs, says what it installs, and is quick when all is there.
#   ./build.sh setup            what the machine needs: compiler, libtorch, ffmpeg; decides where TorchSharp comes from
#   ./build.sh demo [PROMPT]    makes a video with the shipped model, into out/
#   ./build.sh test             builds everything and runs all tests
#   ./build.sh golden DIR       checks our numbers against recorded ones, a line a case
#   ./build.sh bench [NAME]     the benchmarks
#   ./build.sh pack             the NuGet packages, into out/packages/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1

say() { printf '%s\n' "$*" >&2; }
fail() { say "build.sh: $*"; exit 1; }

# Debian packages that the System set compiles and runs with.
debian_packages=(g++ libtorch-dev libopenblas0-pthread ffmpeg)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else fail "not root and no sudo: run '$*' yourself, then call again."; fi
}

install_debian_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "Installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Names those packages of DependencySet=NuGet that the machine's package sources do not serve, or not in the version that is asked for (NU1603: another was found).
not_served() {
  local probe log
  probe=$(mktemp -d)
  {
    echo '<Project Sdk="Microsoft.NET.Sdk"><PropertyGroup><TargetFramework>net10.0</TargetFramework></PropertyGroup><ItemGroup>'
    sed -nE '/"(TorchSharp|TorchSharp-cpu|Microsoft\.ML\.Tokenizers|SixLabors\.ImageSharp|FFMpegCore)"/s/PackageVersion/PackageReference/p' Directory.Packages.props
    echo '</ItemGroup></Project>'
  } >"$probe/Probe.csproj"
  if log=$(dotnet restore "$probe/Probe.csproj" --verbosity quiet -warnaserror:NU1603 2>&1); then rm -rf "$probe"; return; fi
  rm -rf "$probe"
  missing_packages "$log" | grep . || { say "$log" >&2; fail "the package sources do not answer; is the network up?"; }
}

# The packages that a restore did not find.
missing_packages() {
  { grep -E 'NU1101|NU1102' <<<"$1" | sed -nE 's/.*Unable to find package ([A-Za-z0-9._-]*[A-Za-z0-9]).*/\1/p'
    grep -E 'NU1603' <<<"$1" | sed -nE 's/.*but ([A-Za-z0-9._-]+) ([0-9][^ ]*) was not found.*/\1 \2/p'; } | sort -u | paste -sd, | sed 's/,/, /g'
}

# Whether the system's libstdc++ is as new as TorchSharp's native part needs it; elsewhere than on Linux it brings along what it needs.
runs_torchsharp() {
  [ "$(uname)" = Linux ] || return 0
  local library
  library=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk '/libstdc\+\+\.so\.6 .*'"$(uname -m | tr _ -)"'/ {print $NF; exit}')
  [ -z "$library" ] || grep -q GLIBCXX_3.4.32 "$library"
}

dependency_set() {
  if [ -n "${DependencySet:-}" ]; then echo "$DependencySet"; return; fi
  if [ ! -f Directory.DependencySet.props ]; then
    local set=NuGet missing why='the package sources serve its packages'
    missing=$(not_served) || exit 1
    if [ -n "$missing" ]; then
      set=System why="the package sources do not serve $missing: the binding in src/OpenSora.Torch"
    elif ! runs_torchsharp; then
      set=System why="TorchSharp's native part needs the libstdc++ of GCC 13, and this system's is older: the binding in src/OpenSora.Torch"
    fi
    say "DependencySet: $set ($why)"
    cat >Directory.DependencySet.props.tmp <<XML
<Project>
  <PropertyGroup>
    <DependencySet Condition="'\$(DependencySet)' == ''">$set</DependencySet>
  </PropertyGroup>
</Project>
XML
    mv Directory.DependencySet.props.tmp Directory.DependencySet.props
  fi
  sed -n 's|.*<DependencySet[^>]*>\(.*\)</DependencySet>.*|\1|p' Directory.DependencySet.props
}

setup() {
  command -v dotnet >/dev/null || fail "the .NET SDK 10 is needed: https://dot.net"
  local set
  set=$(dependency_set)
  case $set in
    System)
      if command -v dpkg-query >/dev/null; then
        if [ -n "${LIBTORCH:-}" ]; then install_debian_packages g++ ffmpeg; else install_debian_packages "${debian_packages[@]}"; fi
      else
        command -v g++ >/dev/null && command -v ffmpeg >/dev/null || fail "DependencySet=System needs g++, ffmpeg and libtorch with headers (set LIBTORCH to its folder)."
      fi ;;
    NuGet) command -v ffmpeg >/dev/null || say "ffmpeg is not on the PATH: videos can be made but not written." ;;
    *) fail "DependencySet is '$set'; it must be NuGet or System." ;;
  esac
  export DependencySet=$set
}

restore() {
  local log
  if ! log=$(dotnet restore "$1" --verbosity quiet 2>&1); then
    local names
    names=$(missing_packages "$log")
    [ -n "$names" ] || { say "$log"; exit 1; }
    fail "the package sources do not serve: $names
DependencySet=$DependencySet needs them. Either configure a package source that serves them (nuget.config inherits the machine's),
or use the libtorch and ffmpeg of this machine instead: DependencySet=System ./build.sh $verb"
  fi
}

build() {
  restore "$1"
  dotnet build "$1" --no-restore -c Release -nodeReuse:false --verbosity quiet -clp:"NoSummary;ErrorsOnly" -tl:off "${@:2}"
}

run_tests() {
  local passed=0 failed=0 project log line code
  for project in tests/*.Tests; do
    [ "$DependencySet" = NuGet ] && [ "$project" = tests/OpenSora.Torch.Tests ] && continue
    local build_output
    build_output=$(ls "$project"/bin/Release/net10.0/"$(basename "$project")".dll)
    log=$(mktemp)
    code=0
    dotnet "$build_output" -noColor 2>&1 | tee "$log" || code=$?
    line=$(grep -E 'Total: [0-9]+, Errors: ' "$log" | tail -1 || true)
    rm -f "$log"
    [ -n "$line" ] || { say "$project ended without a summary (exit $code)"; failed=$((failed + 1)); continue; }
    local total errors failures skipped
    total=$(sed -E 's/.*Total: ([0-9]+).*/\1/' <<<"$line"); errors=$(sed -E 's/.*Errors: ([0-9]+).*/\1/' <<<"$line")
    failures=$(sed -E 's/.*Failed: ([0-9]+).*/\1/' <<<"$line"); skipped=$(sed -E 's/.*Skipped: ([0-9]+).*/\1/' <<<"$line")
    failed=$((failed + failures + errors))
    passed=$((passed + total - failures - skipped))
  done
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

verb=${1:-help}
[ $# -gt 0 ] && shift
case $verb in
  setup) setup; say "Ready ($DependencySet)." ;;
  demo)
    setup
    build samples/Generate
    if [ $# = 0 ]; then set -- "a goat"; fi
    dotnet samples/Generate/bin/Release/net10.0/Generate.dll "$@" ;;
  test)
    setup
    build OpenSora.Lib.sln
    # Few threads: the numbers of a run must not depend on how many cores the machine has.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} run_tests ;;
  golden)
    [ $# -ge 1 ] || fail "which folder? ./build.sh golden DIR"
    folder=$(realpath "$1"); shift
    setup
    build tests/OpenSora.Goldens
    dotnet tests/OpenSora.Goldens/bin/Release/net10.0/OpenSora.Goldens.dll "$folder" "$@" ;;
  bench)
    setup
    build benchmarks/OpenSora.Benchmarks
    dotnet benchmarks/OpenSora.Benchmarks/bin/Release/net10.0/OpenSora.Benchmarks.dll "$@" ;;
  pack)
    setup
    [ "$DependencySet" = NuGet ] || fail "packages are built with DependencySet=NuGet (TorchSharp as a package); this machine's set is $DependencySet."
    restore OpenSora.Lib.sln
    dotnet pack OpenSora.Lib.sln -c Release -nodeReuse:false -o out/packages ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" ;;
esac
