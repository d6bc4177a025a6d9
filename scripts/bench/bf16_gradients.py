#!/usr/bin/env python3
"""How far gradients in bf16 are from fp32's: plimsoll's beside those of PyTorch under autocast, on the same model.

    scripts/bench/bf16_gradients.py --text book.txt --layers 2

A GPT-2 with plimsoll's initial weights (exported, read by Hugging Face's transformers) on one batch of bytes of a text.
plimsoll's gradient is the change that a step of SGD with learning rate 1 makes; PyTorch's is autograd's. Distances are
relative L2, of the whole gradient and of the tensor where it is largest. That the two programs agree in fp32 shows that
they compute the same; the exit status says whether plimsoll's bf16 is nearer to its fp32 than --factor times autocast's.

PLIMSOLL_HF_PYTHON: a Python that has torch and transformers, if this one has not.
Exit status: 0 it is; 1 it is not; 2 wrong usage; 77 there is no torch or no transformers.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from hf_python import in_python_with_transformers  # noqa: E402

SAME_MODEL = 1e-5  # relative L2 of fp32 gradients: sums in another order (measured: 3e-7)


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plimsoll", default=ROOT / "build/plimsoll", type=Path)
    parser.add_argument("--text", default=ROOT / "tests/golden/shakespeare_excerpt.txt", type=Path)
    for name, value in (("layers", 2), ("channels", 128), ("heads", 4), ("context", 128), ("rows", 16), ("seed", 1)):
        parser.add_argument(f"--{name}", default=value, type=int)
    parser.add_argument("--factor", default=1.0, type=float, help="of autocast's distance that plimsoll's may be")
    return parser.parse_args(words)


class Plimsoll:
    """Weights before and after one step, by Hugging Face's names."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        read = arguments.rows * arguments.context + 1
        wanted = (arguments.rows + 1) * arguments.context  # its rows, and room for later epochs to begin elsewhere
        text = arguments.text.read_bytes()
        if len(text) < wanted:
            sys.exit(f"bf16_gradients: {arguments.text} has {len(text)} bytes, wanted {wanted}; fewer --rows, or --text")
        self.bytes = text[:read]
        (folder / "text").write_bytes(text[:wanted])

    def weights(self, precision, rate):
        from safetensors.torch import load_file

        a, run = self.arguments, self.folder / f"{precision}-{rate}"
        settings = {"run.precision": precision, "run.seed": a.seed, "model.layers": a.layers,
                    "model.channels": a.channels, "model.heads": a.heads, "model.ffn": 4 * a.channels,
                    "model.context": a.context, "data.source": "text", "data.tokenizer": "byte",
                    "data.text": self.folder / "text", "data.val_fraction": 0, "train.micro_batch": a.rows,
                    "train.batch_tokens": a.rows * a.context, "train.max_steps": 1, "train.clip": 0,
                    "optimizer.kind": "sgd", "optimizer.momentum": 0, "optimizer.weight_decay": 0,
                    "optimizer.lr": rate, "schedule.kind": "constant", "schedule.warmup_steps": 0,
                    "probes.enabled": "false"}
        words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        for command in ([a.plimsoll, "train", ROOT / "configs/backbones/gpt2.toml", "--run-dir", run, *words],
                        [a.plimsoll, "export", run, "--safetensors", f"{run}-hf", "--type", "f32"]):
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"bf16_gradients: {' '.join(map(str, command))} ended with {done.returncode}:\n"
                         f"{done.stdout[-1000:]}{done.stderr[-1000:]}")
        return {name: value.double() for name, value in load_file(f"{run}-hf/model.safetensors").items()}

    def model(self):
        """The initial one, as transformers reads it: a step of rate 0 changes nothing."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folder / "fp32-0-hf", dtype="float32").train()


def torch_gradients(model, data, context, autocast):
    """Of the mean loss, by parameter's name."""
    import torch
    import torch.nn.functional as F

    ids = torch.tensor(list(data), dtype=torch.long)
    tokens, targets = ids[:-1].view(-1, context), ids[1:].view(-1, context)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(tokens).logits
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    loss.backward()
    return {name: value.grad.double().clone() for name, value in model.named_parameters()}


def distances(seen, wanted):
    """Relative L2 of all, and the largest of a tensor with its name."""
    squares = {name: (float((seen[name] - w).square().sum()), float(w.square().sum())) for name, w in wanted.items()}
    whole = (sum(d for d, _ in squares.values()) / sum(s for _, s in squares.values())) ** 0.5
    return whole, max(((d / s) ** 0.5, name) for name, (d, s) in squares.items() if s > 0)


def compare(arguments, folder):
    plimsoll = Plimsoll(arguments, Path(folder))
    before = plimsoll.weights("fp32", 0)
    model = plimsoll.model()
    model.config.use_cache = False
    for part in model.modules():  # training without dropout
        if part.__class__.__name__ == "Dropout":
            part.p = 0.0
    theirs = {key: torch_gradients(model, plimsoll.bytes, arguments.context, key == "bf16") for key in ("fp32", "bf16")}
    ours = {}
    for precision in ("fp32", "bf16"):
        after = plimsoll.weights(precision, 1)
        ours[precision] = {name: before[name] - after[name] for name in theirs["fp32"]}
    return {"same model": distances(ours["fp32"], theirs["fp32"]), "plimsoll": distances(ours["bf16"], ours["fp32"]),
            "autocast": distances(theirs["bf16"], theirs["fp32"])}


def main(words=None):
    arguments = parse(words)
    if not in_python_with_transformers():
        print("bf16_gradients: needs torch and transformers; PLIMSOLL_HF_PYTHON names a Python that has them")
        return 77
    import torch

    with tempfile.TemporaryDirectory() as folder:
        found = compare(arguments, folder)
    print("| gradients | relative L2 | largest of a tensor | |\n|---|---:|---:|---|")
    for label, key in (("plimsoll's bf16 from its fp32", "plimsoll"),
                       (f"PyTorch {torch.__version__} autocast's from its fp32", "autocast"),
                       ("plimsoll's fp32 from PyTorch's", "same model")):
        whole, (worst, name) = found[key]
        print(f"| {label} | {whole:.2e} | {worst:.2e} | {name} |")
    if found["same model"][0] > SAME_MODEL:
        print(f"bf16_gradients: the two do not compute the same in fp32 (wanted {SAME_MODEL:g})")
        return 1
    return int(found["plimsoll"][0] > arguments.factor * found["autocast"][0])


if __name__ == "__main__":
    sys.exit(main())
