"""Measurements that are processes of their own: what they print, and the most memory they had."""

import argparse
import contextlib
import json
import os
import subprocess
import tempfile
import threading

TIMEOUT_SECONDS = 3600


class Failure(Exception):
    """A measurement that gave no number; the message says why in one line."""


def run(command, environment):
    """-> (standard output, peak resident bytes of the process). Throws Failure."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=errors)
        except OSError as error:
            raise Failure(f"cannot start: {error.strerror}") from None
        killed = threading.Event()
        timer = threading.Timer(TIMEOUT_SECONDS, lambda: (killed.set(), process.kill()))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
        if killed.is_set():
            raise Failure(f"gave no result in {TIMEOUT_SECONDS} s")
        out.seek(0), errors.seek(0)
        if process.returncode:
            lines = errors.read().strip().splitlines() or ["no message"]
            raise Failure(f"exit status {process.returncode}: {lines[-1][:200]}")
        return out.read(), 1024 * usage.ru_maxrss


def run_with_memory(command, environment):
    """-> (the last line of standard output that is a JSON object, peak resident bytes of the process)."""
    text, peak = run(command, environment)
    return _last_object(text), peak


def run_json(command, environment):
    """The last line of standard output that is a JSON object."""
    return run_with_memory(command, environment)[0]


def _last_object(text):
    text = text.strip()
    for candidate in (text, *reversed(text.splitlines())):
        with contextlib.suppress(ValueError):
            value = json.loads(candidate)
            if isinstance(value, dict):
                return value
    raise Failure("printed no JSON object")


def attempt(call):
    """What call() gives, or {"error": why} for a Failure."""
    try:
        return call()
    except Failure as failure:
        return {"error": str(failure)}


def positive(text):
    """A whole number above 0 of a command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return int(text)
