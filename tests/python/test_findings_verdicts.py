"""Verdicts on published claims: every rule by hand, and every claim reproduced, contradicted by each part, open, not
testable, not measured.

    python3 -m unittest discover tests/python        (the report needs pandas and matplotlib)
"""

import json
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import test_report  # noqa: E402, F401  (skips these tests where packages are missing)

if sys.version_info < (3, 11):
    raise unittest.SkipTest("Python 3.11 or newer is needed, for tomllib")

from plimsoll_report import claims, findings_page, measured, verdicts  # noqa: E402
from plimsoll_report.sweep_cells import value_of  # noqa: E402
from plimsoll_report.verdicts import (Absent, Cells, Claim, Close, Less, Level, Ordered, Present, Ratio, Side,  # noqa: E402
                                      Stable)

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (1, 2, 3)


def cell(variant, seed, values, settings=None, state="done", exit_code=0):
    name = "-".join([variant, *(f"{value:g}" if isinstance(value, float) else str(value)
                                for value in (settings or {}).values()), f"seed{seed}"])
    row = {"name": name, "variant": variant, "seed": seed, "state": state, "settings": settings or {},
           "exit_code": exit_code}
    return {**row, "values": values} if state == "done" else row


def measurements(*cells, sweep="variants", scale="quick"):
    return {"version": 1, "sweep": sweep, "scale": scale, "made": {"runs": len(cells), "layers": 1}, "cells": list(cells)}


def seeds_of(variant, metric, values, settings=None):
    return [cell(variant, seed, {metric: value}, settings) for seed, value in zip(SEEDS, values)]


A, B = (Side("loss", Cells(name)) for name in "ab")


