#!/usr/bin/env bash
# An nvcc for a machine without the CUDA toolkit: pinned Python packages in .deps/cuda-venv, reached as
# .deps/cuda/bin/nvcc, which CMake and cuda_checks.py find by themselves. Needs no root.
set -euo pipefail
cd "$(dirname "$0")/.."

# Every package pinned: an nvcc whose ptxas is of another version writes code that ptxas does not read.
compiler=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85 nvidia-nvtx==13.0.85)
# cuobjdump and nvdisasm appear in later releases only; these read what nvcc 13.0 writes.
disassembler=(nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51)
libraries=(nvidia-cublas==13.0.2.14 nvidia-nccl-cu13==2.28.9)
venv=.deps/cuda-venv # of its own: PyTorch brings other versions of the same files
log=.deps/install_cuda.log

usage() {
    cat <<'TEXT'
usage: scripts/install_cuda.sh [--link] [--force] [--disassembler]

Installs nvcc and the CUDA runtime into .deps/ (about 300 MB) where no CUDA toolkit is installed. With it CMake compiles
the CUDA backend (-DPLIMSOLL_CUDA=on) and scripts/cuda_checks.py runs. Needs python3 with venv, and a network.
  --link    cuBLAS and NCCL too, needed to link the CUDA backend (about 800 MB more)
  --force   also where an nvcc is already there
  --disassembler  only cuobjdump and nvdisasm (10 MB), with which cuda_checks.py counts instructions; also beside an
            installed toolkit that lacks them
Remove it with: rm -r .deps/cuda .deps/cuda-venv
exit status: 0 nvcc is there, 1 it could not be installed, 2 wrong usage
TEXT
}

link=no
force=no
tools_only=no
while [ $# -gt 0 ]; do
    case $1 in
        --link) link=yes ;;
        --force) force=yes ;;
        --disassembler) tools_only=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "install_cuda: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

say() { printf 'cuda: %s\n' "$*"; }
fail() { printf 'cuda: %s\n' "$*" >&2; exit 1; }

installed=$(PATH="$PATH:/usr/local/cuda/bin" command -v nvcc || true)
present=$installed
if [ -z "$present" ] && [ -x .deps/cuda/bin/nvcc ] && { [ $link = no ] || [ -e .deps/cuda/lib/libcublasLt.so ]; }; then
    present=$PWD/.deps/cuda/bin/nvcc # from here, or from a bundle
fi
if [ -n "$present" ] && [ $force = no ] && [ $tools_only = no ]; then
    say "nvcc is already there: $present"
    exit 0
fi

mkdir -p .deps
echo '*' >.deps/.gitignore # nothing of .deps belongs into git
if ! $venv/bin/python -m pip --version >$log 2>&1; then # none yet, or what an attempt without pip left behind
    python3 -m venv $venv >$log 2>&1 ||
        fail "python3 cannot make $venv (on Debian: apt-get install python3-venv); its messages are in $log"
fi

wanted=("${compiler[@]}" "${disassembler[@]}")
[ $link = no ] || wanted+=("${libraries[@]}")
[ $tools_only = no ] || wanted=("${disassembler[@]}")
say "installing ${wanted[*]}"
# --no-deps: everything is named above, and what a package asks for beyond it may come in another version
if ! $venv/bin/python -m pip install --no-deps --retries 2 "${wanted[@]}" >$log 2>&1; then
    fail "pip could not fetch the packages (see $log). Without network: install the CUDA toolkit, or bring .deps/" \
        "from a machine that has network (scripts/offline_bundle.sh --cuda)"
fi

packages=$($venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
packages=$venv/lib/${packages##*/lib/}
root=$packages/nvidia/cu13
ln -sfn "${root#.deps/}/bin" .deps/cuda-tools # relative, so that a copy of .deps works elsewhere
if [ $tools_only = yes ]; then
    .deps/cuda-tools/cuobjdump --version >>$log 2>&1 || fail "the installed cuobjdump does not start; see $log"
    say "cuobjdump and nvdisasm are in .deps/cuda-tools"
    exit 0
fi
ln -sfn "${root#.deps/}" .deps/cuda

# The packages hold libX.so.N only, in lib: a linker, and CMake, look for libX.so, and nvcc in lib64.
ln -sfn lib "$root/lib64"
if [ $link = yes ]; then # NCCL beside the rest: one folder to search
    for file in lib/libnccl.so.2 include/nccl.h; do ln -sf "../../nccl/$file" "$root/$file"; done
fi
for file in "$root"/lib/lib*.so.*; do
    name=${file##*/}
    ln -sf "$name" "$root/lib/${name%%.so.*}.so"
done

.deps/cuda/bin/nvcc --version >>$log 2>&1 || fail "the installed nvcc does not start; see $log"
say "$(.deps/cuda/bin/nvcc --version | sed -n 's/.*release .*, /nvcc /p') is in .deps/cuda/bin"
[ -z "$installed" ] || say "CMake takes $installed all the same, unless told -DPLIMSOLL_NVCC=$PWD/.deps/cuda/bin/nvcc"
