"""The seam between CUDA kernels and the machine: PTX in one file, its twin, and a conformance case for everything."""

import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "kernels/cuda/native"
TWIN = ROOT / "tests/support/simt/include"
# Native files, their twin, and the cases of their instructions.
SEAMS = [(["device.cuh"], "device.cuh", ROOT / "tests/simt/conformance.cu"),
         (["hopper.cuh", "wgmma.cuh"], "hopper.cuh", ROOT / "tests/simt/hopper_conformance.cu")]
# No instructions: used by those of the native file only; for the compiler.
HELPERS = {"shared_pointer", "hold_registers"}

sys.path.insert(0, str(ROOT / "scripts"))
import cuda_checks  # noqa: E402
import cuda_coverage  # noqa: E402


def functions(text):
    """Names defined or declared in namespace plimsoll::device."""
    body = text[text.index("namespace plimsoll::device"):]
    return set(re.findall(r"^(?:PLIMSOLL_DEVICE |inline )?(?:float|uint32_t|void|bool) (\w+)\(", body, re.MULTILINE))


def native_functions(names):
    return set().union(*(functions((NATIVE / name).read_text()) for name in names)) - HELPERS


class Seam(unittest.TestCase):
    def test_both_files_have_the_same_instructions(self):
        for names, twin, _ in SEAMS:
            native = native_functions(names)
            self.assertGreater(len(native), 8)
            self.assertEqual(native, functions((TWIN / twin).read_text()) - HELPERS)

    def test_every_instruction_has_a_conformance_case(self):
        for names, _, cases in SEAMS:
            text = re.sub(r'"\s*\n\s*"', "", cases.read_text())
            named = re.findall(r'(?:^\s*{|_case<[^>]*>\(|\.name = )"([\w ]+)", *', text, re.MULTILINE)
            self.assertEqual(native_functions(names), set(" ".join(named).split()))

    def test_ptx_and_launches_are_nowhere_else(self):
        for source in (ROOT / "kernels").rglob("*.cu*"):
            if source.parent == NATIVE:
                continue
            text = source.read_text()
            for raw in ("asm(", "asm volatile", "<<<", "__shared__", "__cvta"):
                self.assertNotIn(raw, text, f"{source.relative_to(ROOT)}: use kernels/cuda/native")


class Ptxas(unittest.TestCase):
    LOG = """ptxas info    : Compiling entry function '_Z6kernelv' for 'sm_80'
ptxas info    : Function properties for _Z6kernelv
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compiling entry function '_Z5otherv' for 'sm_80'
ptxas info    : Used 16 registers, used 0 barriers
"""

    def test_figures_are_read(self):
        kernels = cuda_checks.kernels_of(self.LOG)
        self.assertEqual(kernels["_Z6kernelv"], {"registers": 40, "spill": 28, "stack": 8, "shared": 1024})
        self.assertEqual(kernels["_Z5otherv"]["registers"], 16)

    def test_instructions_are_counted_by_kernel(self):
        text = """Function : _Z1av
        /*1400*/  HGMMA.64x128x16.F32.BF16 R24, gdesc[UR12], R24 ;
        /*1410*/  UTMALDG.4D [UR16], [UR6] ;
        /*1420*/  UTMALDG.4D [UR16], [UR6], desc[UR4] ;
Function : _Z1bv
        /*0010*/  HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/  STL [R1], R2 ;
        /*0030*/  UTMASTG.4D [UR4], [UR6] ;
"""
        self.assertEqual(cuda_checks.count_instructions(text), {"_Z1av": [1, 0, 2], "_Z1bv": [1, 1, 0]})

    def test_serialised_wgmma_and_ignored_registers_are_fatal(self):
        for mark in ("C7508", "C7510", "C7511", "C7512", "C7515"):
            self.assertIn(mark, cuda_checks.FATAL_INFORMATION)

    def test_occupancy_follows_registers_and_shared_memory(self):
        kernel = {"registers": 255, "shared": 0}
        self.assertEqual(cuda_checks.blocks_per_multiprocessor(kernel, 128, "90a"), 2)
        self.assertEqual(cuda_checks.blocks_per_multiprocessor({"registers": 32, "shared": 0}, 256, "80"), 8)
        self.assertEqual(cuda_checks.blocks_per_multiprocessor({"registers": 32, "shared": 100 << 10}, 256, "80"), 1)


@unittest.skipUnless(shutil.which("g++") and shutil.which("gcov"), "no g++ or no gcov")
class Coverage(unittest.TestCase):
    # Lines 2 and 3 run for every argument, line 4 for none.
    SOURCE = """int called(int more) {
    if (more)
        return 1;
    return 0;
}
int main(int count, char**) { return called(count) - 1; }
"""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name).resolve()
        self.build = self.root / "build"
        self.objects = self.build / "CMakeFiles" / "tests.dir"
        self.objects.mkdir(parents=True)
        (self.root / "kernels/cuda").mkdir(parents=True)
        source = self.root / "kernels/cuda/called.cpp"
        source.write_text(self.SOURCE)
        root, cuda_coverage.ROOT = cuda_coverage.ROOT, self.root
        self.addCleanup(setattr, cuda_coverage, "ROOT", root)
        subprocess.run(["g++", "--coverage", "-fprofile-update=single", "-c", source, "-o", "called.o"],
                       cwd=self.objects, check=True)
        subprocess.run(["g++", "--coverage", "called.o", "-o", "called"], cwd=self.objects, check=True)

    def test_counts_of_processes_at_once_add_up_until_they_are_forgotten(self):
        processes = [subprocess.Popen([self.objects / "called"]) for _ in range(40)]
        self.assertEqual([process.wait() for process in processes], [0] * 40)
        counted = cuda_coverage.counted_lines(self.build)
        self.assertEqual(counted, {"kernels/cuda/called.cpp": {1: 40, 2: 40, 3: 40, 4: 0, 6: 40}})
        cuda_coverage.forget(self.build)
        self.assertEqual(cuda_coverage.counted_lines(self.build), {})

    def test_a_build_below_keeps_its_own(self):
        below = self.build / "coverage" / "CMakeFiles" / "x.gcda"
        below.parent.mkdir(parents=True)
        below.write_bytes(b"")
        self.assertEqual(cuda_coverage.counts_of(self.build), [])
        cuda_coverage.forget(self.build)
        self.assertTrue(below.exists())


if __name__ == "__main__":
    unittest.main()
