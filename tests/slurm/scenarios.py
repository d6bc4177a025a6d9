#!/usr/bin/env python3
"""What may happen to plimsoll's jobs under SLURM, against a real one: tests/slurm/scenarios.py build/plimsoll [S1 ...]

Every scenario starts a cluster of four virtual nodes, submits the batch files of scripts/slurm with real runs of several
ranks, does something to the job or to the cluster, and compares the run's end with an undisturbed one, bit for bit.
Without SLURM or root it is skipped (status 77), and says why.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from cluster import (Cluster, Unavailable, command_line, descendants, environment_of, in_namespaces, kill,  # noqa: E402
                     run, wait_for)
from harness import ROOT, TINY, Bench, Broken, expect, metrics  # noqa: E402

SKIPPED = 77
SCENARIOS = {}
PAUSE = 0.05  # seconds that a step takes longer, so that things happen in the middle of a run


def scenario(key, what, wanted):
    def register(body):
        SCENARIOS[key] = (what, wanted, body)
        return body
    return register


class Job:
    """A run submitted by scripts/slurm/train.sbatch; four ranks on two nodes unless told otherwise."""

    def __init__(self, cluster, bench, name, layout=("--nodes=2", "--ntasks-per-node=2"), more=(), environment=None,
                 pause=PAUSE, **settings):
        self.cluster, self.bench, self.settings = cluster, bench, {"train__max_steps": 80, **settings}
        self.folder, self.log = bench.folder(name), bench.scratch / f"{name}.txt"
        self.ranks = 4 if layout == ("--nodes=2", "--ntasks-per-node=2") else 2
        words = bench.command(self.folder, {"set": {k.replace("__", "."): v for k, v in self.settings.items()}})[2:]
        environment = {"PLIMSOLL": str(bench.program), "PLIMSOLL_FAULT": f"sleep:1:{pause}", **(environment or {})}
        self.number = cluster.submit(f"--output={self.log}", "--time=10", *layout, *more, "scripts/slurm/train.sbatch",
                                     *words, environment=environment)

    def output(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def nodes(self):
        return [int(node) for node in re.findall(r"\d+", self.expand(self.cluster.job(self.number)["NodeList"]))]

    @staticmethod
    def expand(nodes):
        return run("scontrol", "show", "hostnames", nodes)

    def batch_node(self):
        return int(self.cluster.job(self.number)["BatchHost"].removeprefix("node"))

    def rank_pids(self):
        """"0" -> process id, of each rank."""
        return {environment_of(pid)["SLURM_PROCID"]: pid for node in self.nodes()
                for daemon in self.cluster.step_daemons(node) for pid in descendants(daemon)
                if b"train" in command_line(pid) and "SLURM_PROCID" in environment_of(pid)}

    def restarts(self):
        return int(self.cluster.job(self.number).get("Restarts", 0))

    def steps(self):
        lines = metrics(self.folder)
        return lines[-1]["step"] if lines else 0

    def wait_for_step(self, step, seconds=40):
        wait_for(lambda: self.steps() >= step, f"step {step} of job {self.number} (it is at {self.steps()}, "
                                               f"{self.cluster.state(self.number)})", seconds)

    def wait_for_restart(self, restarts, seconds):
        """Running again, so many times."""
        wait_for(lambda: self.output().count(f"restart {restarts}, nodes") > 0, f"restart {restarts}", seconds)

    def resumed_from(self):
        """Steps from which restarts went on."""
        return [int(step) for step in re.findall(r"^resume: step (\d+) ", self.output(), re.MULTILINE)]

    def wait_for_end(self, state="COMPLETED", seconds=90):
        self.cluster.wait_for_state(self.number, state, seconds=seconds)

    def expect_bitwise(self):
        """As one process that adds up in the order of so many ranks."""
        self.bench.expect_bitwise(self.folder, **self.settings, parallel__virtual_ranks=self.ranks)


def expect_little_lost(job, before):
    """`before`: the step the run had reached. Checkpoints lie TINY's save_every steps apart."""
    lost = before - job.resumed_from()[-1]
    expect(lost <= TINY["train.save_every"] + 1, f"resumed at {job.resumed_from()[-1]}, it had been at {before}")
    return lost


@scenario("S1", "a sweep as a job array, one cell without its data", "the others done, bitwise to the same sweep "
          "on this machine; the one listed, and run again by one command")
