"""Faults that end processes: kills at random, at every change of a save, of one rank; signals that ask to stop."""

import os
import random
import signal
import time
from pathlib import Path

from harness import EVERY, Broken, Shim, expect, leftovers, metrics, wait_for
from matrix import fault
from power_cut import read_journal

FEW = {"train__max_steps": 15}  # three saves, the last one of which removes the first checkpoint


SECOND = "step_00000010"  # the save that meets most faults


def journal_of(bench, ranks, first=""):
    """Changes that an undisturbed run of FEW makes below its checkpoints, numbered from `first` on."""
    folder, journal = bench.folder("counted"), bench.scratch / "counted.journal"
    journal.unlink(missing_ok=True)
    bench.train(folder, ranks, status=0, shim=Shim(folder / "checkpoints", journal=journal, first=first), **FEW)
    return [change for change in read_journal(journal) if change.kind != "said"]


def points(bench, changes, rank, wanted):
    """Numbers of a rank's changes that belong to a part of the run. The short selection leaves out all but the first,
    the middle and the last of the writes, which differ only in their tensor."""
    mine = [change for change in changes if change.rank == rank and wanted(change)]
    writes = [c.number for c in mine if c.kind == "write" and ".bin" in c.path]
    left_out = set(writes) - {writes[0], writes[len(writes) // 2], writes[-1]} if bench.short and writes else set()
    return [c.number for c in mine if c.number not in left_out]


def save_points(bench, changes, rank, wanted=lambda change: True):
    """Numbers of a rank's changes from the first of step 10's save to the last before that of step 15."""
    mine = [change.number for change in changes if change.rank == rank and SECOND in change.path]
    later = [change.number for change in changes if change.rank == rank and "step_00000015" in change.path]
    return points(bench, changes, rank, lambda c: min(mine) <= c.number < min(later) and wanted(c))


def bytes_below(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@fault("F1", "SIGKILL at a random time, of one rank or all of 4",
       "all resume, bitwise; lost: one interval + 1 step; where saves run beside training, two intervals")
def kill_at_random(bench):
    # A save beside training ends at the latest where the next begins: until then the one before is the newest whole.
    # Steps of this model take milliseconds, a flush may take longer than an interval of them.
    most = {"true": 2 * EVERY, "false": EVERY + 1}
    dice, rounds, killed = random.Random(bench.seed), bench.rounds or (10 if bench.short else 200), 0
    lost_most = {"true": 0, "false": 0}
    bench.reference(4)
    folder = bench.folder("f1_time")
    whole = bench.train(folder, 4, status=0).seconds
    for number in range(rounds):
        folder, beside = bench.folder("f1"), "false" if number % 2 else "true"
        run = bench.start(folder, 4, train__async_save=beside)
        moment, victims = dice.uniform(0, whole), dice.choice(["one", "all"])
        victim = dice.randrange(4)
        time.sleep(moment)
        pids = run.rank_pids()
        for rank, pid in pids.items():
            if victims == "all" or rank == victim:
                os.kill(pid, signal.SIGKILL)
        status = run.wait().status
        killed += status != 0
        done, saved = metrics(folder), bench.whole_steps(folder)
        lost = (done[-1]["step"] if done else 0) - (saved[-1] if saved else 0)
        lost_most[beside] = max(lost_most[beside], lost)
        where = (f"round {number}: {victims} killed after {moment:.2f} s, {lost} steps lost, "
                 f"train.async_save = {beside}")
        expect(lost <= most[beside], where)
        try:
            bench.finish(folder, 4)
        except Broken as broken:
            raise Broken(f"{where}: {broken}") from None
    return (f"{rounds} of {rounds} rounds bitwise ({killed} killed before the end), at most {lost_most['false']} steps "
            f"lost, {lost_most['true']} with saves beside training (an interval is {EVERY})")


@fault("F2", "SIGKILL before every change of one save, ranks 0 and 1 of 2",
       "the checkpoint before or the new one is whole; nothing left behind after the next start; bitwise")
def kill_in_save(bench):
    changes, tried, newest = journal_of(bench, 2, SECOND), 0, {5: 0, 10: 0}
    for rank in (0, 1):
        for number in save_points(bench, changes, rank):
            folder = bench.folder("f2")
            done = bench.train(folder, 2, shim=Shim(folder / "checkpoints", "kill", number, rank=rank, first=SECOND),
                               **FEW)
            where = f"rank {rank} killed before change {number}"
            expect(done.status != 0, f"{where}: the run did not notice")
            saved = bench.whole_steps(folder)
            expect(saved and saved[-1] in newest, f"{where}: whole are {saved}")
            expect("damaged" not in bench.inspect(folder).stdout, f"{where}: a damaged checkpoint has a name")
            newest[saved[-1]] += 1
            bench.finish(folder, 2, **FEW)
            expect(not leftovers(folder), f"{where}: left behind {leftovers(folder)}")
            tried += 1
    return f"{tried} of {tried} points bitwise; newest was step 5 {newest[5]} times, step 10 {newest[10]} times"


@fault("F24", "SIGKILL before every change that removes an old checkpoint",
       "never fewer than one whole, at most keep + 1 checkpoints and one unfinished on disk")
def kill_in_prune(bench):
    changes = journal_of(bench, 2)
    size = max(bytes_below(p) for p in (bench.scratch / "counted/checkpoints").iterdir())
    fewest, most, tried = 9, 0, 0
    for number in points(bench, changes, 0, lambda c: "step_00000005" in c.path and
                         (c.kind == "remove" or c.target.endswith(".removed"))):
        folder = bench.folder("f24")
        bench.train(folder, 2, shim=Shim(folder / "checkpoints", "kill", number), **FEW)
        whole = bench.whole_steps(folder)
        fewest, most = min(fewest, len(whole)), max(most, bytes_below(folder / "checkpoints") / size)
        expect("damaged" not in bench.inspect(folder).stdout, f"change {number}: a damaged checkpoint has a name")
        expect(len(whole) >= 2 and whole[-1] == 15, f"change {number}: whole are {whole}")
        expect(most <= 4.01, f"change {number}: {most:.1f} checkpoints' bytes on disk")
        bench.train(folder, 2, resume=True, status=0, train__max_steps=20)
        expect(not leftovers(folder) and bench.whole_steps(folder) == [15, 20],
               f"change {number}: left {leftovers(folder)}, whole {bench.whole_steps(folder)}")
        tried += 1
    expect(tried >= 3, f"only {tried} changes remove the old checkpoint")
    return f"{tried} of {tried} points: at least {fewest} whole, at most {most:.1f} checkpoints' bytes"


def alive(pid):
    """Whether a process runs; one that has ended may stay in /proc until its parent looks."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@fault("F10", "SIGKILL of rank 3 of 4 under mpirun", "the job ends with an error within 5 s; no process is left")
def kill_one_rank(bench):
    slowest = 0.0
    for _ in range(1 if bench.short else 10):
        folder = bench.folder("f10")
        run = bench.start(folder, 4, train__max_steps=5000)
        wait_for(lambda: len(metrics(folder)) > 7, "step 8")
        pids = run.rank_pids()
        expect(len(pids) == 4, f"ranks {sorted(pids)} found, wanted 4")
        killed = time.monotonic()
        os.kill(pids[3], signal.SIGKILL)
        done = run.wait(20)
        slowest = max(slowest, time.monotonic() - killed)
        expect(done.status != 0 and slowest <= 5, f"status {done.status} after {slowest:.1f} s")
        wait_for(lambda: not any(alive(pid) for pid in pids.values()), "the end of all ranks", 2)
    return f"status {done.status} within {slowest:.1f} s"


def stopped(bench, folder, ranks, send, settings):
    run = bench.start(folder, ranks, **settings)
    wait_for(lambda: len(metrics(folder)) > 12, "step 13")
    sent, at = time.monotonic(), len(metrics(folder))
    send(run)
    done = run.wait(20)
    lines = metrics(folder)
    return done, len(lines) - at, time.monotonic() - sent, bench.whole_steps(folder), lines


@fault("F14", "SIGUSR1, SIGTERM and SIGINT in training, alone and to one rank of 3; then a second one",
       "saved after the step, status 85; after a second signal ends at once, the disk still whole")
def stop_signals(bench):
    slowest = 0.0
    for ranks in (0, 3):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            folder = bench.folder("f14")
            done, steps, seconds, whole, lines = stopped(
                bench, folder, ranks, lambda run: os.kill(run.rank_pids()[ranks // 2], number),
                {"train__max_steps": 5000})
            slowest = max(slowest, seconds)
            where = f"{number.name}, {ranks or 1} ranks"
            expect(done.status == 85, f"{where}: status {done.status}: {done.output[-500:]}")
            expect(whole and whole[-1] == lines[-1]["step"], f"{where}: step {lines[-1]['step']}, whole {whole}")
            # The step under way, and one more if the others had already agreed to go on; the launcher takes a second.
            expect(steps <= 2 and seconds < 5, f"{where}: {seconds:.1f} s, {steps} steps")
    folder = bench.folder("f14")
    run = bench.start(folder, 0, train__max_steps=5000, train__eval_every=1, train__eval_samples=4000,
                      data__val_samples=4000)
    wait_for(lambda: len(metrics(folder)) >= 1, "the first step")
    os.kill(run.process.pid, signal.SIGTERM)
    time.sleep(0.05)
    second = time.monotonic()
    os.kill(run.process.pid, signal.SIGTERM)
    done = run.wait(20)
    expect(done.status in (130, 85) and time.monotonic() - second < 1, f"second SIGTERM: {done.status}")
    expect("damaged" not in bench.inspect(folder).stdout, "second SIGTERM: a damaged checkpoint")
    return f"6 of 6 saved and ended with 85, the slowest after {slowest:.1f} s; a second signal: {done.status}"


def holds_signal(pid, number):
    """Whether a process blocks a signal within a second, as plimsoll does from its first line on."""
    for _ in range(100):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        if blocked >> (number - 1) & 1:
            return True
        time.sleep(0.01)
    return False


@fault("F15", "SIGUSR1 on a grid of times over start, evaluation, saves", "ends by itself within 10 s, resumes bitwise")
def signal_grid(bench):
    count, settings = 4 if bench.short else 100, {"train__max_steps": 120, "train__eval_every": 10}
    ends = {}
    for number in range(count):
        ranks = (0, 2)[number % 2]
        folder = bench.folder("f15")
        run = bench.start(folder, ranks, **settings)
        time.sleep(0.05 + 1.95 * number / count)
        pids = run.rank_pids()
        # Before main() nobody can hold it back: the process must have come that far.
        if ranks in (0, len(pids)) and pids and holds_signal(pids[max(pids)], signal.SIGUSR1):
            os.kill(pids[max(pids)], signal.SIGUSR1)
        done = run.wait(10)
        where = f"{ranks or 1} ranks, signal after {0.05 + 1.95 * number / count:.2f} s"
        expect(done.status in (0, 85), f"{where}: status {done.status}: {done.output[-500:]}")
        ends[done.status] = ends.get(done.status, 0) + 1
        bench.finish(folder, ranks, **settings)
    return f"{count} of {count} resumed bitwise; {ends.get(85, 0)} stopped, {ends.get(0, 0)} were done before"
