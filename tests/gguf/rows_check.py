#!/usr/bin/env python3
"""Every row of the table of architectures (train/export/gguf_table.cpp) against stock llama.cpp.

For each: a tiny network with random weights, and the same after some steps of training; exported as f32; logits of 100
random ids by llama.cpp, 60 of them as one batch and 40 one by one, against plimsoll's in fp64 (and its own in fp32).
A mistake in a layout shows as a difference of the logits' own size. Then: every file read by Python's gguf, q8_0 equal
to llama.cpp's own quantisation byte for byte and loaded, the id that llama.cpp puts before a text, and what is refused.

usage: tests/gguf/rows_check.py PLIMSOLL [ROW]...
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

# Of the largest logit. Sums in fp32 in another order give 1e-5; ggml's GELU is a table in f16.
TOLERANCE, TOLERANCE_OWN, TOLERANCE_GELU = 1e-4, 3e-5, 1e-3
IDS, SPLIT = 100, 60
VOCAB = 256

BASE = """
[run]
precision = "fp32"
threads = 2
measure_peak = false
[model]
layers = 2
channels = 64
heads = 4
ffn = 128
context = 320
init_std = 0.2
norm_eps = 1e-4
[data]
source = "text"
text = "{text}"
tokenizer = "byte"
[train]
micro_batch = 2
max_steps = 1
eval_samples = 1
[optimizer]
lr = 0.0
[probes]
enabled = false
"""

GPT2 = ["model.norm=layer", "model.activation=gelu", "model.position=learned", "model.qk_norm=false"]
# name: (architecture, settings)
ROWS = {
    "llama": ("llama", ["model.qk_norm=false", "model.tied=false"]),
    "llama, GQA, head size 24, theta": ("llama", ["model.qk_norm=false", "model.kv_heads=2", "model.head_size=24",
                                                  "model.rope_theta=500.0"]),
    "llama, biases": ("llama", ["model.qk_norm=false", "model.bias=true", "model.init=pytorch"]),
    "placeholder": ("llama", ["model.qk_norm=false", "attention.placeholders=1"]),
    "qwen3, GQA": ("qwen3", ["model.kv_heads=1", "model.tied=false"]),
    "qwen3, placeholder": ("qwen3", ["attention.placeholders=1"]),
    "gpt2": ("gpt2", [*GPT2, "model.bias=true"]),
    "gpt2, no biases, untied": ("gpt2", [*GPT2, "model.tied=false"]),
    "head-wise gate": ("step35", ["model.qk_norm=false", "attention.gate=headwise"]),
    "head-wise gate, QK-norm, GQA": ("step35", ["attention.gate=headwise", "model.kv_heads=2", "model.tied=false"]),
    "head-wise gate in every second layer": ("step35", ["attention.gate=['none','headwise']"]),
    "element-wise gate": ("qwen35", ["attention.gate=elementwise"]),
    "element-wise gate, GQA, head size 32": ("qwen35", ["attention.gate=elementwise", "model.kv_heads=2",
                                                        "model.head_size=32", "model.tied=false"]),
    "sink logits": ("mimo2", ["model.qk_norm=false", "attention.extra_column=learned"]),
    "softmax1": ("mimo2", ["model.qk_norm=false", "attention.extra_column=constant", "attention.extra_logit=1.5"]),
    "sink logits in every second layer, windows": ("mimo2", [
        "model.qk_norm=false", "attention.extra_column=['none','learned']", "attention.window=[0,24]",
        "model.tied=false"]),
    "window": ("step35", ["attention.window=24", "model.qk_norm=false"]),
    "window in every second layer, QK-norm": ("step35", ["attention.window=[24,0]"]),
    "window in every second layer, gate": ("step35", ["attention.window=[0,24]", "attention.gate=headwise"]),
}
# name: (settings, what the message says)
REFUSED = {
    "sigmoid": (["attention.weighting=sigmoid"], "no conversion exists"),
    "element-wise gate without QK-norm": (["attention.gate=elementwise", "model.qk_norm=false"],
                                          "model.qk_norm = true"),
    "sink logits with QK-norm": (["attention.extra_column=learned"], "model.qk_norm = false"),
    "gate and sink logits": (["attention.extra_column=learned", "model.qk_norm=false", "attention.gate=headwise"],
                             "train with one of them"),
    "two placeholders": (["attention.placeholders=2"], "one token before a text"),
}
TRAINED = ["train.max_steps=12", "optimizer.lr=0.02"]


class Failed(Exception):
    pass


class Checks:
    def __init__(self, plimsoll, folder):
        self.plimsoll, self.folder = plimsoll, Path(folder)
        self.driver = llama_cpp.build()
        self.environment = dict(os.environ, OMP_WAIT_POLICY="passive", GGML_NO_BACKTRACE="1",
                                LD_LIBRARY_PATH=str(self.driver.parent))
        root = Path(__file__).resolve().parents[2]
        self.base = self.folder / "base.toml"
        self.base.write_text(BASE.format(text=root / "tests/golden/shakespeare_excerpt.txt"))
        self.runs = 0

    def run(self, command, status=0):
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120,
                              env=self.environment)
        if done.returncode != status:
            raise Failed(f"{' '.join(map(str, command))}: status {done.returncode}, wanted {status}: "
                         f"{done.stderr.strip()[-300:]}")
        return done.stdout + done.stderr

    def train(self, settings):
        self.runs += 1
        run = self.folder / f"run{self.runs}"
        words = [word for setting in settings for word in ("--set", setting)]
        self.run([self.plimsoll, "train", self.base, "--run-dir", run, *words])
        return run

    def export(self, run, name, *options, status=0):
        file = self.folder / name
        said = self.run([self.plimsoll, "export", run, "--gguf", file, *options], status)
        return file, said

    def ids(self, run):
        numbers = random.Random(7)
        ids = [numbers.randrange(VOCAB) for _ in range(IDS)]
        if "placeholders = 1 " in (run / "config.toml").read_text():
            ids[0] = VOCAB
        file = self.folder / "ids.txt"
        file.write_text(" ".join(map(str, ids)))
        return file

    def own_logits(self, model, ids, precision):
        out = self.folder / "own.npy"
        self.run([self.plimsoll, "logits", model, "--ids", ids, "--out", out, "--precision", precision])
        return np.load(out).astype("f8")

    def stock_logits(self, file, ids):
        out = self.folder / "stock.bin"
        self.run([self.driver, "logits", file, ids, out, SPLIT])
        return np.fromfile(out, "<f4").astype("f8").reshape(IDS, -1)

    def compare(self, run, architecture, name):
        """-> largest difference over the largest logit: llama.cpp's, plimsoll's in fp32"""
        file, said = self.export(run, f"{name}.gguf")
        if f"architecture {architecture}," not in said:
            raise Failed(f"exported as: {said}")
        ids = self.ids(run)
        exact = self.own_logits(run, ids, "fp64")
        stock, own = self.stock_logits(file, ids), self.own_logits(run, ids, "fp32")
        largest = abs(exact).max()
        return abs(stock - exact).max() / largest, abs(own - exact).max() / largest

    def read_by_gguf(self, file):
        reader = llama_cpp.gguf_reader()(str(file))
        return {tensor.name: tensor for tensor in reader.tensors}

    def check_row(self, name):
        architecture, settings = ROWS[name]
        tolerance = TOLERANCE_GELU if architecture == "gpt2" else TOLERANCE
        differences = []
        for more in ([], TRAINED):
            run = self.train(settings + more)
            stock, own = self.compare(run, architecture, "row")
            differences.append(f"{stock:.1e}")
            if not stock <= tolerance or not own <= TOLERANCE:
                raise Failed(f"llama.cpp differs by {stock:.1e} of the largest logit, plimsoll in fp32 by {own:.1e}; "
                             f"wanted at most {tolerance}")
        self.check_quantised(run)
        if "attention.placeholders=1" in settings:
            self.check_first_id(self.folder / "row.gguf")
        return f"random {differences[0]}, trained {differences[1]}"

    def check_quantised(self, run):
        """q8_0 has the bytes of llama.cpp's own quantisation, and loads; so do f16 and bf16."""
        file = self.folder / "row.gguf"
        tensors = self.read_by_gguf(file)
        theirs = self.folder / "theirs.gguf"
        self.run([self.driver, "quantize", file, theirs])
        quantised = self.read_by_gguf(theirs)
        ids = self.ids(run)
        for kind in ("q8_0", "f16", "bf16"):
            ours_file, _ = self.export(run, f"{kind}.gguf", "--type", kind)
            ours = self.read_by_gguf(ours_file)
            if set(ours) != set(tensors):
                raise Failed(f"{kind}: other tensors than f32")
            self.stock_logits(ours_file, ids)
            if kind != "q8_0":
                continue
            equal = [n for n in ours if ours[n].tensor_type == quantised[n].tensor_type]
            for n in equal:
                if ours[n].data.tobytes() != quantised[n].data.tobytes():
                    raise Failed(f"q8_0: {n} has other bytes than llama.cpp's quantisation")
            if not any(ours[n].tensor_type.name == "Q8_0" for n in equal):
                raise Failed("nothing is q8_0")
        self.stock_logits(theirs, ids)

    def check_first_id(self, file):
        text = self.folder / "text.txt"
        text.write_bytes("To be, or not\n\tto be: \u00e9\u6f22 42".encode())
        ids = [int(word) for word in self.run([self.driver, "tokenize", file, text]).splitlines()[0].split()]
        if ids != [VOCAB, *text.read_bytes()]:
            raise Failed(f"llama.cpp reads a text as {ids}")

    def check_refused(self, name):
        settings, message = REFUSED[name]
        run = self.train(settings)
        file, said = self.export(run, "refused.gguf", status=78)
        if message not in said or "--arch plimsoll" not in said or file.exists():
            raise Failed(f"said: {said}")
        own, _ = self.export(run, "own.gguf", "--arch", "plimsoll")
        self.read_by_gguf(own)
        ids = self.ids(run)
        read_back = self.own_logits(own, ids, "fp32")
        if (read_back != self.own_logits(run, ids, "fp32")).any():
            raise Failed("logits of the file are not those of the run to the bit")
        exact = self.own_logits(run, ids, "fp64")
        difference = abs(read_back - exact).max() / abs(exact).max()
        if not difference <= TOLERANCE_OWN:
            raise Failed(f"logits of the file differ from those in fp64 by {difference:.1e} of the largest")
        said = self.run([self.driver, "logits", own, ids, self.folder / "never.bin", SPLIT], 1)
        if "unknown model architecture: 'plimsoll'" not in said:
            raise Failed(f"llama.cpp said: {said}")
        return f"refused; plimsoll's own is {difference:.1e} from fp64, and refused by stock llama.cpp"


def main():
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory(prefix="plimsoll_gguf_") as folder:
        try:
            checks = Checks(sys.argv[1], folder)
        except llama_cpp.Missing as missing:
            print(f"skipped: {missing}")
            return 0
        failed = passed = 0
        for name in [*ROWS, *REFUSED]:
            if sys.argv[2:] and name not in sys.argv[2:]:
                continue
            try:
                said = checks.check_row(name) if name in ROWS else checks.check_refused(name)
                print(f"{name}: {said}", flush=True)
                passed += 1
            except Failed as error:
                print(f"{name}: FAILED: {error}", flush=True)
                failed += 1
        print(f"{passed} passed, {failed} failed")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