class Rules(unittest.TestCase):
    def judged(self, rule, first, second=None, metric="loss"):
        cells = seeds_of("a", metric, first) + (seeds_of("b", metric, second) if second else [])
        return rule.judge(measurements(*cells))

    def test_less(self):
        below = self.judged(Less(A, B), [1.0, 1.1, 1.2], [2.0, 2.2, 2.1])
        self.assertEqual((below.state, below.figures["pairs"]), ("holds", 3))
        self.assertAlmostEqual(below.figures["difference"], -1.0)
        self.assertIn("1.100 ± 0.100 against 2.100 ± 0.100 (difference -1, 95 % CI", below.words)
        self.assertEqual(self.judged(Less(A, B), [2.0, 2.2, 2.1], [1.0, 1.1, 1.2]).state, "opposite")
        self.assertEqual(self.judged(Less(A, B), [1.0, 2.0, 1.0], [1.5, 1.5, 1.4]).state, "open")
        self.assertEqual(self.judged(Less(A, B), [1.0, 1.1, 1.2], [1.0, 1.1, 1.2]).state, "open")
        # No spread at all: 0 against 100 in every seed is no chance.
        same = self.judged(Less(A, B), [0.0] * 3, [100.0] * 3)
        self.assertEqual((same.state, same.figures["p"]), ("holds", None))
        self.assertIn("difference -100 in each of 3 pairs", same.words)

    def test_one_seed_decides_nothing(self):
        for rule in (Less(A, B), Ratio(A, B, 2), Close(A, B, 10), Level(A, "<=", 10)):
            cells = [cell("a", 1, {"loss": 1.0}), cell("b", 1, {"loss": 2.0})]
            self.assertEqual(rule.judge(measurements(*cells)).state, "open", rule)

    def test_level(self):
        for sign, values, state in (("<=", [1, 2, 3], "holds"), ("<=", [4, 5, 6], "opposite"), ("<=", [1, 2, 9], "open"),
                                    (">=", [4, 5, 6], "holds"), (">=", [1, 2, 3], "opposite"), (">=", [3.5, 4, 4], "open")):
            self.assertEqual(self.judged(Level(A, sign, 3.6 if sign == ">=" else 3), values).state, state, (sign, values))
        self.assertIn("so in 2 of 3 seeds", self.judged(Level(A, "<=", 3), [1, 2, 9]).words)

    def test_a_list_of_one_number_is_that_number(self):
        for text, value in (("[64]", 64), ("64", 64), ("[6, 4]", "[6, 4]"), ("[]", "[]"), ("", ""), (None, None)):
            self.assertEqual(value_of(text), value, text)

    def test_present(self):
        for values, state in (([4, 5, 6], "holds"), ([1, 5, 6], "open"), ([1, 2, 3], "open")):
            self.assertEqual(self.judged(Present(A, 3.6), values).state, state, values)

    def test_absent_is_contradicted_only_where_there_is_no_less_than_in_the_control(self):
        rule = Absent(A, 0.15, Cells("b"))
        self.assertEqual(self.judged(rule, [0.1, 0.02, 0.15], [0.7, 0.6, 0.8]).state, "holds")
        self.assertEqual(self.judged(rule, [0.1, 0.3, 0.15], [0.7, 0.6, 0.8]).state, "open")
        less = self.judged(rule, [0.3, 0.25, 0.35], [0.7, 0.6, 0.8])
        self.assertEqual(less.state, "open")
        self.assertIn("so in 0 of 3 seeds, though below b (difference -0.4", less.words)
        for values in ([0.7, 0.62, 0.78], [0.9, 0.8, 1.0], [0.3, 0.9, 0.8]):  # as much, more, less by chance
            self.assertEqual(self.judged(rule, values, [0.7, 0.6, 0.8]).state, "opposite", values)

    def test_ratio(self):
        found = self.judged(Ratio(A, B, 4), [40.0, 44.0, 42.0], [10.0, 10.5, 10.2])
        self.assertEqual(found.state, "holds")
        self.assertAlmostEqual(found.figures["ratio"], (4 * 44 / 10.5 * 42 / 10.2) ** (1 / 3))
        self.assertEqual(self.judged(Ratio(A, B, 4), [20.0, 21.0, 22.0], [10.0, 10.5, 10.2]).state, "open")  # larger, not 4
        self.assertEqual(self.judged(Ratio(A, B, 4), [10.0, 10.5, 10.2], [40.0, 44.0, 42.0]).state, "opposite")
        self.assertEqual(self.judged(Ratio(A, B, 4), [10.0, 10.5, 0.0], [40.0, 44.0, 42.0]).state, "open")

    def test_close(self):
        self.assertEqual(self.judged(Close(A, B, 0.1), [1.0, 1.1, 1.2], [1.01, 1.1, 1.2]).state, "holds")
        apart = self.judged(Close(A, B, 0.1), [1.5, 1.61, 1.7], [1.0, 1.1, 1.2])
        self.assertEqual((apart.state, apart.p), ("opposite", None))  # the p, of no difference, is not of this rule
        self.assertLess(apart.figures["p"], 0.05)
        self.assertEqual(self.judged(Close(A, B, 0.1), [1.2, 1.1, 1.2], [1.0, 1.1, 1.2]).state, "open")
        self.assertEqual(self.judged(Close(A, B, 0.1), [1.0] * 3, [1.0] * 3).state, "holds")

    def test_order_and_its_exact_probability(self):
        published = (("a", 20.0), ("b", 30.0), ("c", 0.0), ("d", 1.0), ("e", 0.5), ("f", 0.4))
        rule = Ordered("sink_rate", published, 5.0)

        def judged(**rates):
            return rule.judge(measurements(*(row for name, rate in rates.items()
                                             for row in seeds_of(name, "sink_rate", [rate] * 3))))
        found = judged(a=80.0, b=70.0, c=0.0, d=60.0, e=1.0, f=2.0)
        self.assertEqual((found.state, found.figures["share"]), ("open", 1.0))  # 1 of 15 ways: p = 0.067
        self.assertAlmostEqual(found.figures["p"], 1 / 15)
        published += (("g", 0.1),)
        rule = Ordered("sink_rate", published, 5.0)
        self.assertEqual(judged(a=80.0, b=70.0, c=0.0, d=60.0, e=1.0, f=2.0, g=3.0).state, "holds")  # 1 of 21
        self.assertEqual(judged(a=0.0, b=1.0, c=10.0, d=60.0, e=11.0, f=22.0, g=33.0).state, "opposite")
        self.assertEqual(judged(a=80.0, b=20.0, c=0.0, d=60.0, e=50.0, f=2.0, g=3.0).state, "open")  # 8 of 10 pairs
        self.assertEqual(judged(a=5.0, b=5.0, c=5.0, d=5.0, e=5.0, f=5.0, g=5.0).figures["share"], 0.5)

    def stable(self, first, second):
        """{variant: {rate: loss, None where it broke down}} for each of three seeds."""
        cells = [cell(name, seed, {"loss": loss and loss + 0.01 * seed}, {"optimizer.lr": rate},
                      "failed" if loss is None else "done", 70 if loss is None else 0)
                 for name, losses in (("a", first), ("b", second)) for rate, loss in losses.items() for seed in SEEDS]
        return Stable(Cells("a"), Cells("b")).judge(measurements(*cells))

    def test_stable_rates(self):
        wide, narrow = {1e-3: 2.0, 1e-2: 1.9, 1e-1: 1.95}, {1e-3: 2.0, 1e-2: 1.95, 1e-1: None}
        self.assertEqual(self.stable(wide, narrow).state, "holds")
        self.assertIn("0.1, 0.1, 0.1 against 0.01, 0.01, 0.01 by seed", self.stable(wide, narrow).words)
        self.assertEqual(self.stable(narrow, wide).state, "opposite")
        self.assertEqual(self.stable(wide, wide).state, "open")
        # A loss that came back behind a rate that did not is not stable.
        self.assertIn("0.001, 0.001, 0.001 against 0.1",
                      self.stable({1e-3: 1.95, 1e-2: 2.4, 1e-1: 1.9}, wide).words)
        self.assertEqual(self.stable({1e-3: None, 1e-2: None, 1e-1: None}, wide).state, "unmeasured")
        self.assertEqual(self.stable({1e-3: 9.0, 1e-2: 1.0, 1e-1: 1.0}, wide).state, "unmeasured")

    def test_a_missing_rate_is_no_instability(self):
        cells = [cell(name, seed, {"loss": 1.0}, {"optimizer.lr": 1e-3}) for name in "ab" for seed in SEEDS]
        cells[0] = cell("a", 1, None, {"optimizer.lr": 1e-3}, "interrupted", None)
        found = Stable(Cells("a"), Cells("b")).judge(measurements(*cells))
        self.assertEqual((found.state, found.words), ("unmeasured", "a: not done: a-0.001-seed1"))

    def test_cells_are_found_by_variant_and_settings(self):
        some = Cells("a", (("optimizer.lr", 0.001),))
        cells = [cell("a", 1, {"loss": 1.0}, {"optimizer.lr": rate}) for rate in (0.001, 0.01)]
        self.assertEqual([row["settings"]["optimizer.lr"] for row in some.of(measurements(*cells)).values()], [0.001])


