#!/usr/bin/env bash
# Everything that needs a GPU, on a bare machine with nvcc, CMake and a C++ compiler: builds, then conformance of the
# instructions, the tests, a training run against the CPU's, several ranks on one card, and with PyTorch the speed of
# kernels and of whole steps against it. Each stage fits ten minutes on one GPU with 16 cores. Leaves the card's settings
# alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/common.sh

stages="conformance test train ranks kernels steps"
out=${OUT:-runs/gpu_check}
dry_run=

usage() {
    cat <<TEXT
usage: scripts/gpu_check.sh [--stage NAME]... [--out DIR] [--dry-run]

Builds in build-cuda/ (Release, CUDA on) and runs the stages: $stages.
  --stage NAME  only this stage; may be given several times
  --out DIR     where logs and the hardware's answers go (default: \$OUT, else runs/gpu_check)
  --dry-run     build and print the plan; needs nvcc, but no GPU
TEXT
}

chosen=""
while [ $# -gt 0 ]; do
    case $1 in
        --stage | --out)
            [ -n "${2:-}" ] || { echo "gpu_check: $1 wants a value" >&2; exit 2; }
            if [ "$1" = --out ]; then out=$2; else
                case " $stages " in *" $2 "*) chosen="$chosen $2" ;; *) echo "gpu_check: unknown stage '$2'; there are: $stages" >&2; exit 2 ;; esac
            fi
            shift
            ;;
        --dry-run) dry_run=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "gpu_check: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ -n "$chosen" ] || chosen=$stages
mkdir -p "$out"
rm -f "$out/summary.txt"

step "Build"
generator=(); ! command -v ninja >/dev/null 2>&1 || generator=(-G Ninja)
cmake -S . -B build-cuda "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DPLIMSOLL_CUDA=on >"$out/configure.log" 2>&1 ||
    { tail -20 "$out/configure.log" >&2; exit 1; }
targets=(plimsoll cuda_test)
known=$(cmake --build build-cuda --target help)
for target in dist_gpu_test dist_mpi_test; do # there with NCCL, with MPI
    case $known in *"$target"*) targets+=("$target") ;; esac
done
cmake --build build-cuda --parallel "$(nproc)" --target "${targets[@]}" >"$out/build.log" 2>&1 ||
    { tail -40 "$out/build.log" >&2; exit 1; }
end_step

conformance() { # each instruction on random input; the answers are kept
    mkdir -p "$out/device"
    PLIMSOLL_CONFORMANCE_OUT="$out/device" build-cuda/cuda_test --gtest_filter='*Conformance*'
}
tests() { # all of them, then the small ones under the memory checker
    build-cuda/cuda_test --gtest_brief=1 || return 1
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    [ -x "$sanitizer" ] || { echo "compute-sanitizer: not installed, left out"; return 0; }
    "$sanitizer" --error-exitcode 1 build-cuda/cuda_test --gtest_brief=1 --gtest_filter='-*CudaAttention*:*CudaModel*:*CudaTrainer*'
}
same_metrics() { cmp <(sed 's/,"seconds":[^,}]*//' "$1/metrics.jsonl") <(sed 's/,"seconds":[^,}]*//' "$2/metrics.jsonl"); }
train() { # the same 100 steps on the CPU and twice on the GPU
    for run in cpu gpu gpu_again; do
        build-cuda/plimsoll train configs/quickstart.toml --fresh --run-dir "$out/train_$run" --set train.max_steps=100 \
            --set run.device="$([ $run = cpu ] && echo cpu || echo cuda)" --set run.precision=bf16 --set probes.enabled=false
    done
    same_metrics "$out/train_gpu" "$out/train_gpu_again" && echo "repeat runs: equal to the bit"
    python3 scripts/compare_runs.py "$out/train_cpu" "$out/train_gpu"
}

