#!/usr/bin/env python3
"""What nvcc can tell about the CUDA kernels without a GPU.

Compiles kernels/cuda/*.cu for each architecture with every warning an error, dist/nccl_*.cpp where nccl.h is, and holds
each kernel to its budget: registers, spilled bytes, local memory, static shared memory (ptxas), blocks per multiprocessor (from those and the
card's limits), and the tensor-core instructions in its code (cuobjdump, where it is installed). Prints a table.

    scripts/cuda_checks.py [--arch 80,90a] [--jobs 2] [--table]

Exit status: 0 all within budget; 1 something is not; 77 there is no nvcc (ctest: skipped).
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda", "-Werror", "all-warnings",
         "-Xptxas", "-v,-warn-lmem-usage", "-I.", "-Ikernels/cuda/native"]
# Lines of ptxas that are only information and must fail all the same: ignored setmaxnreg, serialised wgmma.
FATAL_INFORMATION = ("C7508", "C7510", "C7511", "C7512", "C7515", "C7519")
REGISTERS_PER_MULTIPROCESSOR = 65536
SHARED_BYTES = {"80": 164 << 10, "90": 228 << 10}  # per multiprocessor, 1 KiB of it per block reserved

# First match counts. registers: at most; spill: bytes of stores and loads together; mma: tensor-core instructions at
# least; tma: loads by TMA at least; threads: of a block; arch: the only one for which there is code, others are empty.
BUDGETS = [
    # Without scores: ptxas leaves their products out.
    (r"\bdq_kernel<Uniform", {"registers": 255, "spill": 0, "mma": 16, "threads": 128}),
    (r"attention_dq_sm90_kernel<Uniform", {"registers": 168, "spill": 0, "mma": 4, "tma": 6, "threads": 384, "arch": "90a"}),
    (r"attention_dkv_sm90_kernel<Uniform", {"registers": 168, "spill": 0, "mma": 10, "tma": 6, "threads": 384, "arch": "90a"}),
    (r"attention_dq_sm90_kernel<Linear", {"registers": 168, "spill": 0, "mma": 13, "tma": 6, "threads": 384, "arch": "90a"}),
    (r"attention_dq_sm90_kernel", {"registers": 168, "spill": 0, "mma": 16, "tma": 6, "threads": 384, "arch": "90a"}),
    (r"attention_dkv_sm90_kernel", {"registers": 168, "spill": 0, "mma": 16, "tma": 6, "threads": 384, "arch": "90a"}),
    (r"attention_forward_sm90_kernel<Uniform", {"registers": 168, "spill": 0, "mma": 10, "tma": 4, "threads": 384, "arch": "90a"}),
    (r"attention_forward_sm90_kernel", {"registers": 168, "spill": 0, "mma": 24, "tma": 4, "threads": 384, "arch": "90a"}),
    (r"attention_forward_kernel", {"registers": 255, "spill": 0, "mma": 16, "threads": 128}),
    (r"\bdkv_kernel", {"registers": 255, "spill": 0, "mma": 24, "threads": 128}),
    (r"\bdq_kernel", {"registers": 255, "spill": 0, "mma": 24, "threads": 128}),
    # Rows in registers, up to eight packs of four elements, each three times.
    (r"norm_backward_rows_kernel<8", {"registers": 208, "spill": 0, "mma": 0, "threads": 256}),
    (r"norm_backward_rows_kernel", {"registers": 128, "spill": 0, "mma": 0, "threads": 256}),
    (r"(whole|accumulate|gradient)_kernel<", {"registers": 40, "spill": 0, "mma": 0, "threads": 512}),
    (r".", {"registers": 80, "spill": 0, "mma": 0, "threads": 256}),
]


# Where cuobjdump and nvdisasm may be; scripts/install_cuda.sh --disassembler puts them into .deps.
TOOL_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin", str(ROOT / ".deps/cuda-tools")])


def find_nvcc():
    for path in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", ROOT / ".deps/cuda/bin/nvcc"):
        if path and os.access(path, os.X_OK):
            return str(path)
    return None


def run(command, path=None):
    environment = {**os.environ, "PATH": path} if path else None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr


def demangle(names):
    if not names or not shutil.which("c++filt"):
        return dict(zip(names, names))
    done = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines()))


def short(name):
    """A kernel's name with its template arguments, without namespaces and parameters."""
    return re.sub(r"plimsoll::|cuda::|\(anonymous namespace\)::|\((?:int|bool)\)|^void ", "", name)


