"""The shell scripts with stand-ins for apt-get, pip, cmake, ctest and plimsoll: what they call, in which order, what
they print and how they end."""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORD = 'echo "$(basename "$0") $*" >>"$CALLS"\n'
PLIMSOLL = """#!/bin/sh
echo "plimsoll $*" >>"$CALLS"
[ "$4" != "$FAIL_VARIANT" ] || exit "$FAIL_STATUS"
"""
CTEST = """echo "Test project"
echo "1/1 Test #1: kernels ... Passed"
echo
echo "${CTEST_PERCENT:-100}% tests passed, 0 tests failed out of 1"
echo
echo "Label Time Summary:"
echo "kernels    =  90.00 sec*proc (1 test)"
echo
echo "Total Test time (real) =   1.00 sec"
exit "${CTEST_STATUS:-0}"
"""


class Scripts(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name) / "checkout"
        shutil.copytree(ROOT / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("bench", "__pycache__"))
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        self.bin = Path(directory.name) / "bin"
        self.bin.mkdir()
        self.calls = Path(directory.name) / "calls"
        self.environment = {**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin", "CALLS": str(self.calls)}

    def stub(self, name, text="", record=True):
        path = self.bin / name
        path.write_text("#!/bin/sh\n" + (RECORD if record else "") + text)
        path.chmod(0o755)

    def run_script(self, name, *arguments, **environment):
        return subprocess.run([str(self.root / name), *arguments], capture_output=True, text=True,
                              env={**self.environment, **environment})

    def called(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def replace(self, name, text):
        (self.root / name).write_text(text)
        (self.root / name).chmod(0o755)


class InstallDependencies(Scripts):
    """`absent`: what dpkg does not know. Python and its packages come from stand-ins too."""

    def setUp(self):
        super().setUp()
        # An own PATH without the machine's tools, so that nothing is found elsewhere.
        for tool in ("bash", "env", "dirname", "cut", "grep", "sed", "cat", "sh", "basename"):
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.environment["PATH"] = str(self.bin)
        self.stub("apt-get", '[ "$NO_NETWORK" != 1 ] || exit 100\n: >"$CALLS.installed"\n')
        self.stub("apt-cache", 'case " $NO_CANDIDATE " in *" $2 "*) echo "  Candidate: (none)";; '
                  '*) echo "  Candidate: 1.0";; esac\n', record=False)
        self.stub("sudo", "exit 1\n", record=False)
        self.stub("dpkg-query", 'for package; do :; done\n[ ! -e "$CALLS.installed" ] || { echo "ii "; exit; }\n'
                  'case " $ABSENT " in *" $package "*) exit 1;; *) echo "ii ";; esac\n', record=False)
        self.stub("python3", "exit 0\n", record=False)

    def as_user(self, number, *arguments, **environment):
        self.stub("id", f"echo {number}\n", record=False)
        return self.run_script("scripts/install_dependencies.sh", *arguments, **environment)

    def test_nothing_missing_calls_nothing(self):
        for user in (0, 1000):
            done = self.as_user(user)
            self.assertEqual((done.returncode, done.stdout), (0, "dependencies: all present\n"), done.stderr)
        self.assertEqual(self.called(), [])

    def test_ordinary_user_gets_the_command_and_nothing_happens(self):
        done = self.as_user(1000, ABSENT="cmake libfmt-dev libdnnl-dev")
        self.assertEqual(done.returncode, 1)
        self.assertIn("apt-get update && apt-get install -y --no-install-recommends cmake libfmt-dev libdnnl-dev\n",
                      done.stdout)
        self.assertEqual(self.called(), [])

    def test_ordinary_user_goes_on_without_optional_packages(self):
        done = self.as_user(1000, ABSENT="libdnnl-dev")
        self.assertEqual(done.returncode, 0)
        self.assertIn("going on without libdnnl-dev (oneDNN", done.stdout)
        self.assertEqual(self.called(), [])

    def test_root_installs_what_is_missing_only(self):
        done = self.as_user(0, ABSENT="cmake libopenblas-dev")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        installs = [call for call in self.called() if " install " in call]
        self.assertEqual([call.split("--no-install-recommends ")[1] for call in installs],
                         ["cmake", "libopenblas-dev"])

    def test_an_optional_package_without_candidate_is_one_line(self):
        done = self.as_user(0, ABSENT="cmake libdnnl-dev", NO_CANDIDATE="libdnnl-dev")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stdout.count("libdnnl-dev"), 1)
        self.assertIn("going on without libdnnl-dev", done.stdout)

    def test_no_network_is_said(self):
        done = self.as_user(0, ABSENT="cmake", NO_NETWORK="1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("apt-get could not install: cmake", done.stdout)

    def test_check_installs_nothing(self):
        done = self.as_user(0, "--check", ABSENT="cmake libdnnl-dev")
        self.assertEqual(done.returncode, 1)
        self.assertIn("missing: cmake\n", done.stdout)
        self.assertIn("missing, optional: libdnnl-dev\n", done.stdout)
        self.assertEqual(self.as_user(0, "--check", ABSENT="libdnnl-dev").returncode, 0)
        self.assertEqual(self.called(), [])

    @unittest.skipIf(os.path.isdir("/run/systemd/system"), "under systemd SLURM is not installed")
    def test_what_only_tests_use_is_installed_for_them(self):
        missing = {"ABSENT": "slurm-wlm munge"}
        self.assertEqual(self.as_user(0, "--check", **missing).stdout, "dependencies: all present\n")
        self.assertIn("missing, optional: slurm-wlm munge\n", self.as_user(0, "--check", "--tests", **missing).stdout)
        done = self.as_user(0, "--tests", **missing)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(any(call.endswith(" slurm-wlm") for call in self.called()), self.called())

    def test_with_a_bundle_apt_is_not_tried(self):
        (self.root / ".deps/libraries").mkdir(parents=True)
        (self.root / ".deps/libraries/VERSIONS").write_text("fmt libfmt-dev 9.1.0\n")
        for arguments in ((), ("--check",)):
            done = self.as_user(0, *arguments, ABSENT="libfmt-dev libdnnl-dev")
            self.assertEqual(done.returncode, 1)
            self.assertIn("the libraries are in .deps; please install: g++, cmake\n", done.stdout)
        self.stub("g++")
        self.stub("cmake")
        done = self.as_user(0, ABSENT="libfmt-dev libdnnl-dev")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("the libraries are in .deps", done.stdout)
        self.assertEqual(self.called(), [])

    def test_wrong_usage(self):
        self.assertEqual(self.as_user(0, "--frobnicate").returncode, 2)


# python3 -m venv DIR copies this to DIR/bin/python, whose pip installs an nvcc and a library as the packages have them.
PYTHON = """case "$1 $2" in
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
"-m pip")
    [ "$3" = install ] || exit 0
    [ "$NO_NETWORK" != 1 ] || exit 1
    packages=$(dirname "$0")/../lib/python3.9/site-packages/nvidia
    mkdir -p "$packages/cu13/bin" "$packages/cu13/lib" "$packages/cu13/include"
    printf '#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n' >"$packages/cu13/bin/nvcc"
    chmod +x "$packages/cu13/bin/nvcc"
    touch "$packages/cu13/lib/libcudart.so.13" ;;
-c*) echo /venv/lib/python3.9/site-packages ;;
esac
"""


class InstallCuda(Scripts):
    def test_an_nvcc_that_is_there_is_enough(self):
        self.stub("nvcc")
        self.stub("python3")
        done = self.run_script("scripts/install_cuda.sh")
        self.assertEqual((done.returncode, done.stdout), (0, f"cuda: nvcc is already there: {self.bin / 'nvcc'}\n"))
        self.assertEqual(self.called(), [])
        self.assertFalse((self.root / ".deps").exists())

    def test_it_makes_a_toolkit_in_deps(self):
        self.stub("python3", PYTHON)
        done = self.run_script("scripts/install_cuda.sh", "--force")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("cuda: nvcc V13.0.88 is in .deps/cuda/bin\n", done.stdout)
        cuda = self.root / ".deps/cuda"
        self.assertFalse(os.readlink(cuda).startswith("/"))
        for name in ("bin/nvcc", "lib/libcudart.so", "lib64/libcudart.so"):
            self.assertTrue((cuda / name).exists(), name)
        installs = [call for call in self.called() if " install " in call]
        self.assertEqual(len(installs), 1)
        self.assertIn("--no-deps", installs[0])
        self.assertNotIn("cublas", installs[0])
        self.assertEqual((self.root / ".deps/.gitignore").read_text(), "*\n")

    def test_without_network_it_says_what_to_do(self):
        self.stub("python3", PYTHON)
        done = self.run_script("scripts/install_cuda.sh", "--force", "--link", NO_NETWORK="1")
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("scripts/offline_bundle.sh", done.stderr)
        self.assertIn("nvidia-cublas==", self.called()[-1])

    def test_every_package_is_pinned(self):
        text = (ROOT / "scripts/install_cuda.sh").read_text()
        names = re.findall(r"(?<![\w-])nvidia-[\w-]+[^\s)]*", text)
        self.assertGreater(len(names), 6)
        for name in names:
            self.assertRegex(name, r"^nvidia-[a-z0-9-]+==[0-9]+(\.[0-9]+)+$")

    def test_wrong_usage_and_help(self):
        done = self.run_script("scripts/install_cuda.sh", "--links")
        self.assertEqual(done.returncode, 2)
        self.assertIn("install_cuda: unknown argument '--links'", done.stderr)
        self.assertIn("usage:", self.run_script("scripts/install_cuda.sh", "-h").stdout)


BUNDLED = """cmake_minimum_required(VERSION 3.22)
project(bundled LANGUAGES CXX)
include(scripts/cmake/dependencies.cmake)
plimsoll_find_googletest()
foreach(target fmt::fmt nlohmann_json::nlohmann_json tomlplusplus::tomlplusplus CLI11::CLI11 gtest)
    get_target_property(folder ${target} INTERFACE_INCLUDE_DIRECTORIES)
    message(STATUS "${target} in ${folder}")
endforeach()
"""
DPKG_DEB = """[ "$1" != -f ] || { echo 1.0; exit; }
sources=usr/src/googletest/googletest
mkdir -p usr/share/doc/"$(cat "$2")" usr/include/fmt usr/include/toml++ usr/include/CLI usr/include/nlohmann \\
    $sources/src $sources/include/gtest
touch usr/share/doc/"$(cat "$2")"/copyright $sources/src/gtest-all.cc $sources/src/gtest_main.cc
"""


class OfflineBundle(Scripts):
    """With packages that are not installed: apt-get and dpkg-deb are stand-ins, the headers empty."""

    FOLDERS = {"fmt": "include/fmt", "tomlplusplus": "include/toml++", "CLI11": "include/CLI",
               "nlohmann_json": "include/nlohmann", "googletest": "include/gtest"}

    def setUp(self):
        super().setUp()
        self.stub("dpkg-query", "exit 1\n", record=False)
        self.stub("apt-get", '[ "$NO_NETWORK" != 1 ] || exit 100\nshift; echo "$2" >"$2.deb"\n')
        self.stub("dpkg-deb", DPKG_DEB, record=False)

    def test_it_packs_every_library_and_cmake_takes_them(self):
        done = self.run_script("scripts/offline_bundle.sh", "--out", str(self.root / "packed.tar.gz"))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with tarfile.open(self.root / "packed.tar.gz") as packed:
            names = packed.getnames()
        self.assertIn(".deps/libraries/VERSIONS", names)
        for folder, headers in self.FOLDERS.items():
            self.assertIn(f".deps/libraries/{folder}/{headers}", names)
            self.assertIn(f".deps/libraries/{folder}/copyright", names)
        self.assertIn(".deps/libraries/googletest/src/gtest-all.cc", names)
        self.assertIn("fmt libfmt-dev 1.0\n", (self.root / ".deps/libraries/VERSIONS").read_text())
        self.check_cmake()

    def check_cmake(self):
        if not shutil.which("cmake") or not shutil.which("c++"):
            self.skipTest("no cmake or no C++ compiler")
        (self.root / "CMakeLists.txt").write_text(BUNDLED)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        done = subprocess.run(["cmake", "-S", self.root, "-B", self.root / "b", *generator], capture_output=True,
                              text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(f" in {self.root.resolve()}/.deps/libraries/"), 5, done.stdout)

    def test_without_network_it_names_the_package(self):
        done = self.run_script("scripts/offline_bundle.sh", NO_NETWORK="1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("libfmt-dev could not be fetched", done.stderr)
        self.assertFalse((self.root / ".deps").exists())

    def test_list(self):
        done = self.run_script("scripts/offline_bundle.sh", "--list")
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], list(self.FOLDERS))
        self.assertEqual(self.called(), [])

    def test_wrong_usage_and_help(self):
        for arguments in (["--out"], ["--lists"]):
            self.assertEqual(self.run_script("scripts/offline_bundle.sh", *arguments).returncode, 2)
        self.assertIn("pandas", self.run_script("scripts/offline_bundle.sh", "--help").stdout)


class WithStandIns(Scripts):
    def setUp(self):
        super().setUp()
        (self.root / "build").mkdir()
        self.replace("scripts/install_dependencies.sh", "#!/bin/sh\n" + RECORD)
        self.replace("scripts/report.py", "#!/bin/sh\n" + RECORD)
        self.replace("build/plimsoll", PLIMSOLL)
        self.stub("cmake")
        self.stub("ctest", CTEST)
        self.environment.update(FAIL_VARIANT="none", FAIL_STATUS="0")


class Quickstart(WithStandIns):
    VARIANTS = ("softmax", "sigmoid", "gated", "gated_headwise", "placeholder")

    def test_the_steps_in_their_order(self):
        done = self.run_script("scripts/quickstart.sh")
        self.assertEqual(done.returncode, 0, done.stderr)
        calls = self.called()
        self.assertEqual([call.split()[0] for call in calls],
                         ["install_dependencies.sh", "cmake", "cmake"] + ["plimsoll"] * 5 + ["report.py"])
        self.assertEqual(calls[3:8], [f"plimsoll train configs/quickstart.toml --variant {variant} "
                                      f"--run-dir runs/quickstart/{variant} --resume auto"
                                      for variant in self.VARIANTS])
        self.assertIn("-DCMAKE_BUILD_TYPE=Release", calls[1])
        self.assertIn("--out runs/quickstart/report", calls[8])
        steps = [line[4:] for line in done.stdout.splitlines() if line.startswith("==> ")]
        self.assertEqual(steps, ["Install what is missing", "Configure", "Build",
                                 *[f"Train {variant}" for variant in self.VARIANTS], "Report"])
        self.assertIn("runs/quickstart/report/report.html", done.stdout.splitlines()[-2])

    def test_steps_are_passed_on_to_a_directory_of_their_own(self):
        self.run_script("scripts/quickstart.sh", "--steps", "20")
        self.assertEqual(self.called()[3], "plimsoll train configs/quickstart.toml --variant softmax --run-dir "
                         "runs/quickstart-20-steps/softmax --resume auto --set train.max_steps=20")

    def test_an_interrupt_and_a_failure_end_it(self):
        for status in (85, 78):
            done = self.run_script("scripts/quickstart.sh", FAIL_VARIANT="gated", FAIL_STATUS=str(status))
            self.assertEqual(done.returncode, status)
            self.assertNotIn("report.py", " ".join(self.called()))

    def test_wrong_usage_and_help(self):
        for arguments in (["--steps"], ["--steps", "0"], ["--steps", "ten"], ["--fast"]):
            self.assertEqual(self.run_script("scripts/quickstart.sh", *arguments).returncode, 2)
        self.assertIn("usage:", self.run_script("scripts/quickstart.sh", "--help").stdout)
        self.assertEqual(self.called(), [])


class Test(WithStandIns):
    def test_it_ends_with_ctests_summary(self):
        done = self.run_script("scripts/test.sh")
        self.assertEqual(done.returncode, 0, done.stderr)
        before, after = done.stdout.split("Minutes per phase")
        self.assertIn("1/1 Test #1", before)
        self.assertNotIn("% tests passed", before)
        self.assertRegex(after, r"label kernels +1\.5  \(processor time\)")
        self.assertRegex(after, r"\n  Build +0\.0\n")
        self.assertTrue(done.stdout.endswith("Total Test time (real) =   1.00 sec\n"))
        self.assertIn("\n100% tests passed", after)

    def test_tiers(self):
        for arguments, wanted in (([], r"-LE ^(cuda|dist|cad|faults|slurm|gguf|fuzz)$"), (["--all"], None),
                                  (["-L", "kernels", "-L", "data"], "-L ^(kernels|data)$")):
            self.calls.unlink(missing_ok=True)
            self.run_script("scripts/test.sh", *arguments)
            call = self.called()[-1]
            self.assertTrue(call.startswith("ctest --test-dir build --output-on-failure"), call)
            self.assertIn(wanted, call) if wanted else self.assertNotIn("-L", call)
            # Who runs everything counts lines meanwhile; the others keep what build/ is configured with.
            configured = next(call for call in self.called() if call.startswith("cmake -S"))
            self.assertEqual("-DPLIMSOLL_COVERAGE=ON" in configured, wanted is None, configured)

    def test_a_failure_is_the_exit_status(self):
        done = self.run_script("scripts/test.sh", CTEST_STATUS="8", CTEST_PERCENT="50")
        self.assertEqual(done.returncode, 8)
        self.assertIn("\n50% tests passed", done.stdout.split("Minutes per phase")[1])

    def test_continuous_integration_runs_everything(self):
        done = self.run_script(".ci/run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("-L", self.called()[-1])

    def test_wrong_usage(self):
        self.assertEqual(self.run_script("scripts/test.sh", "--al").returncode, 2)
        self.assertEqual(self.run_script("scripts/test.sh", "-L").returncode, 2)


if __name__ == "__main__":
    unittest.main()
