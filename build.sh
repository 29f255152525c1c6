#!/usr/bin/env bash
# The project's build script. Each verb performs the setup that it needs and prints what it installs.
#   ./build.sh setup            installs ffmpeg if it is missing (Debian and Ubuntu); the only other requirement is the .NET SDK
#   ./build.sh demo [PROMPT]    generates a video with the bundled model, in out/
#   ./build.sh test             builds everything and runs all tests; it installs what only tests need if it is missing (Debian and Ubuntu)
#   ./build.sh browser          runs the tests of the page of samples/Studio in headless Chromium, which it installs if it is missing (Debian)
#   ./build.sh golden DIR       compares the library's numbers with recorded ones, one line per case
#   ./build.sh bench [NAME]     runs the benchmarks
#   ./build.sh pack             creates the NuGet packages in out/packages/ and checks them
#   ./build.sh packages         does the same, and uses the packages as an application developer does
#   ./build.sh api [PROJECT...] records the public API of libraries, such as OpenSora.Training, in src/*/PublicAPI.Unshipped.txt
#   ./build.sh docs             creates the documentation with the API reference in out/docs/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1

say() { printf '%s\n' "$*" >&2; }
fail() { say "build.sh: $*"; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else fail "root privileges are required and sudo is not available: run '$*' as root, then try again."; fi
}

# Installs a Debian package if one of its commands is missing.
install_package() { # PACKAGE WHERE COMMAND...
  local package=$1 where=$2 command missing=
  shift 2
  for command in "$@"; do command -v "$command" >/dev/null || missing=1; done
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || fail "$* must be on the PATH: $where"
  say "Installing the Debian package $package"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
}

setup() {
  command -v dotnet >/dev/null || fail "the .NET SDK 10 is required: https://dot.net"
  install_package ffmpeg https://ffmpeg.org ffmpeg ffprobe
}

# What only the tests need. Where there is no apt-get, the tests with several processes are skipped if MPICH is missing.
setup_tests() {
  setup
  install_package redis-server https://redis.io redis-server
  if command -v apt-get >/dev/null; then install_package mpich https://www.mpich.org mpirun.mpich; fi
}

# Runs a command of the SDK. Commands such as build and restore leave empty folders in the temporary folder, so they get one that is deleted.
scratch=
sdk() {
  if [ -z "$scratch" ]; then scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT; fi
  TMPDIR=$scratch dotnet "$@"
}

build() {
  sdk build "$1" -c Release -nodeReuse:false --verbosity quiet -clp:"NoSummary;ErrorsOnly" -tl:off "${@:2}"
}

restore_tools() {
  sdk tool restore --verbosity quiet >/dev/null || fail "the tools in .config/dotnet-tools.json cannot be restored: run 'dotnet tool restore' for the reason"
}

run_tests() {
  local passed=0 failed=0 project log line code failures_text=
  for project in tests/*.Tests; do
    local build_output
    build_output=$(ls "$project"/bin/Release/net10.0/"$(basename "$project")".dll)
    log=$(mktemp)
    code=0
    # On some processors libtorch repeats the warning about NNPACK for every thread.
    dotnet "$build_output" -noColor 2>&1 | grep --line-buffered -v 'Could not initialize NNPACK' | tee "$log" || code=$?
    line=$(grep -E 'Total: [0-9]+, Errors: ' "$log" | tail -1 || true)
    failures_text+=$(grep -A 15 -E ' \[FAIL\]$' "$log" || true)$'\n'
    rm -f "$log"
    [ -n "$line" ] || { say "$project ended without a summary (exit $code)"; failed=$((failed + 1)); continue; }
    local total errors failures skipped
    total=$(sed -E 's/.*Total: ([0-9]+).*/\1/' <<<"$line"); errors=$(sed -E 's/.*Errors: ([0-9]+).*/\1/' <<<"$line")
    failures=$(sed -E 's/.*Failed: ([0-9]+).*/\1/' <<<"$line"); skipped=$(sed -E 's/.*Skipped: ([0-9]+).*/\1/' <<<"$line")
    failed=$((failed + failures + errors))
    passed=$((passed + total - failures - skipped))
  done
  line=$(tests/Samples/run.sh || true)
  echo "$line"
  line=$(tail -1 <<<"$line")
  passed=$((passed + $(sed -E 's/^([0-9]+) passed, ([0-9]+) failed$/\1/' <<<"$line")))
  failed=$((failed + $(sed -E 's/^([0-9]+) passed, ([0-9]+) failed$/\2/' <<<"$line")))
  if tests/style.sh; then passed=$((passed + 1)); else failed=$((failed + 1)); failures_text+="tests/style.sh"$'\n'; fi
  if tests/Packages/run.sh; then passed=$((passed + 1)); else failed=$((failed + 1)); failures_text+="tests/Packages/run.sh"$'\n'; fi
  [ "$failed" = 0 ] || { echo "What failed, again:"; grep . <<<"$failures_text" || true; }
  echo "$passed passed, $failed failed"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

pack() {
  setup
  rm -rf out/packages
  for project in src/*/ templates; do
    sdk pack "$project" -c Release -nodeReuse:false --verbosity quiet -tl:off -p:ContinuousIntegrationBuild=true -o out/packages "$@"
  done
  ls -l out/packages
  tests/Packages/check.sh out/packages || fail "the packages are not complete"
}

verb=${1:-help}
[ $# -gt 0 ] && shift
case $verb in
  setup) setup; say "Ready." ;;
  demo)
    setup
    build samples/Generate
    if [ $# = 0 ]; then set -- "a goat"; fi
    dotnet samples/Generate/bin/Release/net10.0/Generate.dll "$@" ;;
  test)
    setup_tests
    build OpenSora.Lib.sln
    # Few threads, so that results do not depend on the number of cores of the machine.
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} run_tests ;;
  browser)
    # Not part of 'test': the package Microsoft.Playwright and Chromium are several hundred megabytes.
    setup
    if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
      install_package chromium https://www.chromium.org chromium
    fi
    build tests/OpenSora.Studio.Browser
    dotnet tests/OpenSora.Studio.Browser/bin/Release/net10.0/OpenSora.Studio.Browser.dll -noColor "$@" ;;
  golden)
    [ $# -ge 1 ] || fail "missing folder. Usage: ./build.sh golden DIR"
    folder=$(realpath "$1"); shift
    setup
    build tests/OpenSora.Goldens
    dotnet tests/OpenSora.Goldens/bin/Release/net10.0/OpenSora.Goldens.dll "$folder" "$@" ;;
  bench)
    setup
    build benchmarks/OpenSora.Benchmarks
    dotnet benchmarks/OpenSora.Benchmarks/bin/Release/net10.0/OpenSora.Benchmarks.dll "$@" ;;
  pack) pack "$@" ;;
  packages)
    pack "$@"
    tests/Packages/run.sh out/packages ;;
  api)
    [ $# -gt 0 ] || set -- $(cd src && dirname */PublicAPI.Unshipped.txt)
    for project in "$@"; do
      file=src/$project/PublicAPI.Unshipped.txt
      [ -f "$file" ] || fail "$file does not exist"
      echo '#nullable enable' >"$file"
      sdk format analyzers "src/$project" --severity warn --diagnostics RS0016
    done ;;
  docs)
    rm -rf out/docs out/obj/api
    restore_tools
    sdk docfx docfx.json --logLevel Warning --warningsAsErrors
    say "To read it in a browser: dotnet docfx serve out/docs" ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" ;;
esac
