"""Malformed configurations, made from the shipped ones: each is refused at once, in one line that says where."""

import os
import random
import re
import subprocess
import tempfile
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("PLIMSOLL_BINARY", ROOT / "build" / "plimsoll"))
TEXT = ROOT / "tests" / "golden" / "shakespeare_excerpt.txt"
SECONDS = 0.5
KEY = re.compile(r"^(\w+) = (.*)$", re.MULTILINE)


def sections_of(text):
    """(section, key, line) of each key of a shipped file, lines from 1."""
    section, found = None, []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("["):
            section = line.strip("[]")
        elif section and (match := KEY.match(line)):
            found.append((section, match[1], number))
    return found


def with_line(text, number, line):
    lines = text.splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


def value_cases(text, rng):
    """Wrong values of one key: (name, text, what the message names). The place is that of the key."""
    for section, key, number in rng.sample(keys := sections_of(text), min(2, len(keys))):
        for name, value in [
            ("table", "{ a = 1 }"), ("date", "1979-05-27"), ("nan", "nan"), ("minus_inf", "-inf"), ("nested", "[[1], [[2]]]"),
            ("no_text", '"a\\u0000b"'), ("huge", "9223372036854775807"), ("negative", "-9223372036854775808"),
        ]:
            # An absurd integer is one of the values that some keys take.
            yield f"{key}_{name}", with_line(text, number, f"{key} = {value}"), number, f"{section}.{key}", name in ("huge", "negative")
        for name, value in [
            ("beyond_int64", "99999999999999999999"), ("leading_zero", "007"), ("two_values", "1 2"), ("open_string", '"abc'),
            ("bad_escape", '"\\q"'), ("nothing", ""), ("bad_utf8", '"\udcff\udcfe"'), ("open_list", "[1, 2"), ("bare_word", "adamw"),
            ("nul", '"\0"'), ("open_table", "{ a = 1"), ("deep_list", "[" * 100_000), ("deep_table", "{a=" * 100_000),
        ]:
            yield f"{key}_{name}", with_line(text, number, f"{key} = {value}"), None, "not TOML", False
        yield f"{key}_twice", with_line(text, number, f"{key} = 1\n{key} = 1"), None, "not TOML", False
        yield f"{key}_misspelt", with_line(text, number, f"{key}x = 1"), number, f"'{key}x'", False
        yield f"{key}_dotted", with_line(text, number, ".".join([key] * 50_000) + " = 1"), None, "dots", False
        yield f"{key}_long", with_line(text, number, key * 50_000 + " = 1"), number, f"'{key[:3]}", False


def file_cases(text, rng):
    """Wrong files: (name, text, line or None, what the message names)."""
    lines = text.splitlines()
    yield "unknown_section", text + "[modle]\nlayers = 1\n", len(lines) + 1, "[modle]", False
    yield "section_is_a_list", text + "[[run2]]\n", len(lines) + 1, "[run2]", False
    yield "open_section", text + "[train\n", None, "not TOML", False
    yield "binary", bytes(rng.randrange(256) for _ in range(500)).decode("latin1") + text, None, "not TOML", False
    yield "deep_section", "[" + ".".join("a" * 50_000) + "]\n" + text, None, "dots", False
    _, key, number = rng.choice(sections_of(text))
    yield "cut_off", "\n".join(lines[: number - 1] + [f"{key} ="]), None, "not TOML", False
    yield "include_nothing", 'include = "nowhere.toml"\n', 1, "does not exist", False
    yield "include_a_number", "include = 3\n", 1, "include wants a path", False
    yield "include_itself", 'include = "SELF"\n', None, "includes itself", False


@unittest.skipUnless(BINARY.exists(), f"{BINARY} is not built")
class HostileConfigs(unittest.TestCase):
    def cases(self):
        rng = random.Random(22)
        # Those of runs: sweeps and simulations have sections of their own.
        sources = sorted(path for path in (ROOT / "configs").rglob("*.toml")
                         if not {"sweeps", "findings", "simulate"} & set(path.relative_to(ROOT).parts))
        for source in rng.sample(sources, 12):
            # Their includes from anywhere: what they say depends on them.
            text = re.sub(r'^include = "(.*)"$', lambda found: f'include = "{source.parent / found[1]}"', source.read_text(),
                          flags=re.MULTILINE)
            if "[train]" not in text:  # a variant or a model, no whole run
                text += "[train]\nmax_steps = 1\n"
            for make in (value_cases, file_cases):
                for name, bad, line, named, may_pass in make(text, rng):
                    yield f"{source.stem}_{name}", bad, line, named, may_pass

    def check(self, path, line, named, may_pass):
        """What is wrong with how plimsoll takes the file; None if nothing is."""
        for _ in range(3):  # a busy machine may be late once, not each time
            begin = time.monotonic()
            # --dry-run: a file that should be refused and is not must not start to train. Some name no text.
            command = [BINARY, "train", path, "--dry-run", *([] if named == "data.text" else ["--set", f"data.text={TEXT}"])]
            done = subprocess.run(command, capture_output=True, timeout=60, cwd=path.parent)
            seconds = time.monotonic() - begin
            if seconds <= SECONDS:
                break
        error = done.stderr.decode(errors="replace")
        # Taken as a configuration, of a run that may or may not fit this machine, or of a backbone without steps.
        if may_pass and (not error or "train.max_steps and train.max_tokens are both 0" in error):
            return None
        place = rf"{re.escape(path.name)}:{line}:\d+: " if line else re.escape(path.name)
        if named == "not TOML":
            place = rf"{re.escape(path.name)}:\d+:\d+: "
        problems = [] if seconds <= SECONDS else [f"took {seconds:.2f} s"]
        if done.returncode != 78:
            problems.append(f"exit code {done.returncode}, wanted 78")
        if not re.search(place, error) or named not in error:
            problems.append(f"wanted {place!r} and {named!r}")
        if len(error.strip().splitlines()) != 1 or len(error) > 1500:
            problems.append(f"{len(error.splitlines())} lines, {len(error)} bytes")
        return f"{path.name}: {'; '.join(problems)}: {error[:300]}" if problems else None

    def test_each_is_refused_with_its_place(self):
        cases = list(self.cases())
        self.assertGreaterEqual(len(cases), 300)
        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
            checks = []
            for name, text, line, named, may_pass in cases:
                path = Path(folder, f"{name}.toml")
                path.write_text(text.replace("SELF", path.name), encoding="utf-8", errors="surrogateescape")
                checks.append(pool.submit(self.check, path, line, named, may_pass))
            problems = [problem for check in checks if (problem := check.result())]
        self.assertEqual(problems, [], f"{len(problems)} of {len(cases)}")


if __name__ == "__main__":
    unittest.main()
