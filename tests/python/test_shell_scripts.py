"""quickstart.sh, test.sh and install_dependencies.sh with stand-ins for apt-get, cmake, ctest and plimsoll: what they
call, in which order, what they print and how they end."""

import os
import shutil
import subprocess
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

    def test_wrong_usage(self):
        self.assertEqual(self.as_user(0, "--frobnicate").returncode, 2)


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