class Verdicts(unittest.TestCase):
    RULE = Less(Side("copy_risk", Cells("a")), Side("copy_risk", Cells("softmax")))

    def judged(self, copies, mass=0.6, rate=90.0, claim=None):
        cells = [cell("softmax", seed, {"copy_risk": 1.0 + 0.01 * seed, "first_mass_effective": mass, "sink_rate": rate,
                                        "loss": 2.0 + 0.001 * seed}) for seed in SEEDS]
        cells += [cell("a", seed, {"copy_risk": copy, "loss": 2.0}) for seed, copy in zip(SEEDS, copies)]
        return (claim or Claim("key", (self.RULE,))).judge(measurements(*cells))

    def test_each_verdict(self):
        self.assertEqual(self.judged([0.5, 0.51, 0.52])["verdict"], verdicts.REPRODUCED)
        self.assertEqual(self.judged([0.5, 1.4, 1.3])["verdict"], verdicts.NOT_HERE)
        self.assertEqual(self.judged([1.5, 1.51, 1.52])["verdict"], verdicts.CONTRADICTED)
        self.assertEqual(self.judged([0.5, 0.51])["verdict"], verdicts.REPRODUCED)  # of the seeds that are meant
        missing = measurements(*(cell("softmax", seed, {"copy_risk": 1.0}) for seed in SEEDS))
        self.assertEqual(Claim("key", (self.RULE,)).judge(missing)["verdict"], verdicts.NOT_MEASURED)

    def test_without_a_sink_in_the_control_nothing_is_said(self):
        for mass, rate, testable in ((0.15, 5.0, False), (0.16, 0.0, True), (0.0, 5.1, True)):
            found = self.judged([0.5, 0.51, 0.52], mass, rate)
            self.assertEqual(found["verdict"], verdicts.REPRODUCED if testable else verdicts.NOT_TESTABLE, (mass, rate))
        found = self.judged([1.5, 1.51, 1.52], 0.0, 0.0)  # also what would contradict is not testable
        self.assertEqual(found["verdict"], verdicts.NOT_TESTABLE)
        self.assertIn("softmax sinks in 0 of 3 seeds (mass / sink rate of seeds 1, 2, 3: 0.00 / 0 %", found["words"])
        free = Claim("key", (self.RULE,), None)
        self.assertEqual(self.judged([0.5, 0.51, 0.52], 0.0, 0.0, free)["verdict"], verdicts.REPRODUCED)

    def test_seeds_without_a_sink_in_the_control_are_left_out(self):
        cells = [cell("softmax", seed, {"copy_risk": 1.0 + 0.01 * seed, "first_mass_effective": mass, "sink_rate": 0.0})
                 for seed, mass in ((1, 0.6), (2, 0.1), (3, 0.7), (4, 0.5))]
        cells += [cell("a", seed, {"copy_risk": copy}) for seed, copy in ((1, 0.5), (2, 9.0), (3, 0.52), (4, 0.53))]
        claim = Claim("key", (self.RULE,))
        found = claim.judge(measurements(*cells))
        self.assertEqual((found["verdict"], found["seeds"]), (verdicts.REPRODUCED, [1, 3, 4]))
        self.assertTrue(found["words"].startswith("softmax sinks in 3 of 4 seeds (mass / sink rate of seeds 1, 2, 3, 4: 0.60"))
        self.assertIn("and only those count", found["words"])
        self.assertEqual(found["parts"][0]["pairs"], 3)
        for row in cells[2:4]:
            row["values"]["first_mass_effective"] = 0.1
        self.assertEqual(claim.judge(measurements(*cells))["verdict"], verdicts.NOT_TESTABLE)  # one seed is left

    def test_one_part_that_does_not_hold(self):
        both = Claim("key", (self.RULE, Level(Side("loss", Cells("a")), "<=", 2.5)))
        self.assertEqual(self.judged([0.5, 0.51, 0.52], claim=both)["verdict"], verdicts.REPRODUCED)
        both = Claim("key", (self.RULE, Level(Side("loss", Cells("a")), "<=", 1.5)))
        self.assertEqual(self.judged([0.5, 0.51, 0.52], claim=both)["verdict"], verdicts.CONTRADICTED)

    def test_contradictions_are_corrected_for_the_number_of_parts(self):
        # p of the first part: differences 0.1, 0.15, 0.2 have t = 5.2, p = 0.035; twice that is no contradiction.
        copies = [1.11, 1.17, 1.23]
        self.assertEqual(self.judged(copies)["verdict"], verdicts.CONTRADICTED)
        same = Less(Side("copy_risk", Cells("softmax")), Side("copy_risk", Cells("softmax")))
        self.assertEqual(self.judged(copies, claim=Claim("key", (self.RULE, same)))["verdict"], verdicts.NOT_HERE)

    def test_survivors_do_not_speak_for_all(self):
        cells = [cell("softmax", seed, {"copy_risk": 1.0, "first_mass_effective": 0.6, "sink_rate": 90.0})
                 for seed in SEEDS] + [cell("a", seed, {"copy_risk": 0.5}) for seed in SEEDS[:2]]
        cells.append(cell("a", 3, None, state="failed", exit_code=70))
        found = Claim("key", (self.RULE,)).judge(measurements(*cells))
        self.assertEqual(found["verdict"], verdicts.NOT_MEASURED)
        self.assertIn("a-seed3 (failed)", found["words"])