def array_with_failing_task(cluster, bench):
    there, late = bench.scratch / "there.txt", bench.scratch / "late.txt"
    there.write_text("First Citizen: before we proceed any further, hear me speak.\n" * 400)
    common = [f"{key}={value}" for key, value in {**TINY, "train.max_steps": 20, "data.source": "text"}.items()]

    def sweep_file(launcher, more=()):
        path = bench.scratch / f"{launcher}.toml"
        path.write_text(f"""
            [sweep]
            name = "{launcher}"
            base = "{ROOT}/configs/quickstart.toml"
            dir = "{bench.scratch}/{launcher}"
            variants = ["softmax", "sigmoid"]
            seeds = [1, 2]
            axes = ["data.text={there} | data.text={late}"]
            exclude = ["variant=sigmoid data.text={late}", "run.seed=2 data.text={late}"]
            set = {json.dumps([*common, *more])}
            [launch]
            with = "{launcher}"
            jobs = 3
            threads = 1
            sbatch = ["--ntasks=2", "--time=5"]
            """)
        return str(path)

    # A cell is a job of two ranks under SLURM, here one process that adds up in their order.
    slurm, local = sweep_file("slurm"), sweep_file("local", ["parallel.virtual_ranks=2"])
    sweep = [str(bench.program), "sweep"]
    out = run(*sweep, slurm)
    array = re.search(r"job array (\d+), 5 cells", out)
    expect(array, out)
    again = run(*sweep, slurm)
    expect("0 to run, 5 under way or in the queue" in again, f"submitted twice: {again}")
    wait_for(lambda: not cluster.queue(), "the array's end", 90)
    states = [cluster.state(f"{array[1]}_{task}") for task in range(5)]
    expect(sorted(states) == ["COMPLETED"] * 4 + ["FAILED"], f"states {states}")
    status = run(*sweep, "status", slurm)
    expect("4 done" in status and "1 failed" in status, status)
    late.write_text(there.read_text())
    run(*sweep, slurm, "--retry-failed")
    wait_for(lambda: not cluster.queue(), "the end of the one that had failed", 60)
    status = run(*sweep, "status", slurm)
    expect("5 cells: 5 done" in status, status)
    run(*sweep, local)
    cells = sorted(path.parent.name for path in (bench.scratch / "slurm").glob("*/metrics.jsonl"))
    expect(len(cells) == 5, f"cells {cells}")
    for cell in cells:
        ours, theirs = (metrics(bench.scratch / launcher / cell) for launcher in ("slurm", "local"))
        expect(len(ours) == 20 and ours == theirs, f"{cell}: other losses than on this machine")
    return "4 COMPLETED, 1 FAILED, listed, done by --retry-failed; 5 cells bitwise to the same sweep on this machine"


@scenario("S2", "USR1 to the batch script, three times", "saved, requeued each time; bitwise")
def requeued_three_times(cluster, bench):
    job = Job(cluster, bench, "run")
    for restart in (1, 2, 3):
        job.wait_for_step(restart * 15)
        run("scancel", "--batch", "--signal=USR1", str(job.number))
        job.wait_for_restart(restart, 40)
    job.wait_for_end()
    expect(job.restarts() == 3, f"{job.restarts()} restarts")
    job.expect_bitwise()
    return f"3 restarts, resumed at {job.resumed_from()}, bitwise"


def lose_node(cluster, bench, which):
    job = Job(cluster, bench, "run")
    job.wait_for_step(20)
    batch = job.batch_node()
    node = batch if which == "batch" else next(n for n in job.nodes() if n != batch)
    cluster.cut_power(node)
    lost, before = time.monotonic(), job.steps()
    job.wait_for_restart(1, 60)
    seconds = time.monotonic() - lost
    expect(node not in job.nodes(), f"it runs on node{node} again")
    job.wait_for_end()
    job.expect_bitwise()
    return f"running again elsewhere after {seconds:.0f} s, {expect_little_lost(job, before)} steps lost, bitwise"


@scenario("S3", "power loss of a node that is not the batch host", "running again elsewhere within 60 s; bitwise")
def node_lost(cluster, bench):
    return lose_node(cluster, bench, "worker")


@scenario("S4", "slurmd of the only node dies, its ranks live on", "restarted elsewhere; the old ranks end with 75 and "
          "write no checkpoint after that; bitwise")
