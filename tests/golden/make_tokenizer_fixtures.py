#!/usr/bin/env python3
"""Writes tests/golden/bpe/: small byte-level BPE tokenizers, trained on the golden text, and what they make of texts.

    pip install tokenizers && python3 tests/golden/make_tokenizer_fixtures.py

tokenizer.json      GPT-2's expression; vocab.json and merges.txt are the same in GPT-2's files
llama3.json         the expression of Llama 3, whole pieces first, a token before the text, an added token
prefix.json         GPT-2's expression with a blank before each text
vectors.json        per file: [text, ids, ids with special tokens parsed]
"""

import json
from pathlib import Path

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
EOT, BOS = "<|endoftext|>", "<|bos|>"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
TEXTS = [
    "", " ", "  ", "\n", "\n\n", " \n x", "\t\tx\n", "a", "First Citizen: speak, speak.", "the  the   the\n",
    "I'm we'll they've you're he'd it's don't 'tis 's", "I'M WE'LL THEY'VE IT'S it'\u017f", "12345678 90 1/2 3.14", "x1y22z333",
    "!!?? ...--- (a) [b] {c}", "!\n!\r\n\r\n", "caf\u00e9 na\u00efve \u00c4pfel \u00df", "\u6f22\u5b57 \u3042\u3044 \ud55c\uad6d\uc5b4",
    "\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f680 e\u0301", "\u00a0x\u2003y\u3000z\u0085w\u001cv", "\u0663\u0664 \u00bd \u2167 \u2460",
    "\u0000\u0001\u007f", f"{EOT}a{EOT}{EOT} b", "<|endoftext", f"a{BOS}b", "  two", "hand in hand", "handhand",
    "\U000105c0 \u1c89",  # letters since Unicode 16.0
]


def trained(pre_tokenizer, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train([str(HERE / "shakespeare_excerpt.txt")], trainer)
    tokenizer.add_special_tokens([EOT])
    return tokenizer


def main():
    out = HERE / "bpe"
    out.mkdir(exist_ok=True)
    gpt2 = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    prefix = trained(pre_tokenizers.ByteLevel(add_prefix_space=True))
    llama3 = trained(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
                     ignore_merges=True)
    llama3.add_special_tokens([BOS])
    llama3.add_tokens(["  two", "hand"])
    llama3.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, llama3.token_to_id(BOS))])
    vectors = {"library": f"tokenizers {tokenizers.__version__}"}
    for name, tokenizer in (("tokenizer", gpt2), ("llama3", llama3), ("prefix", prefix)):
        tokenizer.save(str(out / f"{name}.json"), pretty=False)
        rows = [[text] for text in TEXTS]
        for parse in (False, True):
            tokenizer.encode_special_tokens = not parse
            for row in rows:
                row.append(tokenizer.encode(row[0], add_special_tokens=False).ids)
        vectors[f"{name}.json"] = rows
    lines = [f'"{key}": ' + (json.dumps(value) if isinstance(value, str) else
                             "[\n" + ",\n".join(json.dumps(row) for row in value) + "]")
             for key, value in vectors.items()]
    (out / "vectors.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="ascii")
    model = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    vocab = {**model["vocab"], EOT: gpt2.token_to_id(EOT)}  # as in GPT-2's own, where it is an entry like any other
    (out / "vocab.json").write_text(json.dumps(vocab), encoding="ascii")
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
