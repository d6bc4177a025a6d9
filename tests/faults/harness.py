"""What every fault shares: a tiny run of the real program, alone or as ranks under mpirun, the undisturbed run to
compare with, faults of the disk by crash_shim.cpp, and the comparison itself."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = ROOT / "scripts/mpirun.sh"
STEPS, EVERY = 60, 5
# 24 micro batches of 32 tokens: 1, 2, 3, 4 and 8 ranks share them. fp32, so that ranks can be compared within 1e-5.
TINY = {"model.layers": 2, "model.channels": 64, "model.ffn": 128, "model.context": 32, "train.micro_batch": 1,
        "train.batch_tokens": 768, "train.max_steps": STEPS, "train.save_every": EVERY, "train.eval_every": 20,
        "train.eval_samples": 4, "data.val_samples": 4, "probes.enabled": "false", "run.threads": 1,
        "run.measure_peak": "false", "run.precision": "fp32"}


class Broken(AssertionError):
    """A fault did not end as it must."""


def expect(condition, text):
    if not condition:
        raise Broken(text)


@dataclass
class Shim:
    """One fault of the disk; see crash_shim.cpp."""
    folder: Path
    mode: str = ""
    at: int = 0
    count: int = 1
    rank: int = 0
    journal: Path | None = None
    first: str = ""  # changes are numbered from the first whose path contains this

    def environment(self, library):
        values = {"FOLDER": self.folder, "MODE": self.mode, "AT": self.at, "FOR": self.count, "RANK": self.rank,
                  "FROM": self.first}
        if self.journal:
            values["JOURNAL"] = self.journal
        return {"LD_PRELOAD": str(library), **{f"PLIMSOLL_SHIM_{key}": str(value) for key, value in values.items()}}


@dataclass
class Done:
    status: int
    output: str
    seconds: float


@dataclass
class Process:
    """plimsoll under way; of several ranks the launcher."""
    process: subprocess.Popen
    log: Path
    ranks: int
    started: float = field(default_factory=time.monotonic)

    def rank_pids(self):
        """rank -> process id of those that live."""
        if not self.ranks:
            return {0: self.process.pid} if self.process.poll() is None else {}
        found = {}
        children = Path(f"/proc/{self.process.pid}/task")
        with contextlib.suppress(OSError):
            for child in " ".join(p.read_text() for p in children.glob("*/children")).split():
                with contextlib.suppress(OSError):
                    rank = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", Path(f"/proc/{child}/environ").read_bytes())
                    if rank and b"plimsoll" in Path(f"/proc/{child}/cmdline").read_bytes():
                        found[int(rank[1])] = int(child)
        return found

    def wait(self, seconds=60):
        try:
            status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise Broken(f"still running after {seconds} s:\n{self.output()[-2000:]}") from None
        return Done(status, self.output(), time.monotonic() - self.started)

    def output(self):
        return self.log.read_text(errors="replace")

    def end(self):
        """Kills what is left of it, and only that."""
        for pid in self.rank_pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


class Bench:
    """Where the faults are tried: the program, a scratch folder, and undisturbed runs, made once each."""

    def __init__(self, program, shim, scratch, short, rounds, seed):
        self.program, self.shim, self.scratch = Path(program).resolve(), Path(shim).resolve(), Path(scratch)
        self.short, self.rounds, self.seed = short, rounds, seed
        self.references = {}

    def folder(self, name):
        """A path for a run's directory, where nothing is."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def command(self, folder, options):
        settings = [word for key, value in {**TINY, **options.get("set", {})}.items()
                    for word in ("--set", f"{key}={value}")]
        return [str(self.program), "train", "configs/quickstart.toml", "--run-dir", str(folder), *settings,
                *options.get("more", [])]

    def start(self, folder, ranks=0, resume=False, shim=None, before=(), environment=None, output=None, **settings):
        """`settings`: keys of the configuration, section__key; `before`: words before the program."""
        options = {"set": {key.replace("__", "."): value for key, value in settings.items()},
                   "more": ["--resume", "auto"] if resume else []}
        extra = {**(shim.environment(self.shim) if shim else {}), **(environment or {})}
        command = [*before, *self.command(folder, options)]
        mine = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        if ranks:
            command = [MPIRUN, *[word for name in extra for word in ("-x", f"{name}={extra[name]}")], "-n", str(ranks),
                       *command]
        else:
            mine.update(extra)
        log = output or self.scratch / f"{folder.name}.output"
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=subprocess.STDOUT, env=mine)
        return Process(process, log, ranks)

    def train(self, folder, ranks=0, seconds=60, status=None, **options):
        done = self.start(folder, ranks, **options).wait(seconds)
        if status is not None:
            expect(done.status == status, f"exit status {done.status}, wanted {status}: {done.output[-1500:]}")
        return done

    def start_in(self, folder):
        """A start that is expected to fail; its output is beside the scratch folder's other files."""
        return self.start(folder, output=self.scratch / "failing.output").wait(10)

    def inspect(self, path, *options):
        return subprocess.run([self.program, "inspect", *options, path], capture_output=True, text=True, timeout=60)

    def whole_steps(self, folder):
        """Steps of the checkpoints that are whole, by the program's own check."""
        checkpoints = folder / "checkpoints"
        if not checkpoints.is_dir():
            return []
        text = self.inspect(folder).stdout
        return [int(step) for step in re.findall(r"step_(\d+): whole", text)]

    def hashes(self, folder, step):
        done = self.inspect(folder / f"checkpoints/step_{step:08d}", "--hash")
        expect(done.returncode == 0, f"step {step} cannot be inspected: {done.stderr}")
        return done.stdout

    def reference(self, ranks=0, **settings):
        """The same run, undisturbed: loss lines and tensors of its last step."""
        key = (ranks, tuple(sorted(settings.items())))
        if key not in self.references:
            folder = self.folder(f"reference_{len(self.references)}")
            self.train(folder, ranks, status=0, **settings)
            self.references[key] = (metrics(folder), self.hashes(folder, last_step(settings)))
        return self.references[key]

    def expect_bitwise(self, folder, ranks=0, **settings):
        """The run ended as the undisturbed one, bit for bit."""
        lines, hashes = self.reference(ranks, **settings)
        expect(self.hashes(folder, last_step(settings)) == hashes, f"{folder.name}: other tensors than undisturbed")
        for ours, theirs in zip(metrics(folder), lines, strict=False):
            expect(ours == theirs, f"{folder.name}: {ours}, undisturbed {theirs}")
        expect(len(metrics(folder)) == len(lines), f"{folder.name}: {len(metrics(folder))} steps in metrics.jsonl")

    def finish(self, folder, ranks=0, **settings):
        """Resumes the run to its end and compares; what the program said."""
        done = self.train(folder, ranks, status=0, resume=True, **settings)
        self.expect_bitwise(folder, ranks, **settings)
        return done

    def template(self, name, steps, ranks=0, **settings):
        """A finished run of so many steps, made once: cases copy it."""
        folder = self.scratch / f"template_{name}"
        if not folder.exists():
            self.train(folder, ranks, status=0, **{**settings, "train__max_steps": steps})
        return folder

    def copy(self, template, name):
        folder = self.folder(name)
        shutil.copytree(template, folder)
        return folder


def last_step(settings):
    return int(settings.get("train__max_steps", STEPS))


def metrics(folder):
    """Loss lines without times; a last line cut off by a crash does not count."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / "metrics.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                lines.append({key: entry[key] for key in ("step", "loss", "norm", "lr", "tokens")})
    return lines


def leftovers(folder):
    """What is in a run's checkpoints and is no checkpoint."""
    checkpoints = folder / "checkpoints"
    return [p.name for p in checkpoints.iterdir() if not re.fullmatch(r"step_\d{8}", p.name)] \
        if checkpoints.is_dir() else []


def wait_for(condition, what, seconds=30, pause=0.01):
    """What the condition returned, once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        expect(time.monotonic() < deadline, f"{what} did not happen within {seconds} s")
        time.sleep(pause)
    return value
