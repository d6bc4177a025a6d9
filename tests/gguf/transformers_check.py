#!/usr/bin/env python3
"""Models to and from Hugging Face's transformers, where that is installed.

Out: tiny trained models of plimsoll, by plimsoll export --safetensors, loaded by AutoModelForCausalLM; in: random
models of transformers, by plimsoll import. Logits of 60 random ids in fp32 differ by at most 1e-4 of the largest (sums
in another order: 1e-6), and its tokenizer gives plimsoll's ids.

Without transformers this is skipped; hf_test.cpp compares with logits that it wrote (tests/golden/hf).

usage: tests/gguf/transformers_check.py PLIMSOLL
PLIMSOLL_HF_PYTHON: a Python that has torch and transformers
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from hf_python import in_python_with_transformers  # noqa: E402

TOLERANCE = 1e-4
IDS = 60
TEXT = "To be, or not to be: that is the question\n"

GPT2 = ["model.norm=layer", "model.activation=gelu", "model.position=learned", "model.qk_norm=false"]
OUT = {
    "Llama, GQA": ["model.qk_norm=false", "model.kv_heads=2", "model.tied=false"],
    "Llama, biases, head size 24": ["model.qk_norm=false", "model.bias=true", "model.head_size=24"],
    "Llama, placeholder": ["model.qk_norm=false", "attention.placeholders=1"],
    "Qwen3": ["model.kv_heads=1", "model.rope_theta=500.0"],
    "GPT-2": [*GPT2, "model.bias=true"],
    "GPT-2, untied, no biases": [*GPT2, "model.tied=false"],
}
BASE = ["model.layers=2", "model.channels=64", "model.heads=4", "model.ffn=128", "model.context=64",
        "model.init_std=0.2", "run.precision=fp32", "run.threads=2", "data.source=text", "data.tokenizer=byte",
        "train.micro_batch=2", "train.max_steps=12", "train.max_tokens=0", "train.batch_tokens=0",
        "train.eval_samples=1", "optimizer.lr=0.02", "probes.enabled=false"]


class Checks:
    def __init__(self, plimsoll, folder):
        self.plimsoll, self.folder = plimsoll, Path(folder)
        self.failed = self.passed = 0
        numbers = random.Random(5)
        self.ids = [numbers.randrange(200) for _ in range(IDS)]

    def run(self, *words):
        environment = dict(os.environ, OMP_WAIT_POLICY="passive")
        done = subprocess.run([self.plimsoll, *map(str, words)], capture_output=True, text=True, timeout=120,
                              env=environment)
        if done.returncode:
            raise RuntimeError(f"plimsoll {words[0]}: status {done.returncode}: {done.stderr.strip()[-300:]}")

    def own_logits(self, run, ids):
        import numpy as np
        (self.folder / "ids").write_text(" ".join(map(str, ids)))
        self.run("logits", run, "--ids", self.folder / "ids", "--out", self.folder / "own.npy")
        return np.load(self.folder / "own.npy")

    def judge(self, name, own, other):
        difference = abs(own - other).max() / abs(other).max()
        good = difference <= TOLERANCE
        print(f"{name}: {difference:.1e} of the largest logit{'' if good else ': FAILED'}", flush=True)
        self.passed, self.failed = self.passed + good, self.failed + (not good)

    def check_out(self, name, settings):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        run, out = self.folder / f"run{self.passed}", self.folder / f"out{self.passed}"
        text = f"data.text={ROOT / 'tests/golden/shakespeare_excerpt.txt'}"
        words = [word for setting in (*BASE, text, *settings) for word in ("--set", setting)]
        self.run("train", ROOT / "configs/models/nano.toml", "--run-dir", run, *words)
        self.run("export", run, "--safetensors", out)
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(out)
        read = tokenizer(TEXT)["input_ids"]
        wanted = list(TEXT.encode())
        if "attention.placeholders=1" in settings:
            wanted.insert(0, 256)
        if read != wanted or tokenizer.decode(list(TEXT.encode())) != TEXT:
            raise RuntimeError(f"the tokenizer reads {read}")
        with torch.no_grad():
            self.judge(f"out: {name}", self.own_logits(run, self.ids), model(torch.tensor([self.ids])).logits[0].numpy())

    def check_in(self, name, model):
        import torch
        folder, run = self.folder / f"in{self.passed}", self.folder / f"imported{self.passed}"
        with torch.no_grad():
            for key, value in model.named_parameters():
                gain = value.dim() == 1 and key.endswith("weight")
                value.copy_(gain + 0.15 * torch.randn(value.shape))
            logits = model.eval()(torch.tensor([self.ids])).logits[0].numpy()
        model.save_pretrained(folder, max_shard_size="50KB")
        self.run("import", folder, "--run-dir", run)
        self.judge(f"in: {name}, {len(list(folder.glob('*.safetensors')))} files", self.own_logits(run, self.ids), logits)


def random_models():
    import transformers as t
    small = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=200,
                 max_position_embeddings=64, num_key_value_heads=2, bos_token_id=None, eos_token_id=None)
    yield "Llama", t.LlamaForCausalLM(t.LlamaConfig(**small, attention_bias=True, rope_theta=700.0))
    yield "Mistral, window", t.MistralForCausalLM(t.MistralConfig(**small, sliding_window=9))
    yield "Qwen2", t.Qwen2ForCausalLM(t.Qwen2Config(**small))
    yield "Qwen3", t.Qwen3ForCausalLM(t.Qwen3Config(**small, head_dim=24, tie_word_embeddings=True))
    yield "GPT-2", t.GPT2LMHeadModel(t.GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=64, vocab_size=200,
                                                  bos_token_id=None, eos_token_id=None))


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    if not in_python_with_transformers():
        print("skipped: no Python with torch and transformers (PLIMSOLL_HF_PYTHON names one); hf_test.cpp compares with "
              "logits that transformers wrote")
        return 0
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    torch.manual_seed(3)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="plimsoll_hf_") as folder:
        checks = Checks(str(Path(sys.argv[1]).resolve()), folder)
        for name, settings in OUT.items():
            checks.check_out(name, settings)
        for name, model in random_models():
            checks.check_in(name, model)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
