"""The tokenizer of a data set: trained on it, or read from a file."""

import hashlib
import json
from pathlib import Path

from .inputs import BadInput, Malformed, library

EOT = "<|endoftext|>"
EOT_NAMES = (EOT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")  # as data/bpe.cpp looks for them


def train(documents, vocab_size):
    """A byte-level BPE of GPT-2's kind with `vocab_size` ids, the last of them <|endoftext|>."""
    tokenizers = library("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 1:
        raise BadInput(f"--train-vocab {vocab_size}: wanted at least {len(alphabet) + 1}, all bytes and {EOT}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.add_special_tokens([EOT])
    return tokenizer


def load(path):
    """A Hugging Face tokenizer.json, or GPT-2's vocab.json with merges.txt beside it, or a folder with either."""
    tokenizers = library("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers
    path = Path(path)
    if path.is_dir():
        path = path / ("tokenizer.json" if (path / "tokenizer.json").exists() else "vocab.json")
    try:
        if path.name != "vocab.json":
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        else:
            model = models.BPE.from_file(str(path), str(path.with_name("merges.txt")))
            tokenizer = tokenizers.Tokenizer(model)
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            if tokenizer.token_to_id(EOT) is not None:
                tokenizer.add_special_tokens([EOT])
    except Exception as error:  # the library throws plain Exception
        raise BadInput(f"tokenizer file '{path}': {error}") from None
    file = json.loads(tokenizer.to_str())
    parts = {key: (file[key] or {}).get("type") for key in ("model", "decoder", "normalizer")}
    if parts != {"model": "BPE", "decoder": "ByteLevel", "normalizer": None}:
        raise BadInput(f"tokenizer file '{path}': model {parts['model']}, decoder {parts['decoder']}, normalizer "
                       f"{parts['normalizer']}; plimsoll reads BPE with decoder ByteLevel and without a normalizer")
    tokenizer.no_truncation()  # documents are encoded whole
    tokenizer.no_padding()
    return tokenizer


def eot_of(tokenizer):
    """The id that plimsoll takes for end of text, or None."""
    specials = [token for token in tokenizer.get_added_tokens_decoder().items() if token[1].special]
    for name in EOT_NAMES:
        for number, token in specials:
            if token.content == name:
                return number
    return specials[0][0] if len(specials) == 1 else None


def fnv1a64(data):
    """As hash_name of kernels/random.h."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def describe(path):
    """What the manifest says of a tokenizer file."""
    data = Path(path).read_bytes()
    return {"kind": json.loads(data)["model"]["type"].lower(), "file": Path(path).name, "fnv1a64": fnv1a64(data),
            "sha256": hashlib.sha256(data).hexdigest()}


def sample(inputs, most_bytes):
    """Documents to train on: all, or those of parts spread evenly over the inputs, up to some `most_bytes`."""
    total = sum(source.size for source in inputs)
    every = max(1, -(-total // most_bytes))
    taken, number = 0, 0
    for source in inputs:
        parts = source.parts()
        pieces = (documents for _, documents in source.stream()) if parts is None else map(source.read, range(parts))
        for documents in pieces:
            number += 1
            if (number - 1) % every:
                continue
            for document in documents:
                if isinstance(document, Malformed):
                    continue
                taken += len(document)
                yield document
                if taken >= most_bytes:
                    return
