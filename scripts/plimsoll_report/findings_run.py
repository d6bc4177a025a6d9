"""Runs the sweeps of configs/findings: says what it will cost, and goes on where an earlier try stopped."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

PROBE_STEPS = 20
PROBE_SECONDS = 60  # a probe that the plan expects to take longer is not made
_GOES_ON = (85, 130)  # saved on a signal; stopped at once
_UNIT = {"M": 1e6, "G": 1e9, "T": 1e12}


class CannotRun(Exception):
    """What plimsoll said instead of a list of cells."""


def commands_of(program, sweep, settings=()):
    """-> (cells in all, commands of those that are not done)"""
    done = subprocess.run([program, "sweep", sweep, "--dry-run", *_sets(settings)], capture_output=True, text=True)
    if done.returncode:
        raise CannotRun((done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1])
    lines = done.stdout.splitlines()
    counted = re.match(r"(\d+) cells: (\d+) done", lines[0]) if lines else None
    if not counted:
        raise CannotRun(f"{sweep}: no list of cells in what plimsoll printed")
    return int(counted[1]), [_words(line.split(": ", 1)[1]) for line in lines[1:] if re.match(r"[^ ]+: .* train ", line)]


def _words(line):
    """A printed command, whose words are not quoted: settings may hold blanks and quotes, nothing else does."""
    first, *settings = line.split(" --set ")
    return first.split() + _sets(settings)


def _sets(settings):
    return [word for setting in settings for word in ("--set", setting)]


def cost_of(commands, jobs):
    """Commands -> (seconds, words on how that is known). A short probe of the first says what a FLOP takes here; plans say
    how many FLOPs the others are."""
    if not commands:
        return 0.0, "all done"
    plans, flops, planned = {}, 0.0, 0.0
    for command in commands:
        words = _configuration(command)
        key = tuple(word for word in words if not re.match(r"run\.(seed|name)=", word))
        if key not in plans:
            plans[key] = plan_of(command[0], words)
        per_step, steps, rate = plans[key]
        flops += per_step * steps
        planned += per_step * steps / rate
    per_step, _, rate = plans[next(iter(plans))]
    if PROBE_STEPS * per_step / rate > PROBE_SECONDS:
        return planned / jobs, "by plimsoll plan; no probe, which would take longer than a minute"
    seconds, tokens = probe(commands[0])
    return flops * seconds / per_step / jobs, f"by a probe of {PROBE_STEPS} steps: {tokens:,.0f} tokens/s"


def _configuration(command):
    """The words of a train command that say what is trained: the file, --variant, --set."""
    words, left = [], iter(command[2:])
    for word in left:
        if word in ("--resume", "--run-dir"):
            next(left)
        else:
            words.append(word)
    return words


def plan_of(program, words):
    """-> (FLOPs of a step, steps, FLOPs per second that the machine is expected to reach)"""
    done = subprocess.run([program, "plan", *words], capture_output=True, text=True)
    step = re.search(r"^step .*?, ([\d.e+]+) FLOPs$", done.stdout, re.MULTILINE)
    time = re.search(r"^expected time .* for (\d+) steps?, at the ([\d.]+) ([MGT])FLOP/s", done.stdout, re.MULTILINE)
    if not step or not time:
        raise CannotRun((done.stderr.strip() or "plimsoll plan names no FLOPs and no time").splitlines()[-1])
    return float(step[1]), int(time[1]), float(time[2]) * _UNIT[time[3]]


def probe(command):
    """-> (seconds per step, tokens per second) of a few steps without evaluation."""
    with tempfile.TemporaryDirectory(prefix="plimsoll_probe_") as folder:
        words = [command[0], "train", *_configuration(command), "--run-dir", f"{folder}/run", *_sets(
            [f"train.max_steps={PROBE_STEPS}", "train.max_tokens=0", "train.eval_every=0", "train.eval_samples=1",
             "probes.enabled=false"])]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise CannotRun((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
        info = json.loads((Path(folder) / "run/run.json").read_text())
        return info["ms_per_step"] / 1000, info["tokens_per_second"]


def duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def run_sweep(program, sweep, settings=()):
    """-> (whether it should go on with the next one, its exit status). A cell that failed is a result as well."""
    status = subprocess.run([program, "sweep", sweep, *_sets(settings)]).returncode
    return status not in _GOES_ON and status >= 0, status
