"""plimsoll generate from outside: text, seeds, streams, and prompts that nobody should write."""

import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tiny_text import ROOT, TinyRuns  # noqa: E402


class Generate(TinyRuns):
    MORE = ["--set", "model.context=32", "--set", "train.max_steps=3", "--set", "probes.enabled=false"]
    RUNS = {"byte": ["--set", "data.tokenizer=byte"], "char": [], "learned": ["--set", "model.position=learned"],
            "placeholder": ["--variant", "placeholder"],
            "prefix": ["--variant", "prefix_lm", "--set", "attention.prefix=8", "--set", "data.tokenizer=byte"],
            "bb": ["--set", "data.source=bigram_backcopy", "--set", "data.text=", "--set", "data.val_samples=8"]}

    def generate(self, run, *arguments, stdin=b"", code=0):
        return self.plimsoll("generate", run, *arguments, stdin=stdin, code=code)

    def refuse(self, run, words, *arguments, stdin=b""):
        error = self.generate(run, *arguments, stdin=stdin, code=78).stderr.decode(errors="replace")
        for word in words:
            self.assertIn(word, error)

    def test_equal_seeds_give_equal_text_from_either_kind_of_prompt(self):
        first = self.generate("byte", "--prompt", "ROMEO", "--max-tokens", 20)
        self.assertEqual(len(first.stdout), 20)
        self.assertRegex(first.stderr.decode(), r"step 3, fp32: prompt 5 tokens in .* tokens/s\); generated 20 tokens in")
        self.assertEqual(self.generate("byte", "--max-tokens", 20, stdin=b"ROMEO").stdout, first.stdout)
        self.assertNotEqual(self.generate("byte", "--max-tokens", 20, "--seed", 1, stdin=b"ROMEO").stdout, first.stdout)

    def test_the_context_is_an_end_and_a_stream_has_none(self):
        done = self.generate("byte", "--prompt", "ROMEO", "--max-tokens", 100)
        self.assertEqual(len(done.stdout), 32 - 5 + 1)
        self.assertIn("the context of 32 tokens is full; --streaming 32 goes on", done.stderr.decode())
        for run in ("byte", "placeholder"):
            text = self.generate(run, "--prompt", "ROMEO" * 20, "--streaming", 16, "--max-tokens", 700).stdout
            self.assertEqual(len(text), 700)
        self.refuse("byte", ["has 33 tokens", "32 positions", "--streaming 32"], "--prompt", "x" * 33)
        self.refuse("learned", ["learned"], "--prompt", "x", "--streaming", 16)
        self.refuse("byte", ["--streaming is 33"], "--prompt", "x", "--streaming", 33)
        self.refuse("byte", ["--sinks goes with --streaming"], "--prompt", "x", "--sinks", 2)

    def test_a_prefix_is_read_as_a_whole_before_anything_is_drawn(self):
        done = self.generate("prefix", "--prompt", "ROMEO: a", "--max-tokens", 100)
        self.assertEqual(len(done.stdout), 32 - 8 + 1)
        # Greedy, so that only what is seen decides: the text so far, as a longer prompt, gives the same next bytes.
        greedy = ("--temperature", 0, "--max-tokens")
        text = self.generate("prefix", "--prompt", "ROMEO: a", *greedy, 10).stdout
        longer = self.generate("prefix", *greedy, 4, stdin=b"ROMEO: a" + text[:6]).stdout
        self.assertEqual(longer, text[6:])
        self.refuse("prefix", ["the prompt has 7 tokens", "attention.prefix = 8", "longer text"], "--prompt", "ROMEO: ")
        self.refuse("prefix", ["attention.prefix = 8"], "--prompt", "ROMEO: a", "--streaming", 16)

    def test_hostile_prompts_are_text_or_one_line_of_error(self):
        every_byte = bytes(range(256))
        for prompt in (every_byte[:31], every_byte[128:159], b"\xff\xfe\x00", b"\xf0\x9f\x98", "\u202e漢字😀".encode(), b"\x1b[2J"):
            self.assertGreater(len(self.generate("byte", "--max-tokens", 3, stdin=prompt).stdout), 0)
        self.refuse("byte", ["tokens"], stdin=os.urandom(1 << 20))
        self.refuse("byte", ["prompt is empty"])
        self.refuse("byte", ["prompt is empty"], "--prompt", "")
        self.refuse("char", ["byte 0", "not among"], stdin=b"\xff\x00")
        self.refuse("byte", ["--temperature"], "--prompt", "x", "--temperature", "nan")
        self.refuse("byte", ["--max-tokens"], "--prompt", "x", "--max-tokens", "-1")
        self.refuse("bb", ["no tokenizer"], "--prompt", "x")
        self.refuse("nowhere", ["does not exist"], "--prompt", "x")
        self.refuse(ROOT, ["neither a run"], "--prompt", "x")


if __name__ == "__main__":
    unittest.main()