def kernels_of(log):
    """ptxas -v output -> {mangled name: {registers, spill, stack, shared}}."""
    found, current = {}, None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            current = found.setdefault(match.group(1), {"registers": 0, "spill": 0, "stack": 0, "shared": 0})
        elif current is not None and (match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            stack, stores, loads = map(int, match.groups())
            current.update(stack=stack, spill=stores + loads)
        elif current is not None and (match := re.search(r"Used (\d+) registers", line)):
            current["registers"] = int(match.group(1))
            shared = re.search(r"(\d+) bytes smem", line)
            current["shared"] = int(shared.group(1)) if shared else 0
    return found


def count_instructions(text):
    """cuobjdump -sass output -> {mangled name: [tensor-core instructions, local loads and stores, loads by TMA]}."""
    counts, current = {}, None
    for line in text.splitlines():
        if match := re.search(r"Function : (\S+)", line):
            current = counts.setdefault(match.group(1), [0, 0, 0])
        elif current is not None:
            current[0] += bool(re.search(r"\b(HMMA|HGMMA)\.", line))
            current[1] += bool(re.search(r"\b(LDL|STL)\b", line))
            current[2] += bool(re.search(r"\bUTMALDG\b", line))
    return counts


def tensor_instructions(cubin):
    """count_instructions() of a compiled file, or None without cuobjdump."""
    if not shutil.which("cuobjdump", path=TOOL_PATH):
        return None
    code, text = run(["cuobjdump", "-sass", cubin], TOOL_PATH)
    return None if code else count_instructions(text)


def blocks_per_multiprocessor(kernel, threads, arch):
    by_registers = REGISTERS_PER_MULTIPROCESSOR // max(1, -(-kernel["registers"] // 8) * 8 * threads)
    by_shared = SHARED_BYTES[arch[:2]] // (kernel["shared"] + 1024)
    return min(by_registers, by_shared, 2048 // threads, 32)


def check(nvcc, source, arch, folder):
    """-> (rows of the table, problems)."""
    cubin = Path(folder) / f"{source.stem}.sm_{arch}.cubin"
    code, log = run([nvcc, *FLAGS, f"-arch=sm_{arch}", "-cubin", str(source.relative_to(ROOT)), "-o", str(cubin)])
    where = f"{source.name}, sm_{arch}"
    if code:
        return [], [f"{where}: does not compile\n{log.strip()}"]
    problems = [f"{where}: {line.strip()}" for line in log.splitlines() if any(mark in line for mark in FATAL_INFORMATION)]
    kernels = kernels_of(log)
    if not kernels and "__global__" in source.read_text():
        problems.append(f"{where}: ptxas named no kernel")
    names, instructions, rows = demangle(list(kernels)), tensor_instructions(cubin), []
    for mangled, kernel in kernels.items():
        name = short(names[mangled]).split("(")[0] if "<" not in names[mangled] else short(names[mangled]).rsplit(">", 1)[0] + ">"
        budget = next(values for pattern, values in BUDGETS if re.search(pattern, name))
        mma, local, tma = (instructions or {}).get(mangled, (None, None, None))
        if arch != budget.get("arch", arch):
            budget = {**budget, "mma": 0, "tma": 0}
        for key in ("registers", "spill"):
            if kernel[key] > budget[key]:
                problems.append(f"{where}: {name}: {kernel[key]} {key}, budget {budget[key]}")
        if mma is not None and mma < budget["mma"]:
            problems.append(f"{where}: {name}: {mma} tensor-core instructions, wanted {budget['mma']}")
        if tma is not None and tma < budget.get("tma", 0):
            problems.append(f"{where}: {name}: {tma} loads by TMA, wanted {budget['tma']}")
        if local:
            problems.append(f"{where}: {name}: {local} accesses of local memory")
        rows.append((source.name, arch, name, kernel["registers"], kernel["spill"], kernel["shared"],
                     blocks_per_multiprocessor(kernel, budget["threads"], arch), "-" if mma is None else mma))
    return rows, problems


def check_nccl(nvcc, folder):
    """Compiles what uses NCCL against its own header, as the build does: by the host's compiler. -> problems, or None
    where there is no nccl.h."""
    include = Path(nvcc).resolve().parent.parent / "include"
    if not (include / "nccl.h").is_file():
        return None
    problems = []
    for source in sorted(ROOT.glob("dist/nccl_*.cpp")):
        code, log = run(["c++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-I.", "-isystem", str(include), "-c",
                         str(source.relative_to(ROOT)), "-o", str(Path(folder) / f"{source.stem}.o")])
        if code:
            problems.append(f"{source.name}: does not compile\n{log.strip()}")
    return problems


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="80,90a", help="architectures; default 80,90a")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilations at once")
    parser.add_argument("--table", action="store_true", help="print every kernel, not only the widest")
    options = parser.parse_args(argv)
    nvcc = find_nvcc()
    if not nvcc:
        print("cuda_checks: no nvcc; install the CUDA toolkit")
        return 77
    sources = sorted((ROOT / "kernels/cuda").glob("*.cu"))
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        # The largest first: attention takes most of the time, and one of its files at the end would leave cores idle.
        jobs = [pool.submit(check, nvcc, source, arch, folder)
                for source in sorted(sources, key=lambda source: -source.stat().st_size) for arch in options.arch.split(",")]
        for job in jobs:
            new_rows, new_problems = job.result()
            rows += new_rows
            problems += new_problems
        nccl_problems = check_nccl(nvcc, folder)
    problems += nccl_problems or []
    if nccl_problems is None:
        print("cuda_checks: no nccl.h beside nvcc, dist/nccl_*.cpp are not compiled (scripts/install_cuda.sh --link)")
    shown = rows if options.table else sorted(rows, key=lambda row: -row[3])[:12]
    print(f"{'file':24} {'sm':4} {'regs':>4} {'spill':>5} {'smem':>6} {'blocks':>6} {'mma':>5}  kernel")
    for file, arch, name, registers, spill, shared, blocks, mma in shown:
        print(f"{file:24} {arch:4} {registers:4} {spill:5} {shared:6} {blocks:6} {mma!s:>5}  {name}")
    if not shutil.which("cuobjdump", path=TOOL_PATH):
        print("cuda_checks: no cuobjdump, instructions are not counted (scripts/install_cuda.sh --disassembler)")
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"cuda_checks: {len(rows)} kernels of {len(sources)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
