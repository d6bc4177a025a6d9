#!/usr/bin/env bash
# Installs what is missing, builds, runs the tests, and ends with ctest's own summary.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

slow='cuda|dist|cad|faults|slurm|gguf|fuzz' # the labels of the long tiers, run by --all
selection=(-LE "^($slow)\$")

usage() {
    cat <<TEXT
usage: scripts/test.sh [--all | -L LABEL]...

Builds plimsoll in build/ (Release) and runs its tests with ctest.
  --all      every test this machine can run; by default all but the labels ${slow//|/, }.
             The emulated CUDA tests are then built with line counters (PLIMSOLL_COVERAGE), which build/ keeps
  -L LABEL   only tests with this label; may be given several times
TEXT
}

labels=""
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --all)
            selection=()
            options=(-DPLIMSOLL_COVERAGE=ON) # the test cuda_coverage then needs no build of its own
            ;;
        -L)
            [ -n "${2:-}" ] || { echo "test: -L wants a label" >&2; exit 2; }
            labels="${labels:+$labels|}$2"
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "test: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ -z "$labels" ] || selection=(-L "^($labels)\$")

step "Install what is missing"
tests=()
[[ ${#selection[@]} -gt 0 && ! $labels =~ slurm ]] || tests=(--tests)
scripts/install_dependencies.sh "${tests[@]}"

step "Configure"
configure_build build "${options[@]}"

step "Build"
build_all build

step "Test"
summary=build/ctest_summary.txt
: >"$summary"
status=0
# The summary is held back, so that it is the last thing on the screen.
ctest --test-dir build --output-on-failure --no-tests=error -j "$(nproc)" "${selection[@]}" 2>&1 | awk -v held="$summary" '
    /^[0-9]+% tests passed/ { hold = 1 }
    hold { print > held; next }
    { print; fflush() }' || status=$?
end_step

printf '\nMinutes per phase\n'
for i in "${!STEP_NAMES[@]}"; do
    awk -v name="${STEP_NAMES[$i]}" -v s="${STEP_SECONDS[$i]}" 'BEGIN { printf "  %-28s %6.1f\n", name, s / 60 }'
done
awk '/ sec\*proc / { printf "  %-28s %6.1f  (processor time)\n", "label " $1, $3 / 60 }' "$summary"
printf '\n'
cat "$summary"
exit $status
