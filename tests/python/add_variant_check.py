"""Applies the blocks of kernels/README.md, "Add a variant", as written to a copy of the source tree, builds it, runs the
attention tests of the new weighting and trains five steps with it.

    python3 tests/python/add_variant_check.py

Takes minutes (it compiles most of plimsoll), so it is not among the files that unittest discover runs."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = "kernels/README.md"
VARIANT = "relu_squared"
BLOCK = re.compile(r"^```(\w+) file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_COPIED = re.compile(r"build[^.]*|runs|report|\.git|\.venv|cuda-venv|__pycache__")


def blocks(page):
    """(language, file, text) of every code block that names a file."""
    return [match.groups() for match in BLOCK.finditer(page)]


def apply(block, root):
    """Writes a file, or for a diff replaces its context lines, which must occur once, by what it says."""
    language, name, text = block
    path = root / name
    if language != "diff":
        if path.exists():
            raise AssertionError(f"{PAGE}: {name} is there already")
        path.write_text(text)
        return
    before = "".join(line[1:] for line in text.splitlines(True) if not line.startswith("+"))
    after = "".join(line[1:] for line in text.splitlines(True) if not line.startswith("-"))
    here = path.read_text()
    if here.count(before) != 1:
        raise AssertionError(f"{PAGE}: its block for {name} fits in {here.count(before)} places, wanted 1:\n{before}")
    path.write_text(here.replace(before, after))


def run(*command, cwd, **environment):
    done = subprocess.run([str(word) for word in command], cwd=cwd, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment})
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout[-6000:]}")
    return done.stdout


class AddAVariant(unittest.TestCase):
    def setUp(self):
        for tool in ("cmake", os.environ.get("CXX", "c++")):
            if not shutil.which(tool):
                self.skipTest(f"{tool} is not on this machine: nothing can be built")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name) / "plimsoll"
        shutil.copytree(ROOT, self.root, ignore=lambda _, names: set(filter(NOT_COPIED.fullmatch, names)))

    def test_the_page_works_as_written(self):
        page = blocks((self.root / PAGE).read_text())
        self.assertEqual([name for _, name, _ in page],
                         [f"kernels/attention/variants/{VARIANT}.h", "kernels/attention/variants.def",
                          "kernels/attention/variants.h", "tests/support/attention_oracle.h",
                          f"configs/variants/{VARIANT}.toml"])
        for block in page:
            apply(block, self.root)
        # Only attention's tests are built; -O1, because compiling takes longer here than what is compiled runs.
        for test in self.root.glob("tests/*/*_test.cpp"):
            if test.name != "attention_test.cpp" and test.parent.name not in ("simt", "dist", "data"):  # targets name them
                test.unlink()
        build = self.root / "build"
        ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
        run("cmake", "-S", self.root, "-B", build, *ninja, "-DPLIMSOLL_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CXX_FLAGS_RELEASE=-O1", cwd=self.root)
        run("cmake", "--build", build, "--parallel", os.cpu_count() or 1, "--target", "kernels_test", "plimsoll",
            cwd=self.root)

        # Every row of variants.def, the new one included; each fifth of their cases, as they take minutes at -O1.
        self.assertIn("[  PASSED  ]", run(build / "kernels_test", "--gtest_filter=*Attention*", cwd=self.root,
                                          GTEST_TOTAL_SHARDS="5", GTEST_SHARD_INDEX="0"))

        out = self.root / "run"
        run(build / "plimsoll", "train", "configs/quickstart.toml", "--variant", VARIANT, "--run-dir", out,
            "--set", "train.max_steps=5", "--set", "train.batch_tokens=2048", "--set", "data.val_samples=16",
            cwd=self.root)
        state = json.loads((out / "run.json").read_text())
        self.assertEqual((state["variant"], state["status"], state["steps"]), (VARIANT, "done", 5))


if __name__ == "__main__":
    unittest.main()
