"""Parts of inputs as token ids, each in a file of its own that is either whole or not there.

A piece file is a line of JSON, then little-endian: ids of training documents, ids of validation documents (uint16 or
uint32), and where the documents of each start among them (uint64).
"""

import hashlib
import json
import os
import sys
import threading
import time
from array import array
from pathlib import Path

from .inputs import BadInput, Malformed, library

SPLITS = ("train", "val")
BATCH = 256  # documents given to the library at once
NAMED = 5  # malformed lines of a piece that are named

assert sys.byteorder == "little" and array("H").itemsize == 2 and array("I").itemsize == 4


def write_atomically(path, parts):
    """Writes to a temporary name, flushes, renames: after a crash `path` holds all of it or what it held before."""
    path = Path(path)
    temporary = path.with_name(path.name + ".temporary")
    with open(temporary, "wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def piece_path(folder, source, part):
    return Path(folder) / f"{source:06d}_{part:06d}.piece"


def read_header(path):
    """The first line of a piece file and the offset behind it."""
    with open(path, "rb") as file:
        line = file.readline()
        return json.loads(line), file.tell()


class Encoder:
    """Documents to pieces, by one tokenizer. `eot` is None where documents are marked by an index instead."""

    def __init__(self, tokenizer, eot, val_fraction, strict):
        self.tokenizer, self.eot, self.strict = tokenizer, eot, strict
        self.tokenizer.encode_special_tokens = True  # a document that says <|endoftext|> does not end there
        self.wide = tokenizer.get_vocab_size() > 65535
        # The first 64 bits of a text's hash are below this for validation: the same text is always on the same side.
        self.val_below = int(val_fraction * 2**64)

    def split_of(self, text):
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
        return "val" if int.from_bytes(digest, "big") < self.val_below else "train"

    def write(self, path, documents, facts):
        """Encodes the documents of a part into a piece file."""
        code = "I" if self.wide else "H"
        ids = {split: array(code) for split in SPLITS}
        starts = {split: array("Q") for split in SPLITS}
        malformed, named, empty = 0, [], 0

        def flush(texts):
            for text, encoding in zip(texts, self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
                split = self.split_of(text)
                starts[split].append(len(ids[split]))
                if self.eot is not None:
                    ids[split].append(self.eot)
                ids[split].extend(encoding.ids)
        batch = []
        for document in documents:
            if isinstance(document, Malformed):
                if self.strict:
                    raise BadInput(str(document))
                malformed += 1
                if len(named) < NAMED:
                    named.append(str(document))
            elif not document:
                empty += 1
            else:
                batch.append(document)
                if len(batch) == BATCH:
                    flush(batch)
                    batch = []
        if batch:
            flush(batch)
        header = {**facts, "tokens": {s: len(ids[s]) for s in SPLITS}, "documents": {s: len(starts[s]) for s in SPLITS},
                  "malformed": malformed, "named": named, "empty": empty}
        write_atomically(path, [json.dumps(header).encode() + b"\n", *(ids[s] for s in SPLITS),
                                *(starts[s] for s in SPLITS)])


# In a worker process.
_encoder = None


def start_worker(tokenizer_file, eot, val_fraction, strict, parent):
    """Loads the tokenizer once; ends the process when its parent is gone, also if that was killed."""
    global _encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    tokenizers = library("tokenizers")
    _encoder = Encoder(tokenizers.Tokenizer.from_file(tokenizer_file), eot, val_fraction, strict)

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def encode_part(folder, number, source, part):
    """Writes the pieces of one part, or of a whole compressed file, as far as they are missing."""
    if part is not None:
        path = piece_path(folder, number, part)
        if not path.exists():
            parts = source.parts()
            read = source.size * (part + 1) // parts - source.size * part // parts
            _encoder.write(path, source.read(part), {"input_bytes": read, "last": part == parts - 1})
        return
    before = 0
    for number_of_part, (position, documents, last) in enumerate(_with_last(source.stream())):
        path = piece_path(folder, number, number_of_part)
        if not path.exists():
            _encoder.write(path, documents, {"input_bytes": position - before, "last": last})
        before = position


def _with_last(parts):
    """(position, documents) -> (position, documents, whether it is the last)."""
    held = None
    for item in parts:
        if held is not None:
            yield *held, False
        held = item
    yield *held, True
