#!/usr/bin/env python3
"""Turns documents into token shards that plimsoll, llm.c and modded-nanogpt read.

    scripts/prepare_data.py --train-vocab 8192 --out data_out stories/*.jsonl.zst
    scripts/prepare_data.py --tokenizer tokenizer.json --out data_out web/*.parquet notes.txt --separator '<|endoftext|>'

Inputs: .txt (one document, or several between --separator), .jsonl and .jsonl.zst (an object per line), .parquet. Output:
train_*.bin and val_*.bin, tokenizer.json, and last manifest.json. A run that was killed goes on where it was when the
same command is given again; the result does not depend on that, nor on --jobs.

Needs the Python library tokenizers; pyarrow for .parquet, zstandard for .jsonl.zst.
Exit status: 0 done, 2 a library is missing or the command line is wrong, 74 reading or writing failed, 78 input or
options that cannot be used.
"""

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from plimsoll_data import vocabulary
from plimsoll_data.inputs import BadInput, MissingLibrary, library, open_inputs
from plimsoll_data.pieces import encode_part, piece_path, read_header, start_worker, write_atomically
from plimsoll_data.shards import pieces_of, write_shards

WORK = ".work"  # in the output folder, until everything is written
LARGEST_SHARD = 2**31 - 1  # tokens, what a shard's header can say


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files or patterns")
    parser.add_argument("--out", required=True, type=Path, help="folder to make")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--train-vocab", type=int, metavar="N",
                       help="train a byte-level BPE with N ids, <|endoftext|> included, on the inputs")
    which.add_argument("--tokenizer", metavar="FILE", help="Hugging Face's tokenizer.json, or GPT-2's vocab.json")
    parser.add_argument("--train-bytes", type=int, default=10**9, help="train the BPE on at most so much text")
    parser.add_argument("--field", default="text", help="of JSON objects and Parquet tables (text)")
    parser.add_argument("--separator", default="", help="string between the documents of a .txt")
    parser.add_argument("--val-fraction", type=float, default=0.01,
                        help="share of documents for validation, chosen by a hash of their text (0.01)")
    parser.add_argument("--shard-tokens", type=int, default=10**8, help="tokens per shard (100000000)")
    parser.add_argument("--part-bytes", type=int, default=8 << 20,
                        help="text that is encoded, and kept when the run is killed, as one (8388608)")
    parser.add_argument("--index", action="store_true",
                        help="mark documents by index files (.idx) instead of an end-of-text token before each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (all cores)")
    parser.add_argument("--strict", action="store_true", help="stop at the first malformed line")
    options = parser.parse_args(arguments)
    if not 0 <= options.val_fraction < 1:
        parser.error(f"--val-fraction {options.val_fraction}: wanted at least 0 and less than 1")
    if not 1 <= options.shard_tokens <= LARGEST_SHARD:
        parser.error(f"--shard-tokens {options.shard_tokens}: wanted 1 to {LARGEST_SHARD}")
    for name in ("jobs", "train_bytes", "part_bytes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: wanted at least 1")
    return options


def request_of(options, inputs):
    """What decides the result, as JSON. Files are known by size and time of change."""
    tokenizer = {"trained": options.train_vocab, "on_bytes": options.train_bytes}
    if options.tokenizer:
        path = Path(options.tokenizer)
        files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
        if not files:
            raise BadInput(f"--tokenizer '{path}': no such file")
        tokenizer = {"file": options.tokenizer, "sizes": [file.stat().st_size for file in files],
                     "times": [file.stat().st_mtime_ns for file in files]}
    return {"inputs": [[source.path, source.size, Path(source.path).stat().st_mtime_ns] for source in inputs],
            "tokenizer": tokenizer, "field": options.field, "separator": options.separator,
            "val_fraction": options.val_fraction, "shard_tokens": options.shard_tokens, "index": options.index,
            "strict": options.strict, "part_bytes": options.part_bytes}


def differences(old, new):
    return ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))


class Folder:
    """The output folder: whether it is new, under way or done, and who works in it."""

    def __init__(self, path, request):
        self.path, self.work = path, path / WORK
        shutil.rmtree(path / (WORK + ".removed"), ignore_errors=True)
        if path.exists() and not self.work.exists():
            manifest = path / "manifest.json"
            if not manifest.exists():
                if any(path.iterdir()):
                    raise BadInput(f"folder '{path}' is not empty; name a new one")
            else:
                done = json.loads(manifest.read_text(encoding="utf-8")).get("request", {})
                if done != request:
                    raise BadInput(f"folder '{path}' holds other data: {differences(done, request) or 'its manifest'} differ")
        self.done = (path / "manifest.json").exists() and not self.work.exists()
        if self.done:
            return
        self.work.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.work / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"folder '{path}': another process prepares data in it") from None
        begun = self.work / "request.json"
        if not begun.exists():
            write_atomically(begun, [json.dumps(request).encode()])
        elif (old := json.loads(begun.read_text(encoding="utf-8"))) != request:
            raise BadInput(f"folder '{path}' was begun with another command or with inputs that have changed since "
                           f"({differences(old, request)}); delete it, or name another one")

    def remove_work(self):
        """At once, as far as a later run can see."""
        removed = self.work.with_name(WORK + ".removed")
        self.work.rename(removed)
        shutil.rmtree(removed)


