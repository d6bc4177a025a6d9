"""Pieces to token shards in llm.c's format (data/token_shards.h), their indices and the manifest."""

import hashlib
import json
import struct
from array import array
from pathlib import Path

from .inputs import BadInput
from .pieces import SPLITS, piece_path, read_header, write_atomically

HEADER_BYTES = 1024
FORMATS = {False: (20240520, 1), True: (20240801, 7)}  # uint16 and uint32: magic, version


class Piece:
    def __init__(self, path):
        self.path = path
        self.header, self.offset = read_header(path)

    def _read(self, code, item_bytes, first, count):
        values = array(code)
        with open(self.path, "rb") as file:
            file.seek(self.offset + first)
            values.frombytes(file.read(count * item_bytes))
        if len(values) != count:
            raise BadInput(f"{self.path}: was cut off; delete it and run again")
        return values

    def ids(self, split, wide):
        size = 4 if wide else 2
        before = 0 if split == "train" else size * self.header["tokens"]["train"]
        return self._read("I" if wide else "H", size, before, self.header["tokens"][split])

    def starts(self, split, wide):
        before = (4 if wide else 2) * sum(self.header["tokens"].values())
        before += 0 if split == "train" else 8 * self.header["documents"]["train"]
        return self._read("Q", 8, before, self.header["documents"][split])


def pieces_of(folder, inputs):
    """-> per input, its pieces in order."""
    found = []
    for number in range(len(inputs)):
        pieces = []
        while not pieces or not pieces[-1].header["last"]:
            pieces.append(Piece(piece_path(folder, number, len(pieces))))
        found.append(pieces)
    return found


def write_index(path, tokens, starts):
    """The sidecar of data/document_index.h."""
    write_atomically(path, [b"PLIMSIDX", struct.pack("<QQQ", 1, tokens, len(starts)), array("Q", starts)])


def write_split(out, split, pieces, shard_tokens, wide, index):
    """Writes one split's shards -> what the manifest says of them."""
    left = sum(piece.header["tokens"][split] for piece in pieces)
    magic, version = FORMATS[wide]
    shards = []
    held, held_starts, offset = array("I" if wide else "H"), [], 0  # read, not yet written; offset: of held, in the split
    waiting = iter(pieces)
    while left > 0:
        count = min(left, shard_tokens)
        while len(held) < count:
            piece = next(waiting)
            held_starts += [offset + len(held) + start for start in piece.starts(split, wide)]
            held += piece.ids(split, wide)
        name = f"{split}_{len(shards):06d}.bin"
        header = struct.pack("<256i", magic, version, count, *[0] * 253)
        tokens = held[:count].tobytes()
        write_atomically(out / name, [header, tokens])
        shards.append({"file": name, "tokens": count, "sha256": hashlib.sha256(header + tokens).hexdigest()})
        inside = [start - offset for start in held_starts if start < offset + count]
        if index:
            write_index(out / f"{name}.idx", count, inside)
        held_starts = held_starts[len(inside):]
        held = held[count:]
        offset += count
        left -= count
    return shards


def write_shards(out, folder, inputs, request, tokenizer, vocab_size, eot):
    """Everything that a data set consists of; the manifest last."""
    out, by_input = Path(out), pieces_of(folder, inputs)
    pieces = [piece for some in by_input for piece in some]
    wide = vocab_size > 65535
    totals = {split: {what: sum(piece.header[what][split] for piece in pieces) for what in ("tokens", "documents")}
              for split in SPLITS}
    if totals["train"]["tokens"] == 0:
        raise BadInput("no training documents: the inputs hold none, or the validation split took all")
    if request["val_fraction"] > 0 and totals["val"]["tokens"] == 0:
        raise BadInput(f"--val-fraction {request['val_fraction']}: of {totals['train']['documents']} documents none fell "
                       "into the validation split, which takes whole documents; use --separator, a larger fraction, "
                       "or --val-fraction 0 (training then keeps data.val_fraction of the tokens for validation)")
    shards = [shard for split in SPLITS
              for shard in write_split(out, split, pieces, request["shard_tokens"], wide, request["index"])]
    manifest = {"format": "plimsoll-shards", "version": 1, "tokenizer": tokenizer, "vocab_size": vocab_size,
                "eot_token": eot, "train_tokens": totals["train"]["tokens"],
                "val_tokens": totals["val"]["tokens"],
                "documents": totals["train"]["documents"] + totals["val"]["documents"],
                "val_documents": totals["val"]["documents"],
                "malformed": sum(piece.header["malformed"] for piece in pieces),
                "empty": sum(piece.header["empty"] for piece in pieces),
                "inputs": [{"path": source.path, "bytes": source.size,
                            "documents": sum(sum(piece.header["documents"].values()) for piece in some),
                            "malformed": sum(piece.header["malformed"] for piece in some)}
                           for source, some in zip(inputs, by_input)],
                "request": request, "shards": shards}
    write_atomically(out / "manifest.json", [json.dumps(manifest, indent=2).encode() + b"\n"])
    return manifest