def orphaned_ranks(cluster, bench):
    job = Job(cluster, bench, "run", ("--nodes=1", "--ntasks-per-node=2"), pause=0.1, train__max_steps=900)
    job.wait_for_step(10)
    node = job.batch_node()
    old = job.rank_pids().values()
    cluster.kill_daemon(node)
    job.wait_for_restart(1, 60)
    alive = [pid for pid in old if command_line(pid)]
    expect(alive, "the old ranks had ended before: nothing was tried")
    wait_for(lambda: not any(map(command_line, old)), "the old ranks end", 40)
    # What they print goes nowhere: their srun ended with the node.
    why = (job.folder / "flight_rank_0.txt").read_text().splitlines()[0]
    expect("(job 1, restart 1) started this run after generation" in why and "nothing was written" in why, why)
    resumed = job.steps()
    job.wait_for_step(resumed + 10)
    run("scancel", str(job.number))
    job.wait_for_end("CANCELLED")
    wait_for(lambda: not cluster.step_daemons(job.batch_node()), "the cancelled ranks end", 20)
    bench.finish(job.folder, train__max_steps=job.steps() + 10, parallel__virtual_ranks=2)
    # SLURM takes the end of the old step for that of the new one, which has its number: it is requeued once more.
    return f"{len(alive)} old ranks alive at the restart, fenced; {job.restarts()} restarts; bitwise"


@scenario("S5", "power loss of the batch host", "running again elsewhere within 60 s; bitwise")
def batch_host_lost(cluster, bench):
    return lose_node(cluster, bench, "batch")


