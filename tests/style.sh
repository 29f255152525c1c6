#!/usr/bin/env bash
# Checks the format of the code: CSharpier, and lines of at most 150 characters. Fix with: dotnet tool restore && dotnet csharpier format .
set -uo pipefail
cd "$(dirname "$0")/.."
# 'dotnet tool restore' leaves an empty folder in the temporary folder, so it gets one that is deleted.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
TMPDIR=$folder dotnet tool restore --verbosity quiet > /dev/null || { echo "dotnet tool restore failed"; exit 1; }
dotnet csharpier check src tests samples benchmarks recipes || exit 1
long=$(find src tests samples benchmarks recipes -name '*.cs' -not -path '*/obj/*' -not -path '*/bin/*' -exec awk 'length > 150 { print FILENAME ":" FNR ": more than 150 characters" }' {} +)
[ -z "$long" ] || { echo "$long"; exit 1; }
