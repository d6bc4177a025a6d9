"""Ranks over TCP as processes: the communicator's cases, ranks that end, vanish or never come, strangers at the door, and
whole runs with the bits of one process.

    tests/python/tcp_check.py build/plimsoll build/dist_tcp_test
"""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import ranks_matrix  # noqa: E402
from ranks_matrix import Comparison, Layout, free_port, over_tcp  # noqa: E402

PLIMSOLL, RANK = ROOT / "build/plimsoll", ROOT / "build/dist_tcp_test"
ABORT = 0x706C0003  # FrameKind::kAbort of dist/tcp_socket.h


def hello(magic=b"plimtcp\n", version=1, purpose=1, rank=1, ranks=3, port=5, job=b""):
    """The first bytes of a connection: Hello of dist/tcp_meeting.cpp."""
    return struct.pack("<8sIIiiI132s", magic, version, purpose, rank, ranks, port, job)


class Ranks:
    """Processes, one per rank, that are gone when the block is left."""

    def __init__(self, words, ranks, without=(), changed=None):
        self.port, self.started = free_port(), time.monotonic()
        self.words, self.ranks, self.changed = words, ranks, changed or {}
        self.processes = {}
        for rank in range(ranks):
            if rank not in without:
                self.start(rank)

    def start(self, rank):
        environment = {**over_tcp(rank, self.ranks, self.port), **self.changed}
        self.processes[rank] = subprocess.Popen(self.words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                                text=True, env=environment)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.communicate()

    def wait(self, seconds=30):
        """Statuses by rank, and everything that was said."""
        said = [process.communicate(timeout=seconds) for process in self.processes.values()]
        self.seconds = time.monotonic() - self.started
        return ({rank: process.returncode for rank, process in self.processes.items()},
                "".join(out + error for out, error in said))


