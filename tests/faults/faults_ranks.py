"""Ranks that stop, hang, lag, differ in number, see another disk, or get no memory; one message of many ranks."""

import os
import re
import signal
import subprocess
import time

from faults_kill import alive
from harness import MPIRUN, ROOT, expect, metrics, wait_for
from matrix import Skipped, fault

FIVE = {"parallel__timeout_seconds": 5}


def on_rank(rank, command):
    """Words before the program that run a shell command first, on one rank."""
    return ["bash", "-c", f'if [ "$OMPI_COMM_WORLD_RANK" = {rank} ]; then {command}; fi; exec "$@"', "faults"]


@fault("F11", "SIGSTOP of rank 1 of 3 in training, parallel.timeout_seconds = 5",
       "the others end with 75 within 10 s, naming step or operation and rank; bitwise after it")
def stopped_rank(bench):
    folder = bench.folder("f11")
    run = bench.start(folder, 3, train__max_steps=5000, **FIVE)
    wait_for(lambda: len(metrics(folder)) > 12, "step 13")
    pids = run.rank_pids()
    os.kill(pids[1], signal.SIGSTOP)
    started = time.monotonic()
    try:
        done = run.wait(30)
    finally:
        if alive(pids[1]):
            os.kill(pids[1], signal.SIGCONT)
    seconds = time.monotonic() - started
    expect(done.status == 75 and seconds <= 10, f"status {done.status} after {seconds:.1f} s: {done.output[-800:]}")
    expect(re.search(r"ranks? .*\b1\b", done.output), f"rank 1 is not named: {done.output[-800:]}")
    records = sorted(path.name for path in folder.glob("flight_rank_*.txt"))
    expect(records, "no flight record")
    reached = bench.whole_steps(folder)[-1] + 5
    bench.finish(folder, 3, train__max_steps=reached)
    return f"75 after {seconds:.1f} s, rank 1 named, {len(records)} flight records; bitwise after the resume"


@fault("F12", "rank 1 of 3 sleeps before MPI starts, parallel.timeout_seconds = 5",
       "the others end with 75 at the deadline, naming the missing rank")
def hung_start(bench):
    done = bench.train(bench.folder("f12"), 3, before=on_rank(1, "sleep 60"), seconds=30, **FIVE)
    expect(done.status == 75 and done.seconds <= 10, f"status {done.status} after {done.seconds:.1f} s")
    expect(re.search(r"ranks? 1\b", done.output), f"rank 1 is not named: {done.output[-600:]}")
    return f"75 after {done.seconds:.1f} s, rank 1 named"


@fault("F13", "rank 1 of 2 stopped for half of the time, in turns of 50 ms",
       "no false alarm; a line names the straggler")
def slow_rank(bench):
    folder, settings = bench.folder("f13"), {"train__max_steps": 200}
    run = bench.start(folder, 2, **FIVE, **settings)
    wait_for(lambda: len(metrics(folder)) > 5, "step 6")
    pid, turns = run.rank_pids()[1], 0
    while alive(pid) and run.process.poll() is None:
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05)
        finally:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        turns += 1
    done = run.wait()
    expect(done.status == 0 and turns > 3, f"status {done.status}, {turns} turns: {done.output[-500:]}")
    bench.expect_bitwise(folder, 2, **settings)
    expect(re.search("straggl|slow", (folder / "log.txt").read_text()),
           f"{turns} turns, bitwise, but no line names rank 1")
    return f"{turns} turns, no alarm, bitwise, rank 1 named"


@fault("F19", "saved by 4 ranks, resumed by 1, 2, 3, 8 and by 2 stages, and back by 4",
       "same tensors after loading, same data; losses within 1e-5 for 20 steps")