def world(claim, hold=True, opposite=None):
    """Cells in which every part of a claim holds, but for the one at `opposite`, which is turned round; with `hold` False
    all numbers are 1. Each number has a little noise of its own."""
    numbers = {}

    def get(side):
        return numbers.setdefault((side.metric, side.cells), 1.0)
    rates = [rule for rule in claim.rules if isinstance(rule, Stable)]
    if hold:
        for _ in range(20):  # until no rule moves another one's number
            for place, rule in sorted(enumerate(claim.rules), key=lambda pair: pair[0] == opposite):  # that one last
                turned = place == opposite
                if isinstance(rule, Level):
                    get(rule.side)
                    above = 1000 if isinstance(rule, Absent) else 1.2  # more than its control has
                    numbers[rule.side.metric, rule.side.cells] = rule.limit * (
                        above if (rule.sign == ">=") != turned else 0.8)
                elif isinstance(rule, Less):
                    large = max(get(rule.first), get(rule.second), 1.0)
                    low, high = (rule.second, rule.first) if turned else (rule.first, rule.second)
                    if get(low) >= get(high):
                        numbers[high.metric, high.cells] = 1.5 * large
                        numbers[low.metric, low.cells] = min(get(low), large)
                elif isinstance(rule, Ratio):
                    numbers[rule.first.metric, rule.first.cells] = get(rule.second) * (0.5 if turned else 1.1 * rule.limit)
                elif isinstance(rule, Close):
                    numbers[rule.first.metric, rule.first.cells] = get(rule.second) + (5 * rule.margin if turned else 0)
                elif isinstance(rule, Ordered):
                    for variant, value in rule.published:
                        numbers[rule.metric, Cells(variant)] = 50.0 if (value > rule.level) != turned else 1.0
    else:
        for rule in claim.rules:
            for side in (getattr(rule, name, None) for name in ("side", "first", "second")):
                if isinstance(side, Side):
                    numbers[side.metric, side.cells] = 1.0
            if isinstance(rule, Ordered):
                numbers.update({(rule.metric, Cells(variant)): 1.0 for variant, _ in rule.published})
    cells = {}
    if claim.control is not None:
        for metric, value in (("first_mass_effective", 0.6), ("sink_rate", 90.0)):
            numbers.setdefault((metric, claim.control), value)
    for place, ((metric, which), number) in enumerate(numbers.items()):
        for seed in SEEDS:
            row = cells.setdefault((which.variant, which.where, seed),
                                   cell(which.variant, seed, {}, dict(which.where)))
            row["values"][metric] = number * (1 + 1e-4 * ((7 * seed + 3 * place) % 5))
    for rule in rates:
        good, bad = {1e-3: 2.0, 1e-2: 2.0, 1e-1: 2.0}, {1e-3: 2.0, 1e-2: 9.0, 1e-1: None}
        if not hold:
            bad = good
        first, second = (bad, good) if opposite is not None else (good, bad)
        for which, losses in ((rule.first, first), (rule.second, second)):
            for rate, loss in losses.items():
                for seed in SEEDS:
                    cells[which.variant, rate, seed] = cell(which.variant, seed, {"loss": loss}, {"optimizer.lr": rate},
                                                            "done" if loss else "failed", 0 if loss else 70)
    return measurements(*cells.values())


