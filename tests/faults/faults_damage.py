"""Damage to what is on disk already: truncated, flipped and missing bytes of checkpoints and of token shards."""

import random
import re
import struct
import subprocess
import time

from harness import expect, metrics
from matrix import fault

TRAIN_FILES = "*train*.bin"
LONGER = {"train__max_steps": 20}


def damages(path):
    """Names of damage to a file, and what does it."""
    size = path.stat().st_size
    for left in (0, 1, 63, size // 2, size - 1):
        yield f"{path.name} cut to {left} bytes", lambda left=left: path.open("r+b").truncate(left), left, size
    yield f"{path.name} deleted", path.unlink, None, size


@fault("F6", "each file of the newest checkpoint cut to 0, 1, 63, half, size - 1 bytes, or deleted, 2 ranks",
       "noticed before the first step, with path and sizes; goes on from the one before, bitwise; < 2 s to notice")
def truncated(bench):
    template = bench.template("two", 15, 2)
    newest = "checkpoints/step_00000015"
    names = sorted(path.name for path in (template / newest).iterdir())
    tried, slowest = 0, 0.0
    for name in names:
        for index, (text, *_) in enumerate(damages(template / newest / name)):
            folder = bench.copy(template, "f6")
            _, damage, left, size = list(damages(folder / newest / name))[index]
            damage()
            started = time.monotonic()
            verdict = bench.inspect(folder / newest)
            slowest = max(slowest, time.monotonic() - started)
            expect(verdict.returncode == 78 and name in verdict.stderr, f"{text}: inspect says {verdict.stderr}")
            if name != "MANIFEST" and left is not None:
                expect(str(size) in verdict.stderr and str(left) in verdict.stderr,
                       f"{text}: no sizes: {verdict.stderr}")
            if bench.short and index % 3:
                continue
            done = bench.finish(folder, 2, **LONGER)
            expect("resume: passed over" in done.output and "resume: step 10 of 20" in done.output,
                   f"{text}: {done.output[-500:]}")
            tried += 1
    expect(slowest < 2, f"{slowest:.1f} s to notice")
    return f"{len(names) * 6} of {len(names) * 6} noticed, within {slowest:.2f} s; {tried} of {tried} resumes bitwise"


@fault("F7", "1000 random flips of one bit, over all files of a checkpoint", "all noticed, none loaded")
def flipped(bench):
    dice, template = random.Random(bench.seed), bench.template("two", 15, 2)
    folder = bench.copy(template, "f7")
    files = sorted((folder / "checkpoints/step_00000015").iterdir())
    count = 200 if bench.short else 1000
    resumes = 5 if bench.short else 50
    for number in range(count):
        path = dice.choice(files)
        content = bytearray(path.read_bytes())
        bit = dice.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        before = path.read_bytes()
        path.write_bytes(content)
        verdict = bench.inspect(path.parent)
        expect(verdict.returncode == 78,
               f"bit {bit} of {path.name}: status {verdict.returncode}: {verdict.stdout[-200:]}")
        if number % (count // resumes) == 0:
            run = bench.copy(folder, "f7_run")
            done = bench.finish(run, 2, **LONGER)
            expect("resume: step 10 of 20" in done.output, f"bit {bit} of {path.name} was loaded: {done.output[-500:]}")
        path.write_bytes(before)
    return f"{count} of {count} noticed; {resumes} of {resumes} resumes went back to the checkpoint before, bitwise"


def shards(bench):
    """A small text as token shards: files of 2,000 tokens, an epoch of 22 steps."""
    folder, dice = bench.scratch / "shards", random.Random(7)
    if not folder.exists():
        text = bench.scratch / "text.txt"
        words = ["".join(dice.choice("abcdefgh") for _ in range(dice.randrange(2, 8))) for _ in range(60)]
        text.write_text("\n".join(" ".join(dice.choice(words) for _ in range(20)) for _ in range(170)))
        subprocess.run([bench.program, "data", "prepare", text, folder, "--tokenizer", "char", "--shard-tokens", "2000",
                        "--val-fraction", "0.1"], check=True, capture_output=True)
    return folder


def shard_settings(folder):
    return {"data__source": "shards", "data__shards": f"{folder}/{TRAIN_FILES}",
            "data__val_shards": f"{folder}/*val*.bin"}


@fault("F8", "a token shard cut to 0, 1, 63, half, size - 1 bytes; another magic, version, count; an id beyond the "
             "vocabulary", "status 78 naming the shard; header and size before step 1; no id is used as an index")
def bad_shards(bench):
    good = shards(bench)
    name = sorted(path.name for path in good.glob("*.bin") if "train" in path.name)[1]
    whole = (good / name).read_bytes()
    header = struct.unpack_from("<3i", whole)
    cases = {f"cut to {left}": whole[:left] for left in (0, 1, 63, len(whole) // 2, len(whole) - 1)}
    for place, what in enumerate(("magic", "version", "count")):
        cases[f"another {what}"] = whole[:4 * place] + struct.pack("<i", header[place] ^ 0x40) + whole[4 * place + 4:]
    cases["an id beyond the vocabulary"] = whole[:-2] + b"\xf0\xff"
    folder = bench.scratch / "bad_shards"
    for text, content in cases.items():
        bench.folder("bad_shards")
        subprocess.run(["cp", "-r", good, folder], check=True)
        (folder / name).write_bytes(content)
        run = bench.folder("f8")
        done = bench.train(run, **LONGER, **shard_settings(folder))
        # Ids are looked at when they are read.
        early = not metrics(run) or "vocabulary" in text
        expect(done.status == 78 and name in done.output and early,
               f"{text}: status {done.status}: {done.output[-400:]}")
    return f"{len(cases)} of {len(cases)} named, header and size before step 1"


@fault("F9", "every checkpoint damaged, 4 ranks", "status 78 within 5 s; nothing deleted; no start from nothing")
def all_damaged(bench):
    folder = bench.copy(bench.template("four", 15, 4), "f9")
    for path in (folder / "checkpoints").glob("*/rank_1.bin"):
        path.open("r+b").truncate(100)
    before = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    lines = metrics(folder)
    done = bench.train(folder, 4, resume=True, **LONGER)
    expect(done.status == 78 and done.seconds < 5, f"status {done.status}, {done.seconds:.1f} s: {done.output[-400:]}")
    expect(len(re.findall("none of them whole", done.output)) == 1, f"not one message: {done.output}")
    after = {path: path.read_bytes() for path in (folder / "checkpoints").rglob("*") if path.is_file()}
    expect(after == before and metrics(folder) == lines, "something was changed or deleted")
    return f"status 78 after {done.seconds:.1f} s, one message, {len(before)} files as before"
