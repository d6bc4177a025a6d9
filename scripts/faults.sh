#!/usr/bin/env bash
# Tries every fault of tests/faults against the real program, and writes what came out as a table.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

usage() {
    cat <<TEXT
usage: scripts/faults.sh [--short] [--rounds N] [--seed N] [--readme] [--table FILE] [F1 F2 ...]

Builds plimsoll in build/ (Release) and injects the faults named, by default all, into tiny runs of it.
  --short      fewer points of each (the selection of ctest -L faults; minutes, where all take half an hour)
  --rounds N   random kills of F1 (200, with --short 10)
  --seed N     of what is random (1)
  --readme     put the table into README.md, between its markers
  --table FILE write the table there
TEXT
}

arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --readme) arguments+=(--readme README.md) ;;
        -h | --help) usage; exit 0 ;;
        *) arguments+=("$1") ;;
    esac
    shift
done

command -v mpirun >/dev/null || { echo "faults: mpirun is missing (apt-get install openmpi-bin libopenmpi-dev)" >&2; exit 2; }
step "Build"
configure_build build >build/faults_configure.txt
build_all build plimsoll crash_shim
end_step
exec python3 tests/faults/matrix.py --program build/plimsoll --shim build/libcrash_shim.so "${arguments[@]}"
