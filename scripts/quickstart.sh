#!/usr/bin/env bash
# From a fresh Debian or Ubuntu to a report about attention sinks: installs, builds, trains, reports.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

variants=(softmax sigmoid gated gated_headwise placeholder)
runs=runs/quickstart
overrides=()

usage() {
    cat <<'TEXT'
usage: scripts/quickstart.sh [--steps N]

Installs what is missing, builds plimsoll, trains softmax, sigmoid, gated (element-wise and head-wise) and
placeholder-token attention on the Bigram-Backcopy task from the same weights and data, and writes the report.
Run it again at any time: it resumes what was interrupted and repeats nothing that is done.
  --steps N   train N steps instead of the configured number (its own directory: runs/quickstart-N-steps)
TEXT
}

while [ $# -gt 0 ]; do
    case $1 in
        --steps)
            case "${2:-}" in "" | *[!0-9]* | 0*) echo "quickstart: --steps wants a number above 0" >&2; exit 2 ;; esac
            overrides=(--set "train.max_steps=$2")
            runs=runs/quickstart-$2-steps
            shift 2
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "quickstart: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
done

step "Install what is missing"
scripts/install_dependencies.sh

step "Configure"
configure_build build

step "Build"
build_all build plimsoll

for variant in "${variants[@]}"; do
    step "Train $variant"
    status=0
    build/plimsoll train configs/quickstart.toml --variant "$variant" --run-dir "$runs/$variant" --resume auto \
        "${overrides[@]}" || status=$?
    if [ $status -eq 85 ]; then
        echo "quickstart: interrupted, and saved; the same command resumes from here" >&2
        exit 85
    elif [ $status -ne 0 ]; then
        echo "quickstart: training '$variant' ended with exit status $status; its messages stand above" >&2
        exit $status
    fi
done

step "Report"
status=0
scripts/report.py "$runs"/* --out "$runs/report" --title "Attention sinks in four attentions, one recipe" || status=$?
if [ $status -eq 2 ] && [ -e .deps/libraries/VERSIONS ]; then # a machine without network, and without pandas
    echo "quickstart: the runs are done; for the report copy $runs to a machine with pandas and matplotlib, and there:"
    echo "    scripts/report.py $runs/* --out $runs/report"
    exit 0
fi
[ $status -eq 0 ] || exit $status
end_step

printf '\nDone in %s:\n' "$(duration $SECONDS)"
step_times
printf '\nThe report: %s\nThe numbers: %s\n' "$PWD/$runs/report/report.html" "$PWD/$runs/report/summary.json"