def other_ranks(bench):
    settings, half = {"train__max_steps": 40}, {"train__max_steps": 20}
    lines, _ = bench.reference(4, **settings)
    template, worst = bench.template("twenty", 20, 4), 0.0
    loss_there = (template / "evals.jsonl").read_text().splitlines()[-1].split('"loss":')[1].split(",")[0]
    cases = [(1, {}), (2, {}), (3, {}), (8, {}), (2, {"parallel__stages": 2}), (4, {"parallel__stages": 2})]
    for ranks, layout in cases[::2] if bench.short else cases:
        folder = bench.copy(template, "f19")
        where = f"{ranks} ranks {layout}"
        # No step: what was loaded is evaluated. The run's own mark of being done would keep it from that.
        (folder / "run.json").unlink()
        bench.train(folder, ranks, status=0, resume=True, **half, **layout)
        loaded = (folder / "evals.jsonl").read_text().splitlines()[-1].split('"loss":')[1].split(",")[0]
        expect(loaded == loss_there, f"{where}: validation loss {loaded} after loading, {loss_there} when saved")
        bench.train(folder, ranks, status=0, resume=True, **layout, train__max_steps=30)
        bench.train(folder, 4, status=0, resume=True, **settings)
        ours = metrics(folder)
        expect([(a["step"], a["tokens"]) for a in ours] == [(b["step"], b["tokens"]) for b in lines], f"{where}: steps")
        worst = max([worst, *(abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours, lines, strict=True))])
        expect(worst <= 1e-5, f"{where}: losses differ by {worst:.1e}")
    return f"equal validation loss after loading; losses of 20 steps differ by at most {worst:.1e}"


@fault("F22", "a configuration that is no TOML, and one with an unknown key, 4 ranks", "status 78, one message")
def one_message(bench):
    slowest = 0.0
    for text, wanted in (("[run\nname = 1\n", "bad.toml:1"), ("[train]\nsteps = 3\n", "unknown key 'steps'")):
        path = bench.scratch / "bad.toml"
        path.write_text(text)
        started = time.monotonic()
        done = subprocess.run([MPIRUN, "-n", "4", bench.program, "train", path], capture_output=True, text=True,
                              timeout=30, cwd=ROOT)
        slowest = max(slowest, time.monotonic() - started)
        messages = re.findall("^plimsoll: .*", done.stdout + done.stderr, re.M)
        expect(done.returncode == 78 and len(messages) == 1 and wanted in messages[0],
               f"status {done.returncode}, messages: {messages}")
    return f"78 and one message each, within {slowest:.1f} s with the launcher"


@fault("F27", "a batch that does not fit; too little address space (ulimit -v)",
       "a message with the bytes needed and available before the first step; no partial checkpoint")
def no_memory(bench):
    statuses = []
    for before, settings in (((), {"train__micro_batch": 2**20, "train__batch_tokens": 0}),
                             (["bash", "-c", 'ulimit -v 600000; exec "$@"', "faults"],
                              {"train__micro_batch": 4096, "train__batch_tokens": 4096 * 32})):
        folder = bench.folder("f27")
        done = bench.train(folder, before=before, **settings)
        statuses.append(done.status)
        expect(done.status in (70, 78) and re.search(r"needs \d+ MiB, \d+ MiB are available", done.output),
               f"status {done.status}: {done.output[-500:]}")
        expect(not metrics(folder) and not bench.whole_steps(folder), "something was trained or saved")
    return f"status {statuses[0]} and {statuses[1]}, needed and available named, nothing saved"


@fault("F28", "a rank's node still sees the disk as before the last save (a second mount), for 3 s; for ever",
       "it waits and goes on, bitwise; after 30 s status 74")
def late_visibility(bench):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        raise Skipped("mount namespaces are not allowed here")
    template = bench.template("two", 15, 2)
    stale = bench.copy(template, "f28_stale")
    subprocess.run(["rm", "-r", stale / "checkpoints/step_00000015"], check=True)
    waits = []
    for seconds in (3,) if bench.short else (3, 1000):
        folder = bench.copy(template, "f28")
        at = folder / "checkpoints"
        # Rank 1 in a namespace of its own, where another folder lies over the checkpoints for a while.
        before = ["bash", "-c", f'if [ "$OMPI_COMM_WORLD_RANK" = 1 ]; then exec unshare -m bash -c '
                  f"'mount --bind {stale}/checkpoints {at}; (sleep {seconds}; umount -l {at}) >/dev/null 2>&1 & "
                  f'exec "$@"\' faults "$@"; fi; exec "$@"', "faults"]
        run = bench.start(folder, 2, resume=True, before=before, train__max_steps=20)
        done = run.wait(60)
        waits.append(done.seconds)
        if seconds == 3:
            expect(done.status == 0 and done.seconds > 2.5, f"status {done.status}, {done.seconds:.1f} s")
            bench.expect_bitwise(folder, 2, train__max_steps=20)
        else:
            expect(done.status == 74 and 30 <= done.seconds < 40 and "still not visible" in done.output,
                   f"status {done.status} after {done.seconds:.1f} s: {done.output[-500:]}")
    return f"waited, then bitwise ({waits[0]:.1f} s)" + (f"; 74 after {waits[1]:.1f} s" if len(waits) > 1 else "")