class Processes(unittest.TestCase):
    def act(self, name, ranks=3, **options):
        with Ranks([RANK, name], ranks, **options) as group:
            statuses, said = group.wait()
            return statuses, said, group.seconds

    def test_the_communicator_does_what_it_must(self):
        for ranks in (1, 2, 3, 4):
            with Ranks([RANK, "--gtest_brief=1"], ranks) as group:
                statuses, said = group.wait()
                self.assertEqual(set(statuses.values()), {0}, said)
                self.assertEqual(len(re.findall(r"PASSED +\] +11 tests", said)), ranks, said)

    def test_an_abort_ends_all_with_its_code_and_one_line(self):
        statuses, said, seconds = self.act("abort", 4)
        self.assertEqual(set(statuses.values()), {78}, said)
        self.assertEqual(said, "plimsoll: rank 1: ran out of luck\n")
        self.assertLess(seconds, 4)

    def test_where_all_say_the_same_the_first_says_it(self):
        statuses, said, seconds = self.act("abort-by-all", 4)
        self.assertEqual(set(statuses.values()), {78}, said)
        self.assertEqual(said, "plimsoll: rank 0: nobody likes it\n")
        self.assertLess(seconds, 4)

    def test_a_rank_that_vanishes_ends_the_others(self):
        statuses, said, seconds = self.act("vanish", 4)
        self.assertEqual(statuses, {0: 75, 1: 0, 2: 75, 3: 75}, said)
        self.assertEqual(said.count("plimsoll: "), 1, said)
        self.assertIn("plimsoll: rank 0: the connection to rank 1 broke", said)
        self.assertLess(seconds, 4)

    def test_a_rank_that_is_done_may_go(self):
        statuses, said, _ = self.act("early")
        self.assertEqual((set(statuses.values()), said), ({0}, ""))

    def test_a_silent_rank_is_named(self):
        statuses, said, seconds = self.act("silent")
        self.assertEqual(set(statuses.values()), {75}, said)
        self.assertRegex(said, r"\Aplimsoll: rank 0: control number 2 .*nothing from ranks 1 for")
        self.assertLess(seconds, 5)

    def test_messages_beyond_2_gib_arrive(self):
        statuses, said, _ = self.act("large", 2)
        self.assertEqual((set(statuses.values()), said), ({0}, ""))

    def test_missing_ranks_are_named_by_all(self):
        statuses, said, seconds = self.act("early", 4, without=(1, 3))
        self.assertEqual(set(statuses.values()), {75}, said)
        self.assertEqual(said.count("ranks 1, 3 of 4 did not come to rank 0"), 2, said)
        self.assertLess(seconds, 7)

    def test_another_job_is_refused(self):
        with Ranks([RANK, "early"], 3, without=(1,)) as group:
            group.changed = {"PLIMSOLL_JOB_KEY": "other"}
            group.start(1)
            _, error = group.processes.pop(1).communicate(timeout=10)
            self.assertIn("refuses this process: it belongs to job 'other', not ''", error)
            group.changed = {}
            group.start(1)
            statuses, said = group.wait()
            self.assertEqual(set(statuses.values()), {0}, said)
            self.assertIn("note: refused a connection from 127.0.0.1:", said)

    def test_strangers_neither_stop_nor_delay_the_others(self):
        garbage = {
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n": "no rank of plimsoll", b"\0" * 4096: "no rank of plimsoll",
            b"\xff" * 7: "no rank of plimsoll", hello(magic=b"plimtcp?"): "no rank of plimsoll",
            hello(version=2): "version 2", hello(job=b"x" * 132): "belongs to job 'xxx", hello(rank=-1): "rank -1",
            hello(rank=0): "rank 0; wanted 1 .. 2, this one is there", hello(rank=2**31 - 1): "rank 2147483647",
            hello(ranks=-3): "counts -3 ranks", hello(purpose=9): "makes no sense", hello(port=0): "makes no sense",
            hello(port=2**32 - 1): "makes no sense", b"": None, hello()[:100]: None,
        }
        with Ranks([RANK, "early"], 3, without=(1, 2)) as group:
            idle = []
            for data, wanted in garbage.items():
                connection = self.connected(group.port)
                connection.sendall(data)
                if wanted is None:  # never says more; stays
                    idle.append(connection)
                    continue
                connection.settimeout(5)
                answer = b""
                try:
                    while part := connection.recv(4096):
                        answer += part
                except ConnectionResetError:  # it had sent more than was read
                    pass
                connection.close()
                if answer:
                    self.assertEqual(struct.unpack_from("<I", answer)[0], ABORT)
                    self.assertIn(wanted, answer[24:].decode())
            # A rank that comes and goes leaves its place to the next of its number.
            connection = self.connected(group.port)
            connection.sendall(hello(rank=1))
            connection.close()
            time.sleep(0.3)
            started = time.monotonic()
            for rank in (1, 2):
                group.start(rank)
            statuses, said = group.wait()
            self.assertEqual(set(statuses.values()), {0}, said)
            self.assertLess(time.monotonic() - started, 4)
            for wanted in filter(None, garbage.values()):
                self.assertIn(wanted, said)
            self.assertIn("note: rank 1 came and ended", said)
            for connection in idle:
                connection.close()

    def test_what_is_no_protocol_after_a_hello_ends_the_job(self):
        with Ranks([RANK, "early"], 2, without=(1,)) as group:
            connection = self.connected(group.port)
            connection.sendall(hello(rank=1, ranks=2))
            connection.settimeout(5)
            connection.recv(4096)  # the table
            connection.sendall(struct.pack("<IIQQ", 0x706C0006, 0, 0, 0))  # ready
            connection.recv(4096)  # go
            connection.sendall(b"\xee" * 100)
            statuses, said = group.wait()
            self.assertEqual(statuses, {0: 75}, said)
            self.assertIn("the connection to rank 1 broke (it does not carry plimsoll's protocol)", said)
            connection.close()

    def connected(self, port):
        for _ in range(100):
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=5)
            except ConnectionRefusedError:
                time.sleep(0.05)
        raise AssertionError("rank 0 does not listen")


