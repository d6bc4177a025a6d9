"""Faults of the disk under a run: power cuts, no space, errors, half writes, places that cannot be written."""

import contextlib
import os
import re
import shutil
import subprocess

from faults_kill import FEW, SECOND, journal_of, save_points
from harness import Shim, expect, leftovers, metrics, wait_for
from matrix import Skipped, fault
from power_cut import Disk, read_journal

EVER = 10**9  # changes


@contextlib.contextmanager
def mounted(path, *arguments):
    """A file system of its own at `path`."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, path], capture_output=True, text=True)
    if done.returncode != 0:
        raise Skipped(f"mount is not allowed here ({done.stderr.strip()})")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def failures(folder):
    """Saves that the run counted as failed."""
    counts = [int(n) for n in re.findall(r'"checkpoint_failures":(\d+)', (folder / "metrics.jsonl").read_text())]
    return max(counts, default=0)


@fault("F3", "power cut after every change of a run with three saves, 2 ranks: names lost that were not flushed; names "
             "kept, bytes lost", "every step that was reported as saved is whole; bitwise after it")
def power_cut(bench):
    place, journal = bench.folder("f3"), bench.scratch / "f3.journal"
    place.mkdir()
    journal.unlink(missing_ok=True)
    bench.train(place / "run", 2, status=0, shim=Shim(place, journal=journal), **FEW)
    changes = read_journal(journal)
    hashes = bench.reference(2, **FEW)[1]
    cuts = resumed = claims = 0
    every = 60 if bench.short else 5
    for names_last in (True, False):
        disk, claimed = Disk(place), 0
        for number, change in enumerate(changes):
            disk.apply(change)
            said = re.match(r"saved .*/step_(\d+)", change.path) if change.kind == "said" else None
            if said:
                claimed, claims = int(said[1]), claims + 1
            # A write of bytes that are not flushed changes nothing of what is sure.
            if change.kind in ("write", "open") and number % every:
                continue
            after = bench.folder("f3_after")
            disk.restore(after, names_last)
            whole = bench.whole_steps(after / "run")
            where = f"cut after change {number} ({change.kind} {change.path[-60:]})"
            expect("damaged" not in bench.inspect(after / "run").stdout, f"{where}: a damaged checkpoint has a name")
            expect(not claimed or (whole and whole[-1] >= claimed),
                   f"{where}: step {claimed} was saved, whole: {whole}")
            cuts += 1
            if number % every == 0 and (after / "run").exists():
                bench.train(after / "run", 2, status=0, resume=True, **FEW)
                expect(bench.hashes(after / "run", 15) == hashes, f"{where}: other tensors than undisturbed")
                resumed += 1
    expect(claims == 6, f"{claims} saves reported, wanted 3 in each of two passes")
    return f"{cuts} cuts, 0 of 3 reported saves lost; {resumed} of {resumed} resumed with equal tensors"


def failing_save(bench, mode, count, wanted=lambda change: True):
    """One save of three meets the error, at each of its changes in turn."""
    changes, tried, counted = journal_of(bench, 2, SECOND), 0, 0
    for rank in (0, 1):
        for number in save_points(bench, changes, rank, wanted):
            folder, journal = bench.folder("failing"), bench.scratch / "failing.journal"
            journal.unlink(missing_ok=True)
            done = bench.train(folder, 2, status=0,
                               shim=Shim(folder / "checkpoints", mode, number, count, rank, journal, SECOND), **FEW)
            where = f"{mode} at change {number} of rank {rank}"
            bench.expect_bitwise(folder, 2, **FEW)
            expect(not leftovers(folder), f"{where}: left behind {leftovers(folder)}")
            whole, failed = bench.whole_steps(folder), done.output.count("was not saved")
            expect(whole in ([10, 15], [5, 15]), f"{where}: whole are {whole}")
            # Two where the error outlasts a save that had only one change to make. A save whose last flush failed has
            # its name already, but nobody may rely on it.
            expect(1 <= failed <= count, f"{where}: {failed} failures said, whole are {whole}")
            # Where the number of a change moved by one, the save of the last step may be the one that failed.
            counted += failures(folder)
            expect(failures(folder) >= 1 or "step 15 was not saved" in done.output, f"{where}: failure not counted")
            now = read_journal(journal)
            lost = {c.path for c in now if c.kind == "failed" and c.target == "fsync"}
            again = [c.path for c in now if c.kind == "fsync" and c.path in lost and
                     c.path.endswith((".bin", "MANIFEST"))]
            expect(not again, f"{where}: a file whose flush failed was flushed again")
            tried += 1
    return tried, counted


@fault("F4", "no space: ENOSPC at every change of a save; a disk of 1.5 checkpoints",
       "training goes on, the failure is counted, the old one whole, nothing half; saves again once there is space")
def disk_full(bench):
    tried, counted = failing_save(bench, "enospc", 2, lambda c: c.kind not in ("remove", "fsync"))
    with mounted(bench.folder("f4"), "-t", "tmpfs", "-o", "size=1500k", "tmpfs") as place:
        folder = place / "run"
        run = bench.start(folder, train__max_steps=500)
        wait_for(lambda: folder.exists() and metrics(folder) and failures(folder) >= 2, "a second failed save")
        whole = bench.whole_steps(folder)
        expect(whole == [5], f"full disk: whole are {whole}")
        subprocess.run(["mount", "-o", "remount,size=8m", place], check=True)
        done = run.wait(60)
        expect(done.status == 0, f"full disk: status {done.status}: {done.output[-800:]}")
        bench.expect_bitwise(folder, train__max_steps=500)
        expect(bench.whole_steps(folder)[-1] == 500 and not leftovers(folder), "full disk: the last save")
        text = f"{failures(folder)} saves failed on the full disk, then all succeeded, bitwise"
    return f"{tried} of {tried} points bitwise ({counted} counted); {text}"


@fault("F5", "EIO at every change of a save; every write cut in half; every second write interrupted (EINTR)",
       "EIO: that save is counted as failed, no second flush of that file; the others: every checkpoint whole; bitwise")
def disk_errors(bench):
    tried, counted = failing_save(bench, "eio", 1)
    for mode in ("short", "eintr"):
        for rank in (0, 1):
            folder = bench.folder("f5")
            bench.train(folder, 2, status=0, shim=Shim(folder / "checkpoints", mode, 1, EVER, rank), **FEW)
            bench.expect_bitwise(folder, 2, **FEW)
            expect(bench.whole_steps(folder) == [10, 15] and failures(folder) == 0, f"{mode}: a save failed")
    return f"EIO: {tried} of {tried} points bitwise, {counted} counted as failed; short and EINTR: 4 runs bitwise"


@fault("F26", "a run's directory on a read-only disk, on a full one, under a file, behind a link; the log's disk full",
       "a clear error before the first step; a log that cannot be written never stops training")
def bad_places(bench):
    with mounted(bench.folder("f26_ro"), "-t", "tmpfs", "-o", "ro", "tmpfs") as place:
        done = bench.start_in(place / "run")
        expect(done.status == 74 and str(place) in done.output, f"read-only: {done.status} {done.output[-300:]}")
    with mounted(bench.folder("f26_full"), "-t", "tmpfs", "-o", "size=4k", "tmpfs") as place:
        done = bench.start_in(place / "run")
        expect(done.status == 74 and "No space" in done.output, f"full: {done.status} {done.output[-300:]}")
    under = bench.folder("f26_file")
    under.write_text("a file")
    done = bench.start_in(under / "run")
    expect(done.status == 74 and "Not a directory" in done.output, f"under a file: {done.output[-300:]}")
    under.unlink()
    real, link = bench.folder("f26_real"), bench.scratch / "f26_link"
    real.mkdir()
    link.unlink(missing_ok=True)
    os.symlink(real, link)
    bench.train(link / "deep/run", status=0)
    bench.expect_bitwise(link / "deep/run")
    # Only the appended files meet the error: they are written while the checkpoints are elsewhere.
    with mounted(bench.folder("f26_log"), "-t", "tmpfs", "-o", "size=6m", "tmpfs") as place:
        run = bench.start(place / "run", train__max_steps=500, train__keep=1)
        wait_for(lambda: len(metrics(place / "run")) > 20, "step 20")
        ballast = place / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as out:
            while True:
                out.write(bytes(4096))
                out.flush()
        wait_for(lambda: failures_said(run) or run.process.poll() is not None, "a failed save")
        ballast.unlink(missing_ok=True)
        done = run.wait()
        expect(done.status == 0, f"full in training: status {done.status}: {done.output[-500:]}")
        bench.expect_bitwise(place / "run", train__max_steps=500)
    shutil.rmtree(real)
    return "read-only, full, under a file: 74 before step 1; behind a link, and full for a while in training: bitwise"


def failures_said(run):
    return "was not saved" in run.output()