class Progress:
    """One line: share of the input's bytes, documents, tokens, and the time left."""

    def __init__(self, folder, inputs):
        self.folder, self.total = folder, max(1, sum(source.size for source in inputs))
        self.seen, self.bytes, self.documents, self.tokens = set(), 0, 0, 0
        self.begin, self.begin_bytes, self.shown = time.monotonic(), None, 0.0
        self.live = sys.stderr.isatty()

    def update(self, last=False):
        for path in self.folder.glob("*.piece"):
            if path.name in self.seen:
                continue
            self.seen.add(path.name)
            header, _ = read_header(path)
            self.bytes += header["input_bytes"]
            self.documents += sum(header["documents"].values())
            self.tokens += sum(header["tokens"].values())
        if self.begin_bytes is None:
            self.begin_bytes = self.bytes  # what an earlier run did
        now = time.monotonic()
        if not last and now - self.shown < (0.5 if self.live else 10):
            return
        self.shown = now
        new, took = self.bytes - self.begin_bytes, max(now - self.begin, 1e-9)
        left = "?" if new == 0 else clock((self.total - self.bytes) * took / new)
        share = min(1.0, self.bytes / self.total)
        bar = "#" * int(20 * share)
        line = (f"[{bar:20}] {100 * share:5.1f} %  {self.documents} documents  {self.tokens} tokens  "
                f"{new / took / 1e6:.1f} MB/s  {'took ' + clock(took) if last else left + ' left'}")
        print(f"\r{line}\x1b[K" if self.live else line, end="" if self.live and not last else "\n", file=sys.stderr,
              flush=True)


def clock(seconds):
    seconds = int(seconds + 0.5)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def make_tokenizer(options, folder, inputs):
    """Writes the tokenizer into the work folder, unless an earlier run has -> its path, vocabulary size, eot or None."""
    tokenizers = library("tokenizers")
    path = folder.work / "tokenizer.json"
    if not path.exists():
        if options.train_vocab:
            print(f"training a byte-level BPE of {options.train_vocab} ids", file=sys.stderr)
            tokenizer = vocabulary.train(vocabulary.sample(inputs, options.train_bytes), options.train_vocab)
        else:
            tokenizer = vocabulary.load(options.tokenizer)
        write_atomically(path, [tokenizer.to_str().encode() + b"\n"])
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    eot = None if options.index else vocabulary.eot_of(tokenizer)
    if eot is None and not options.index:
        raise BadInput(f"the tokenizer has no end-of-text token ({', '.join(vocabulary.EOT_NAMES)}); mark documents by "
                       "--index")
    return path, tokenizer.get_vocab_size(), eot


def encode(options, folder, inputs, tokenizer_file, eot):
    """All pieces that are missing, by options.jobs processes."""
    tasks = []
    for number, source in enumerate(inputs):
        parts = source.parts()
        for part in [None] if parts is None else range(parts):
            if part is None or not piece_path(folder.work, number, part).exists():
                tasks.append((str(folder.work), number, source, part))
    progress = Progress(folder.work, inputs)
    progress.update()
    context = multiprocessing.get_context("spawn")  # a fork would copy the library's threads half
    with ProcessPoolExecutor(options.jobs, context, start_worker,
                             (str(tokenizer_file), eot, options.val_fraction, options.strict, os.getpid())) as pool:
        tasks.reverse()
        running = set()
        try:
            while tasks or running:
                while tasks and len(running) < 2 * options.jobs:
                    running.add(pool.submit(encode_part, *tasks.pop()))
                done, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress.update(last=True)


def prepare(options):
    library("tokenizers")
    inputs = open_inputs(options.inputs, options.field, options.separator, options.part_bytes)
    request = request_of(options, inputs)
    folder = Folder(options.out, request)
    if folder.done:
        print(f"{options.out}: was done before, nothing to do")
        return
    tokenizer_file, vocab_size, eot = make_tokenizer(options, folder, inputs)
    encode(options, folder, inputs, tokenizer_file, eot)
    for some in pieces_of(folder.work, inputs):
        for piece in some:
            for line in piece.header["named"]:
                print(f"left out: {line}", file=sys.stderr)
    write_atomically(options.out / "tokenizer.json", [tokenizer_file.read_bytes()])
    manifest = write_shards(options.out, folder.work, inputs, request, vocabulary.describe(tokenizer_file),
                            vocab_size, eot)
    folder.remove_work()
    print(f"{options.out}: {manifest['train_tokens']} training and {manifest['val_tokens']} validation tokens, vocabulary "
          f"{vocab_size}, {manifest['documents']} documents, {manifest['malformed']} malformed and "
          f"{manifest['empty']} empty left out, {len(manifest['shards'])} shards")


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        prepare(options)
    except MissingLibrary as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 2
    except BadInput as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 78
    except (OSError, BrokenProcessPool) as error:
        print(f"prepare_data.py: {error}; the same command goes on", file=sys.stderr)
        return 74
    except KeyboardInterrupt:
        print("\nprepare_data.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