@scenario("S6", "a job of a higher partition wants all nodes", "saved and requeued within the grace time; bitwise")
def preempted(cluster, bench):
    job = Job(cluster, bench, "run", more=("--exclusive",))
    job.wait_for_step(20)
    started = time.monotonic()
    high = cluster.submit("--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    cluster.wait_for_state(high, "RUNNING", "COMPLETED")
    seconds = time.monotonic() - started
    expect(seconds < 30, f"the other job waited {seconds:.0f} s")
    job.wait_for_restart(1, 60)
    job.wait_for_end()
    expect(cluster.state(high) == "COMPLETED" and job.restarts() == 1, f"{job.restarts()} restarts")
    job.expect_bitwise()
    return f"the other job ran after {seconds:.0f} s; 1 restart at step {job.resumed_from()[-1]}, bitwise"


@scenario("S7", "slurmctld is killed and started again", "the job notices nothing; bitwise")
def controller_restarted(cluster, bench):
    job = Job(cluster, bench, "run", train__max_steps=200)
    job.wait_for_step(20)
    time.sleep(5)  # until slurmctld has saved that the job runs
    expect(job.steps() < 180, "the run is over already")
    cluster.restart_controller()
    job.wait_for_end()
    expect(job.restarts() == 0, f"{job.restarts()} restarts")
    job.expect_bitwise()
    return "COMPLETED, no restart, bitwise"


@scenario("S8", "scancel", "saved, CANCELLED, not requeued; goes on by hand, bitwise")
def cancelled(cluster, bench):
    job = Job(cluster, bench, "run")
    job.wait_for_step(20)
    before = job.steps()
    run("scancel", str(job.number))
    job.wait_for_end("CANCELLED")
    time.sleep(8)  # longer than a requeue takes
    expect(job.cluster.state(job.number) == "CANCELLED" and not cluster.queue(), f"queue: {cluster.queue()}")
    expect("by a signal" in job.output(), "nothing was saved")
    saved = bench.whole_steps(job.folder)[-1]
    expect(saved >= before, f"saved step {saved}, it had been at {before}")
    bench.finish(job.folder, **job.settings, parallel__virtual_ranks=4)
    return f"CANCELLED with step {saved} saved, queue empty; bitwise after a resume by hand"


@scenario("S9", "the three ways to start ranks: srun, mpirun in the allocation, TCP", "each bitwise")
def launchers(cluster, bench):
    jobs = {how: Job(cluster, bench, how, environment={"PLIMSOLL_LAUNCH": how}, pause=0, train__max_steps=20)
            for how in ("srun", "mpirun", "tcp")}
    for how, job in jobs.items():
        job.wait_for_end()
        expect(f"4 ranks by {how}" in job.output(), job.output()[:500])
        job.expect_bitwise()
    return "srun, mpirun and tcp bitwise"


@scenario("S10", "SIGKILL of one rank", "the step ends within 5 s, no rank lives on; requeued, bitwise")
def rank_killed(cluster, bench):
    job = Job(cluster, bench, "run", train__max_steps=160)
    job.wait_for_step(20)
    ranks = job.rank_pids()
    expect(set(ranks) == {"0", "1", "2", "3"}, f"ranks {ranks}")
    started = time.monotonic()
    kill([ranks["3"]])
    status = wait_for(lambda: re.search(r": status (\d+)", job.output()), "the step's end", 15)[1]
    seconds = time.monotonic() - started
    left = [rank for rank, pid in ranks.items() if command_line(pid)]
    expect(seconds <= 5 and not left and status != "0", f"status {status} after {seconds:.1f} s, ranks {left} live")
    job.wait_for_end()
    job.expect_bitwise()
    return f"status {status} after {seconds:.1f} s, no rank left; {job.restarts()} restart, bitwise"


@scenario("S11", "SIGSTOP of one rank, parallel.timeout_seconds = 5", "the others end with 75 and name it; requeued, "
          "bitwise")
def rank_stopped(cluster, bench):
    job = Job(cluster, bench, "run", parallel__timeout_seconds=5, train__max_steps=160)
    job.wait_for_step(20)
    started = time.monotonic()
    kill([job.rank_pids()["2"]], signal.SIGSTOP)
    wait_for(lambda: "nothing from ranks 2 for" in job.output(), "rank 2 is named", 20)
    job.wait_for_restart(1, 40)
    seconds = time.monotonic() - started
    job.wait_for_end()
    job.expect_bitwise()
    return f"named, running again after {seconds:.0f} s, {job.restarts()} restart, bitwise"


@scenario("S12", "GPU resources (that are none): one for each rank, and one for two ranks",
          "each rank named with its own; two ranks on one are refused")
def devices(cluster, bench):
    job = Job(cluster, bench, "own", more=("--gpus-per-task=1",), pause=0, train__max_steps=10)
    job.wait_for_end()
    table = re.findall(r"rank (\d) *(node\d), local rank (\d), .*CUDA_VISIBLE_DEVICES=(\d)", job.output())
    expect([row[0] for row in table] == ["0", "1", "2", "3"], f"table {table} in {job.output()}")
    expect(len({row[1] for row in table}) == 2 and len({(node, gpu) for _, node, _, gpu in table}) == 4,
           f"not four GPUs of two nodes: {table}")
    job.expect_bitwise()
    shared = Job(cluster, bench, "shared", more=("--gpus-per-node=1",), pause=0, train__max_steps=10)
    shared.wait_for_end("FAILED")
    told = re.search(r"ranks 0, 1 use the same device of node1", shared.output())
    expect(": status 78" in shared.output() and told, shared.output())
    return f"four ranks on {sorted({(node, gpu) for _, node, _, gpu in table})}; refused: {told[0]}"


def main():
    program, keys = sys.argv[1], sys.argv[2:] or list(SCENARIOS)
    program = str(Path(program).resolve())
    try:
        in_namespaces()
    except Unavailable as reason:
        print(f"skipped: {reason}")
        return SKIPPED
    os.chdir(ROOT)
    # What Open MPI's mpirun wants of root, and where it finds the other nodes.
    os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_btl_tcp_if_include="lo",
                      OMPI_MCA_oob_tcp_if_include="lo", OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")
    failed = 0
    for key in keys:
        what, wanted, body = SCENARIOS[key]
        print(f"{key}: {what}\n  wanted: {wanted}", flush=True)
        started = time.monotonic()
        # Short: a unix socket's path has fewer than 108 bytes.
        scratch = Path(tempfile.mkdtemp(prefix="pl", dir="/tmp"))
        try:
            with Cluster(scratch / "c") as cluster:
                bench = Bench(program, "", scratch / "r", short=True, rounds=1, seed=1)
                bench.scratch.mkdir()
                seen = body(cluster, bench)
            print(f"  seen: {seen} ({time.monotonic() - started:.0f} s)", flush=True)
            shutil.rmtree(scratch, ignore_errors=True)
        except (AssertionError, Broken, OSError) as reason:
            failed += 1
            print(f"  FAILED: {reason}\n  its files stay in {scratch}", flush=True)
            for log in sorted((scratch / "r").glob("*.txt")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