class EveryClaim(unittest.TestCase):
    def all(self):
        for scale in (claims.QUICK, claims.FULL):
            for sweep in claims.sweeps():
                for claim in claims.claims_of(sweep, scale):
                    yield f"{scale}/{claim.key}", claim

    def test_can_be_reproduced(self):
        for name, claim in self.all():
            found = claim.judge(world(claim))
            self.assertEqual(found["verdict"], verdicts.REPRODUCED, (name, found["words"]))

    def test_can_be_contradicted_by_each_part(self):
        for name, claim in self.all():
            for place in range(len(claim.rules)):
                found = claim.judge(world(claim, opposite=place))
                wanted = verdicts.NOT_HERE if isinstance(claim.rules[place], Present) else verdicts.CONTRADICTED
                self.assertEqual(found["verdict"], wanted, (name, place, found["words"]))

    def test_can_stay_open(self):
        for name, claim in self.all():
            if any(isinstance(rule, (Less, Ratio, Ordered, Stable)) for rule in claim.rules):
                part = next(rule for rule in claim.rules if isinstance(rule, (Less, Ratio, Ordered, Stable)))
                state = part.judge(world(Claim(claim.key, (part,), claim.control), hold=False)).state
                self.assertEqual(state, "open", name)
            else:  # levels: one seed on the other side
                cells = world(claim)
                rule = next(rule for rule in claim.rules if isinstance(rule, Level))
                rule.side.cells.of(cells)[2]["values"][rule.side.metric] = rule.limit * (0.5 if rule.sign == ">=" else 2)
                self.assertEqual(claim.judge(cells)["verdict"], verdicts.NOT_HERE, name)

    def test_is_not_testable_without_a_sink_in_its_control(self):
        for name, claim in self.all():
            cells = world(claim)
            if claim.control is None:
                continue
            for row in claim.control.of(cells).values():
                row["values"].update(first_mass_effective=0.01, sink_rate=0.0)
            self.assertEqual(claim.judge(cells)["verdict"], verdicts.NOT_TESTABLE, name)

    def test_is_not_measured_without_its_cells(self):
        for name, claim in self.all():
            cells = world(claim)
            lost = cells["cells"][0]
            lost.pop("values", None)
            lost.update(state="interrupted", exit_code=None)
            self.assertEqual(claim.judge(cells)["verdict"], verdicts.NOT_MEASURED, name)

    def test_has_published_words_a_source_and_a_criterion(self):
        published = claims.published()
        quick = [claim for sweep in claims.sweeps() for claim in claims.claims_of(sweep, claims.QUICK)]
        self.assertEqual({claim.key for claim in quick}, set(published))
        for claim in quick:
            source = published[claim.key]
            self.assertRegex(source.paper, r"^\d{4}\.\d{5}$")
            self.assertTrue(source.sentence.endswith(".") and source.figures.endswith("."), claim.key)
            self.assertEqual("not read again" in source.source, not source.read)
            self.assertGreater(len(claim.criterion()), 20)

    def test_committed_results_say_what_the_rules_say(self):
        for file in sorted((ROOT / "configs/findings/results").rglob("*.json")):
            summary = measured.read_summary(file)
            self.assertEqual((file.parent.name, file.stem), (summary["scale"], summary["sweep"]))
            again = json.loads(json.dumps(findings_page.judge(summary)))
            self.assertEqual(again, summary["claims"], f"{file}: write it again with scripts/findings.py")


if __name__ == "__main__":
    unittest.main()
