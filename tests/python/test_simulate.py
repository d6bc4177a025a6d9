"""`plimsoll simulate` and the report of what it found, from outside."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build" / "plimsoll"))
REPORT = ROOT / "scripts" / "simulate_report.py"
POLICIES = ["fixed packing", "fixed + sequence CP", "fixed + document CP", "WLB-like", "perfect packing", "CAD",
            "CAD, no ping-pong", "CAD, free traffic"]


@unittest.skipUnless(BINARY.exists(), f"{BINARY} is not built")
class Simulate(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def simulate(self, *arguments):
        return subprocess.run([BINARY, "simulate", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                              cwd=ROOT)

    def report(self, *arguments):
        return subprocess.run([sys.executable, REPORT, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def grid(self, name="grid.json"):
        file = self.folder / name
        done = self.simulate("configs/simulate/llama.toml", "--json", file, "--set", "simulate.iterations=2", "--set",
                             'simulate.sweep=["lengths.context=131072 | lengths.context=262144", '
                             '"parallel.stages=1 | parallel.stages=4 parallel.micro_batches=6"]')
        self.assertEqual(done.returncode, 0, done.stderr)
        return file, done.stdout

    def test_every_number_says_that_it_is_simulated(self):
        file, text = self.grid()
        self.assertIn("every number is simulated", text)
        self.assertEqual(len(re.findall("simulated speed-up of CAD", text)), 4)
        document = json.loads(file.read_text())
        self.assertIs(document["simulated"], True)
        for cell in document["cells"]:
            self.assertEqual([policy["policy"] for policy in cell["policies"]], POLICIES)
            for policy in cell["policies"]:
                self.assertEqual(len(policy["seconds"]), 2)
                self.assertGreaterEqual(policy["p95"], policy["p50"])
                self.assertGreaterEqual(policy["imbalance"], 1)
        page = self.report(file)
        self.assertEqual(page.returncode, 0, page.stderr)
        html = file.with_suffix(".html").read_text()
        self.assertEqual(html.count("<svg"), html.count("simulated)</text>"))
        for outside in ("<script", "src=", "href=", "url("):
            self.assertNotIn(outside, html)
        table = self.report(file, "--markdown").stdout
        self.assertIn("| simulated |", table)
        self.assertEqual(len(table.splitlines()), 4)
        self.assertEqual(self.grid("again.json")[0].read_text(), file.read_text())

    def test_lengths_come_from_a_file_or_a_corpus(self):
        lengths = self.folder / "lengths.txt"
        lengths.write_text("# of my corpus\n4096\n100000\n")
        one = ["configs/simulate/calibration.toml", "--set", "simulate.iterations=2"]
        done = self.simulate(*one, "--set", "lengths.source=file", "--set", f"lengths.path={lengths}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("file documents", done.stdout)
        text = self.folder / "book.txt"
        text.write_text("|".join(("to be or not to be " * 40)[:n] for n in (700, 20, 90, 300) * 40))
        config = self.folder / "run.toml"
        config.write_text(f'[data]\nsource = "text"\ntext = "{text}"\ndocument_mask = true\ndocument_separator = "|"\n'
                          'val_fraction = 0.1\n')
        corpus = ["--set", "lengths.source=corpus", "--set", f"lengths.path={config}", "--set", "lengths.context=1024",
                  "--set", "lengths.rows=8", "--set", "parallel.tokens=4096"]
        done = self.simulate(*one, *corpus)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_bad_input_is_one_line_and_78(self):
        bad = self.folder / "bad.toml"
        for text, words in (("[cluster]\nnode = 3\n", ["bad.toml:2", "'node'", "'nodes'"]),
                            ("[parallel]\nstages = 7\n", ["bad.toml:2", "parallel.stages"]),
                            ("[lengths]\nsource = \"file\"\npath = \"no_such.txt\"\n", ["no_such.txt"]),
                            ("[simulate]\nsweep = [\"cluster.nodes\"]\n", ["cluster.nodes", "section.key=value"])):
            bad.write_text(text)
            done = self.simulate(bad)
            self.assertEqual(done.returncode, 78, done.stderr)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
        other = self.folder / "other.json"
        other.write_text('{"cells": []}')
        self.assertEqual(self.report(other).returncode, 1)
        self.assertEqual(self.report(self.folder / "none.json").returncode, 1)


if __name__ == "__main__":
    unittest.main()