class Runs(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="plimsoll_tcp_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def command(self, *options):
        return ranks_matrix.command(PLIMSOLL, self.folder / "run", 0, [
            "--set", "train.micro_batch=2", "--set", "train.batch_tokens=3072", "--set", "run.threads=1",
            "--set", "probes.enabled=false", "--set", "data.val_samples=4", "--set", "train.max_steps=100000",
            "--set", "run.precision=fp32", *options])

    def test_bits_are_those_of_one_process(self):
        comparison = Comparison(PLIMSOLL, self.folder, tcp=True)
        for layout, variant, precision in (
                (Layout(2), "softmax", "fp32"), (Layout(4), "sigmoid", "fp64"), (Layout(2, 2, 1, "zb-h1"), "gated", "fp32"),
                (Layout(2, cad="ping-pong"), "softmax", "fp32")):
            with self.subTest(str(layout)):
                self.assertEqual(comparison.difference(layout, variant, precision), "")
        log = (self.folder / "run_4/log.txt").read_text()
        for rank in range(4):
            self.assertRegex(log, rf"  rank {rank} +\S+, local rank {rank}, cpu, cores [0-9,-]+, pid \d+\n")

    def wait_for_steps(self, count):
        log = self.folder / "run/metrics.jsonl"
        for _ in range(300):
            if log.exists() and len(log.read_text().splitlines()) > count:
                return
            time.sleep(0.1)
        self.fail("no steps")

    def test_a_killed_rank_ends_the_others(self):
        with Ranks(self.command(), 3) as group:
            self.wait_for_steps(2)
            group.processes[2].kill()
            killed = time.monotonic()
            statuses, said = group.wait()
            self.assertEqual(statuses, {0: 75, 1: 75, 2: -signal.SIGKILL}, said)
            self.assertIn("plimsoll: rank 0: the connection to rank 2 broke", said)
            self.assertLess(time.monotonic() - killed, 3)

    def test_a_signal_stops_all_at_one_step(self):
        with Ranks(self.command(), 2) as group:
            self.wait_for_steps(2)
            group.processes[1].send_signal(signal.SIGUSR1)  # one is enough
            statuses, said = group.wait()
            self.assertEqual(set(statuses.values()), {85}, said)

    def test_an_error_of_all_is_one_line(self):
        with Ranks(self.command("--set", "train.batch_tokens=256"), 2) as group:
            statuses, said = group.wait()
            self.assertEqual(set(statuses.values()), {78}, said)
            self.assertEqual(said.count("plimsoll: "), 1, said)

    def test_a_rank_that_never_started_is_told_from_one_that_does_not_come(self):
        with Ranks(self.command("--set", "parallel.timeout_seconds=1"), 3, without=(1,)) as group:
            group.changed = {"PLIMSOLL_JOB_KEY": "other"}
            statuses, said = group.wait()
            self.assertEqual(set(statuses.values()), {75}, said)
            self.assertIn("ranks 1 of 3 did not come to rank 0", said)
            self.assertIn("ranks 1 of 3 have not started", said)

    def test_tasks_of_srun_that_cannot_meet_are_refused(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PLIMSOLL"))}
        task = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}
        words = self.command("--set", "train.max_steps=1")
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**environment, **task, **step},
                              timeout=60)
        self.assertEqual(done.returncode, 78, done.stdout + done.stderr)
        self.assertIn("srun started this as task 0 of 4, without PMIx and without PLIMSOLL_RENDEZVOUS", done.stderr)
        self.assertFalse((self.folder / "run").exists())
        # The batch script itself is one process, whatever its job may start.
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**environment, **task}, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_gpus_of_slurm_that_ranks_share_are_refused(self):
        with Ranks(self.command(), 2, changed={"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "3"}) as group:
            statuses, said = group.wait()
            self.assertEqual(set(statuses.values()), {78}, said)
            self.assertRegex(said, r"ranks 0, 1 use the same device of \S+ \(device 3; .*--gpus-per-task=1")
        self.assertFalse((self.folder / "run/config.toml").exists())
        for settings in (("--set", "run.device=cpu"), ("--set", "parallel.share_devices=true", "--fresh")):
            with Ranks(self.command("--set", "train.max_steps=1", *settings), 2,
                       changed={"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "3"}) as group:
                statuses, said = group.wait()
                self.assertEqual(set(statuses.values()), {0}, said)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        PLIMSOLL, RANK = (Path(sys.argv.pop(1)).resolve() for _ in range(2))
    unittest.main()
