#!/usr/bin/env python3
"""llama.cpp's own tokenizer vectors (models/ggml-vocab-NAME.gguf, .inp, .out) through `plimsoll data encode`.

    tokenizer_vectors.py PLIMSOLL [FOLDER]

FOLDER is llama.cpp's models/; by default that of the source package that llama_cpp.py unpacks. Without it the test is
skipped. The vocabulary, merges and added tokens of the GGUF file become a tokenizer file, as they are.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from llama_cpp import SOURCE
from read_gguf import read_metadata

NORMAL, CONTROL = 1, 3
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
# Vocabulary: expression, and whether whole pieces that are tokens come before merges.
VOCABULARIES = {"gpt-2": (GPT2, False), "llama-bpe": (LLAMA3, True), "qwen2": (LLAMA3.replace("{1,3}", ""), False)}
SEPARATOR = "\n__ggml_vocab_test__\n"


def write_gpt2_files(meta, folder):
    """vocab.json and merges.txt -> the path of the former."""
    vocab = {token: i for i, token in enumerate(meta["tokenizer.ggml.tokens"])}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *meta["tokenizer.ggml.merges"], ""])
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return folder / "vocab.json"


def write_tokenizer_json(meta, regex, ignore_merges, folder):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": types[i] == CONTROL} for i, token in enumerate(tokens) if types[i] != NORMAL]
    file = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": None,
            "decoder": {**byte_level, "use_regex": True},
            "model": {"type": "BPE", "ignore_merges": ignore_merges,
                      "vocab": {token: i for i, token in enumerate(tokens) if types[i] == NORMAL},
                      "merges": meta["tokenizer.ggml.merges"]}}
    (folder / "tokenizer.json").write_text(json.dumps(file), encoding="utf-8")
    return folder / "tokenizer.json"


def failures(plimsoll, tokenizer, texts, wanted):
    """Texts whose ids, or whose text from these ids, are others than wanted."""
    def run(command, lines):
        done = subprocess.run([plimsoll, "data", command, "--tokenizer", str(tokenizer), "--json-lines"],
                              input="".join(json.dumps(line) + "\n" for line in lines), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"plimsoll data {command}: status {done.returncode}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]
    ids = run("encode", texts)
    found = [f"{text!r}: {seen}, wanted {want}" for text, seen, want in zip(texts, ids, wanted, strict=True)
             if seen != want]
    return found + [f"{text!r} comes back as {back!r}" for text, back in zip(texts, run("decode", ids), strict=True)
                    if text != back]


def main():
    plimsoll = sys.argv[1]
    models = Path(sys.argv[2]) if len(sys.argv) > 2 else SOURCE / "models"
    if not (models / "ggml-vocab-gpt-2.gguf").is_file():
        print(f"skipped: no llama.cpp vocabularies in '{models}'; tests/gguf/llama_cpp.py fetches them")
        return 0
    bad = 0
    for name, (regex, ignore_merges) in VOCABULARIES.items():
        path = models / f"ggml-vocab-{name}.gguf"
        if not path.is_file():
            print(f"{name}: not there")
            continue
        meta = read_metadata(path)
        texts = Path(f"{path}.inp").read_bytes().decode("utf-8").split(SEPARATOR)
        lines = Path(f"{path}.out").read_text(encoding="utf-8").splitlines()
        wanted = [[int(word) for word in line.split()] for line in lines]
        if not texts[-1]:  # the file ends with a separator
            texts.pop()
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            files = [write_tokenizer_json(meta, regex, ignore_merges, folder)]
            if name == "gpt-2":
                files.append(write_gpt2_files(meta, folder))
            for file in files:
                found = failures(plimsoll, file, texts, wanted)
                print(f"{name}, {file.name}: {len(texts)} texts, {len(found)} failures")
                print("\n".join(found), end="\n" if found else "")
                bad += len(found)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