ranks() { # threads and processes that share the card, NCCL by itself, and runs against the same layout in one process
    local n job training=(build-cuda/plimsoll train configs/quickstart.toml --fresh --set run.device=cuda
        --set run.precision=bf16 --set probes.enabled=false --set train.max_steps=10 --set train.micro_batch=2
        --set train.batch_tokens=3072 --set parallel.share_devices=true)
    build-cuda/cuda_test --gtest_brief=1 --gtest_filter='*Rank*' || return 1
    [ -x build-cuda/dist_gpu_test ] || { echo "NCCL: not in this build"; return 1; }
    build-cuda/dist_gpu_test --gtest_brief=1 || return 1
    [ -x build-cuda/dist_mpi_test ] || { echo "MPI: not installed, left out"; return 0; }
    for n in 2 4; do
        job=(mpirun -n "$n" --oversubscribe --allow-run-as-root)
        PLIMSOLL_TEST_GPU=1 "${job[@]}" build-cuda/dist_mpi_test --gtest_brief=1 &&
            "${job[@]}" "${training[@]}" --run-dir "$out/ranks_$n" &&
            "${training[@]}" --run-dir "$out/ranks_${n}_virtual" --set parallel.virtual_ranks="$n" &&
            same_metrics "$out/ranks_$n" "$out/ranks_${n}_virtual" || return 1
        echo "$n ranks: equal to the bit to one process that computes as many"
    done
    # Core attention by all ranks: heads of 32 channels, first losses equal to those of each its own, data and pipeline.
    local attention=(build-cuda/plimsoll train configs/experiments/cad.toml --fresh --set run.device=cuda
        --set run.precision=bf16 --set train.max_steps=10 --set parallel.share_devices=true)
    for n in 2 4; do
        job=(mpirun -n "$n" --oversubscribe --allow-run-as-root)
        "${job[@]}" "${attention[@]}" --run-dir "$out/cad_$n" &&
            "${job[@]}" "${attention[@]}" --run-dir "$out/cad_${n}_again" --set cad.ping_pong=true &&
            "${job[@]}" "${attention[@]}" --run-dir "$out/cad_${n}_stages" --set parallel.stages=2 --set parallel.schedule=same-phase &&
            "${job[@]}" "${attention[@]}" --run-dir "$out/cad_${n}_off" --set cad.mode=off || return 1
        for layout in again stages off; do python3 scripts/compare_runs.py "$out/cad_${n}_$layout" "$out/cad_$n" || return 1; done
        echo "$n ranks: core attention together follows each its own"
    done
}

kernels() { # every op, then core attention beside its targets and PyTorch's
    build-cuda/plimsoll bench --device cuda | tee "$out/kernels.md" || return 1
    local status=0
    python3 scripts/bench/gpu_targets.py --peak-from "$out/kernels.md" --json "$out/targets.json" | tee "$out/targets.md" || status=1
    python3 scripts/bench/gpu_peer.py attention --rows flash,cudnn,flex-sink --json "$out/attention.json" |
        tee "$out/attention.md" || status=1
    return $status
}
steps() { # whole steps beside PyTorch's, and where their time goes; the first one measures the algorithms of products
    python3 scripts/bench/gpu_peer.py steps --gemm-cache "$out/gemm_algorithms.txt" --json "$out/steps.json" |
        tee "$out/steps.md"
}

if [ -n "$dry_run" ]; then
    printf 'built; on a GPU these stages would run:%s, into %s\n' " $chosen" "$out"
    exit 0
fi
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee "$out/gpu.txt"
status=0
for stage in $chosen; do
    step "Stage $stage"
    [ "$stage" = test ] && run=tests || run=$stage
    if "$run" >"$out/$stage.log" 2>&1; then result=passed; else result=FAILED status=1; fi
    tail -25 "$out/$stage.log"
    printf 'stage %s: %s\n' "$stage" "$result" | tee -a "$out/summary.txt"
done
end_step
printf '\nSummary\n'
nvidia-smi --query-gpu=name --format=csv,noheader
cat "$out/summary.txt"
for part in targets attention steps; do [ ! -s "$out/$part.md" ] || { echo; cat "$out/$part.md"; }; done
exit $status
