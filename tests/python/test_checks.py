"""scripts/check_includes.py and scripts/check_style.py: each rule catches its breach, and this repository keeps all. And
every mutation of scripts/mutations/ finds what it breaks."""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import check_includes  # noqa: E402
import check_style  # noqa: E402
import mutation_test  # noqa: E402


class Tree(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)

    def write(self, name, text, mode=None):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if mode:
            path.chmod(mode)


class Includes(Tree):
    ALLOWED = ("kernels/error.h", "data/batch.h", "dist/ranks.h", "model/block.h", "train/trainer.h",
               "tests/support/oracle.h")

    def included(self, room, header, form='#include "{}"\n'):
        for name in self.ALLOWED:
            self.write(name, "#pragma once\n")
        self.write(f"{room}/some.cpp", form.format(header))
        found = check_includes.problems(self.root)
        (self.root / f"{room}/some.cpp").unlink()
        return found

    def test_every_pair_of_rooms(self):
        legal = {"kernels": {"kernels"}, "data": {"data", "kernels"}, "dist": {"kernels", "dist"},
                 "model": {"kernels", "model"}, "train": {"kernels", "data", "dist", "model", "train"}}
        for room, may in legal.items():
            for header in self.ALLOWED:
                with self.subTest(room=room, header=header):
                    found = self.included(room, header)
                    self.assertEqual(len(found), 0 if header.split("/")[0] in may else 1, found)

    def test_data_may_not_include_the_rest_of_kernels(self):
        self.write("kernels/attention.h", "")
        self.assertEqual(self.included("data", "kernels/attention.h"),
                         ["data/some.cpp:1: data/ includes kernels/attention.h; it may include data, kernels/dtype.h, "
                          "kernels/error.h, kernels/random.h"])

    def test_angle_brackets_relative_paths_and_missing_headers_are_no_way_out(self):
        self.assertEqual(len(self.included("model", "data/batch.h", "#include <{}>\n")), 1)
        self.assertEqual(len(self.included("model", "../data/batch.h")), 1)
        self.assertEqual(len(self.included("model", "train/generated.h")), 1)
        self.assertEqual(len(self.included("model", "data/batch.h", "  #  include   \"{}\"  // why\n")), 1)

    def test_foreign_headers_and_comments_are_fine(self):
        self.assertEqual(self.included("kernels", "nlohmann/json.hpp", "#include <{}>\n"), [])
        self.assertEqual(self.included("kernels", "train/trainer.h", '// #include "{}"\n'), [])

    def test_tests_may_include_everything(self):
        self.assertEqual(self.included("tests/model", "train/trainer.h"), [])

    def test_this_repository(self):
        self.assertEqual(check_includes.problems(ROOT), [])

    def test_exit_status(self):
        self.write("kernels/a.h", '#include "train/b.h"\n')
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(check_includes.main([str(self.root)]), 1)
        self.assertIn("kernels/a.h:1", said.getvalue())


class Style(Tree):
    def test_clean(self):
        self.write("kernels/a.h", "#pragma once\nint a();\n")
        self.write("README.md", "words\n\n```sh\nls\n```\n")
        self.assertEqual(check_style.problems(self.root), [])

    def test_each_rule(self):
        cases = {
            "kernels/long.cpp": ("int a;\n" * 501, "501 lines"),
            "kernels/tab.cpp": ("\tint a;\n", "tab"),
            "kernels/wide.cpp": ("int a;" + " " * 110 + "int b;\n", "122 columns"),
            "scripts/space.py": ("a = 1 \n", "trailing whitespace"),
            "kernels/bare.h": ("int a();\n", "no #pragma once"),
            "configs/path.toml": ('text = "/ho' + 'me/someone/text.txt"\n', "absolute path of a machine"),
        }
        for name, (text, message) in cases.items():
            with self.subTest(name=name):
                self.write(name, text)
                found = check_style.problems(self.root)
                self.assertEqual(len(found), 1, found)
                self.assertTrue(found[0].startswith(name) and message in found[0], found)
                (self.root / name).unlink()

    def test_what_is_not_a_machine_path(self):
        self.write("scripts/a.sh", '# /usr/bin/python3 /dev/null https://example.org/ho' + 'me/page $HOME/wo' + 'rk/x\n')
        self.assertEqual(check_style.problems(self.root), [])

    def test_golden_fixtures_and_build_directories_are_left_alone(self):
        self.write("tests/golden/block.toml", "x = 1 \n" * 900)
        self.write("build/generated.h", "\tint a();\n")
        self.write("runs/a/config.toml", "x = 1 \n")
        self.assertEqual(check_style.problems(self.root), [])

    def test_readme_commands(self):
        self.write("scripts/run.sh", "true\n", 0o755)
        self.write("scripts/plain.sh", "true\n", 0o644)
        self.write("train/main.cpp", 'app.add_subcommand("train", "");\n')
        self.write("README.md", "```sh\nscripts/run.sh --all   # fine\nscripts/gone.sh\nscripts/plain.sh\n"
                   "build/plimsoll train configs/absent.toml --run-dir runs/x\nbuild/plimsoll fly\n"
                   "cat 'configs/*.toml' tests/<name>_test.cpp\n```\nscripts/not_in_a_block.sh\n"
                   "```cpp\nscripts/also_not.sh\n```\n")
        self.assertEqual(check_style.problems(self.root), [
            "README.md:3: scripts/gone.sh does not exist", "README.md:4: scripts/plain.sh is not executable",
            "README.md:5: configs/absent.toml does not exist", "README.md:6: plimsoll has no subcommand 'fly'"])

    def test_this_repository(self):
        self.assertEqual(check_style.problems(ROOT), [])


class Mutations(unittest.TestCase):
    def test_each_finds_its_text_once(self):
        names = [mutation.name for mutation in mutation_test.applicable(ROOT)]
        self.assertGreater(len(names), 100)
        self.assertEqual(len(names), len(set(names)))


if __name__ == "__main__":
    unittest.main()
