"""Rules that make a verdict of numbers. A rule compares cells of a sweep, seed by seed, and says in words what it wants.

The verdict of a claim, in this order: not measured, if a cell it needs is missing; not testable at this scale, if the
softmax control sinks in fewer than two seeds (seeds in which it does not sink are left out); contradicted, if one part
points the other way in every seed or beyond the noise; reproduced, if every part holds; else not at this scale.
"""

import itertools
import math
from dataclasses import dataclass, field

from .expectations import CONTROL_MASS, CONTROL_RATE
from .measured import TITLES
from .paired import LEVEL, holm, paired
from .summary import number
from .sweep import p_text
from .sweep_cells import DONE

REPRODUCED, NOT_HERE, CONTRADICTED = "reproduced", "not at this scale", "contradicted"
NOT_TESTABLE, NOT_MEASURED = "not testable at this scale", "not measured"
VERDICTS = (REPRODUCED, NOT_HERE, CONTRADICTED, NOT_TESTABLE, NOT_MEASURED)
HOLDS, OPEN, OPPOSITE, UNMEASURED = "holds", "open", "opposite", "unmeasured"
MIN_SEEDS = 2  # one seed is no sample


@dataclass(frozen=True)
class Cells:
    """The cells of a variant and of values of the sweep's other axes; `name` is for sentences."""
    variant: str | None = None
    where: tuple = ()  # ((key, value), ...)
    name: str = ""

    def __str__(self):
        return self.name or self.variant or "the model"

    def of(self, measured):
        """-> {seed: cell} of those that are done."""
        return {cell["seed"]: cell for cell in measured["cells"] if self.has(cell) and cell["state"] == DONE}

    def has(self, cell):
        return (self.variant is None or cell["variant"] == self.variant) and \
            all(cell["settings"].get(key) == value for key, value in self.where)

    def lacking(self, measured):
        """Names of its cells that are not done; None if the sweep has no such cell."""
        mine = [cell for cell in measured["cells"] if self.has(cell)]
        return [f"{cell['name']} ({cell['state']})" for cell in mine if cell["state"] != DONE] if mine else None


@dataclass(frozen=True)
class Side:
    """A metric of some cells."""
    metric: str
    cells: Cells

    def __str__(self):
        return f"{TITLES[self.metric]} ({self.cells})"

    def values(self, measured):
        """-> {seed: number}, without the seeds that lack it."""
        found = {seed: cell["values"].get(self.metric) for seed, cell in self.cells.of(measured).items()}
        return {seed: value for seed, value in sorted(found.items()) if value is not None}


@dataclass
class Part:
    """What one rule found."""
    state: str
    words: str
    p: float | None = None  # of a paired test; None where a rule makes none
    shown: tuple = ()  # for a table: (title, whose, numbers)
    figures: dict = field(default_factory=dict)


def _unmeasured(sides, measured):
    """A Part if something a rule needs is not there: a verdict is about all seeds that were meant, not about survivors."""
    for side in sides:
        lacking = side.cells.lacking(measured)
        if lacking is None:
            return Part(UNMEASURED, f"no cell of {side.cells} in the sweep")
        if lacking:
            return Part(UNMEASURED, f"not done: {', '.join(lacking)}")
        if len(side.values(measured)) < len(side.cells.of(measured)):
            return Part(UNMEASURED, f"{side} is not in every run")
    return None


def _shown(values):
    """'0.31 ± 0.02' of the seeds."""
    values = list(values)
    mean = math.fsum(values) / len(values)
    digits = 0 if abs(mean) >= 100 else 1 if abs(mean) >= 10 else 3
    if len(values) == 1:
        return number(mean, digits)
    sd = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))
    return f"{number(mean, digits)} ± {number(sd, digits) if sd else '0'}"


def _pair(first, second):
    """-> (Paired of first - second over the seeds both have, its p; 0 where all differences are one number but 0)."""
    seeds = sorted(set(first) & set(second))
    result = paired([first[seed] - second[seed] for seed in seeds])
    if result is None or result.n < MIN_SEEDS:
        return result, None
    return result, result.p if result.sd else (1.0 if result.mean == 0 else 0.0)


def _beyond_noise(p):
    """Of _pair()'s p."""
    return p is not None and p < 1 - LEVEL


def _test_words(result, p):
    if result is None or p is None:
        return "too few pairs for a test"
    if not result.sd:
        return f"difference {result.mean:+.3g} in each of {result.n} pairs"
    interval = "" if result.low is None else f", {100 * LEVEL:.0f} % CI [{result.low:+.3g}, {result.high:+.3g}]"
    return f"difference {result.mean:+.3g}{interval}, p = {p_text(p)}, {result.n} pairs"


def _numbers(result, p):
    return {} if result is None else {"difference": result.mean, "low": result.low, "high": result.high,
                                      "p": p if result.sd else None, "pairs": result.n}


def table_text(parts):
    """Every number of some Parts once: 'title: number (whose), number (whose); title: ...'."""
    texts = {}
    for part in parts:
        for title, whose, numbers in part.shown or ((part.words, "", ""),):
            texts.setdefault(title, {})[f"{numbers} ({whose})" if whose else numbers] = None
    return "; ".join(f"{title}: {', '.join(numbers)}" if any(numbers) else title for title, numbers in texts.items())


@dataclass(frozen=True)
class _TwoSides:
    """A rule that compares the values of two sides, paired by seed."""
    first: Side
    second: Side

    def judge(self, measured):
        return _unmeasured((self.first, self.second), measured) or \
            self._compare(self.first.values(measured), self.second.values(measured))

    def _part(self, state, first, second, result, p, tested=True, told="{} against {} ({})", **figures):
        """`told`: a sentence with places for both sides, for the test, and by name for `figures`. `tested`: p is of this
        rule, and takes part in the correction."""
        shown = [_shown(values.values()) for values in (first, second)]
        seen = tuple((TITLES[side.metric], str(side.cells), text) for side, text in zip((self.first, self.second), shown))
        return Part(state, told.format(*shown, _test_words(result, p), **figures), p if tested else None, seen,
                    {**figures, **_numbers(result, p)})


@dataclass(frozen=True)
class Less(_TwoSides):
    """first < second, paired by seed: the mean difference is below 0 beyond the noise."""

    def words(self):
        same = self.first.metric == self.second.metric
        left = f"{TITLES[self.first.metric]}: {self.first.cells}" if same else str(self.first)
        return f"{left} below {self.second.cells if same else self.second} (paired, p < {1 - LEVEL:.2g})"

    def _compare(self, first, second):
        result, p = _pair(first, second)
        state = OPEN
        if _beyond_noise(p):
            state = HOLDS if result.mean < 0 else OPPOSITE
        return self._part(state, first, second, result, p)


@dataclass(frozen=True)
class Level:
    """A number on one side of a limit, in every seed; on the other side in every seed is the opposite."""
    side: Side
    sign: str  # "<=" or ">="
    limit: float

    def words(self):
        return f"{self.side} {'≤' if self.sign == '<=' else '≥'} {self.limit:g} in every seed"

    def judge(self, measured):
        lacking = _unmeasured((self.side,), measured)
        if lacking:
            return lacking
        values = self.side.values(measured)
        good = [value <= self.limit if self.sign == "<=" else value >= self.limit for value in values.values()]
        state = OPEN if len(good) < MIN_SEEDS else HOLDS if all(good) else OPEN if any(good) else OPPOSITE
        note = ""
        if state == OPPOSITE:
            state, note = self._missed(measured, values)
        return Part(state, f"{_shown(values.values())}, so in {sum(good)} of {len(good)} seeds{note}", None,
                    ((TITLES[self.side.metric], str(self.side.cells), _shown(values.values())),), {"values": list(values.values())})

    def _missed(self, measured, values):
        """-> (state, words) where no seed keeps to the limit."""
        return OPPOSITE, ""


@dataclass(frozen=True)
class Present(Level):
    """Something is there: a number at least at a limit in every seed. That it is not there does not contradict, since a
    larger or longer run may still show it."""
    sign: str = field(default=">=", init=False)

    def _missed(self, measured, values):
        return OPEN, ""


@dataclass(frozen=True)
class Absent(Level):
    """Something that `control` has is not there: a number at most at a limit in every seed. Above it in every seed is the
    opposite, unless it is below the control's beyond the noise: then there is less of it, if not little enough."""
    sign: str = field(default="<=", init=False)
    control: Cells = Cells("softmax")

    def _missed(self, measured, values):
        there = Side(self.side.metric, self.control).values(measured)
        result, p = _pair(values, there)
        if not _beyond_noise(p) or result.mean > 0:
            return OPPOSITE, ""
        return OPEN, f", though below {self.control} ({_test_words(result, p)})"


@dataclass(frozen=True)
class Ratio(_TwoSides):
    """first / second at least `limit` (geometric mean over the seeds), and above 1 beyond the noise."""
    limit: float

    def words(self):
        return (f"{TITLES[self.first.metric]}: {self.first.cells} at least {self.limit:g} times {self.second.cells} "
                f"(mean of logarithms, paired, p < {1 - LEVEL:.2g})")

    def _compare(self, first, second):
        if min(*first.values(), *second.values()) <= 0:
            return Part(OPEN, "a value is not positive: no ratio")
        result, p = _pair({seed: math.log(value) for seed, value in first.items()},
                          {seed: math.log(value) for seed, value in second.items()})
        if result is None:
            return Part(OPEN, "no pair of seeds")
        state, ratio = OPEN, math.exp(result.mean)
        if _beyond_noise(p):
            state = OPPOSITE if result.mean < 0 else HOLDS if ratio >= self.limit else OPEN
        return self._part(state, first, second, result, p, told="{} over {} is {ratio:.2f} (logarithms: {})", ratio=ratio)


@dataclass(frozen=True)
class Close(_TwoSides):
    """Equal within a margin: the whole interval of the paired differences lies inside; outside is the opposite."""
    margin: float

    def words(self):
        return (f"{TITLES[self.first.metric]}: {self.first.cells} within {self.margin:g} of {self.second.cells} "
                f"({100 * LEVEL:.0f} % interval of the paired difference)")

    def _compare(self, first, second):
        result, p = _pair(first, second)
        if p is None:
            return Part(OPEN, _test_words(result, p))
        low, high = (result.mean, result.mean) if result.low is None else (result.low, result.high)
        state = HOLDS if -self.margin <= low and high <= self.margin else \
            OPPOSITE if low > self.margin or high < -self.margin else OPEN
        # The p is of a difference of 0, not of one of the margin.
        return self._part(state, first, second, result, p, tested=False)


@dataclass(frozen=True)
class Ordered:
    """Variants that are published above a level come before those below it: the share of such pairs that do, and the
    exact probability of so large a share if the names were drawn by chance."""
    metric: str
    published: tuple  # ((variant, value), ...)
    level: float
    share: float = 0.9

    def words(self):
        high, low = self._groups()
        return (f"{TITLES[self.metric]}: each of {', '.join(high)} (published above {self.level:g}) above each of "
                f"{', '.join(low)}, in at least {100 * self.share:g} % of these pairs of means (exact p < {1 - LEVEL:.2g})")

    def _groups(self):
        high = [variant for variant, value in self.published if value > self.level]
        return high, [variant for variant, value in self.published if value <= self.level]

    def judge(self, measured):
        sides = {variant: Side(self.metric, Cells(variant)) for variant, _ in self.published}
        lacking = _unmeasured(sides.values(), measured)
        if lacking:
            return lacking
        means = {}
        for variant, side in sides.items():
            values = list(side.values(measured).values())
            means[variant] = math.fsum(values) / len(values)
        high, _ = self._groups()
        seen = _share(means, high)
        all_shares = [_share(means, chosen) for chosen in itertools.combinations(means, len(high))]
        p = sum(share >= seen - 1e-12 for share in all_shares) / len(all_shares)
        p_other = sum(share <= seen + 1e-12 for share in all_shares) / len(all_shares)
        state = HOLDS if seen >= self.share and p < 1 - LEVEL else \
            OPPOSITE if seen <= 1 - self.share and p_other < 1 - LEVEL else OPEN
        listed = ", ".join(f"{variant} {number(mean, 1)}" for variant, mean in
                           sorted(means.items(), key=lambda item: -item[1]))
        words = f"{100 * seen:.0f} % of the pairs in the published order"
        return Part(state, f"{words}, p = {p_text(p)} (means: {listed})", p_other if state == OPPOSITE else p,
                    ((words, "", ""), (TITLES[self.metric], "", listed)),
                    {"share": seen, "p": p, "means": means})


def _share(means, high):
    """Share of pairs (one of `high`, one of the others) in which the former is larger; equal ones count half."""
    low = [variant for variant in means if variant not in high]
    wins = sum(1.0 if means[a] > means[b] else 0.5 if means[a] == means[b] else 0.0 for a in high for b in low)
    return wins / (len(high) * len(low))


@dataclass(frozen=True)
class Stable:
    """The largest stable learning rate of `first` is above that of `second`. Stable, for a seed: the run ended, and its
    validation loss is within `margin` of the variant's lowest for that seed, at this and every lower rate."""
    first: Cells
    second: Cells
    margin: float = 0.1

    def words(self):
        return (f"largest learning rate up to which validation losses stay within {self.margin:g} nats of the lowest: "
                f"{self.first} above {self.second} (logarithms, paired, p < {1 - LEVEL:.2g})")

    def judge(self, measured):
        rates = {str(cells): self._largest(measured, cells) for cells in (self.first, self.second)}
        for name, (found, reason) in rates.items():
            if reason:
                return Part(UNMEASURED, f"{name}: {reason}")
        first, second = (rates[str(cells)][0] for cells in (self.first, self.second))
        result, p = _pair({seed: math.log10(rate) for seed, rate in first.items()},
                          {seed: math.log10(rate) for seed, rate in second.items()})
        state = OPEN
        if _beyond_noise(p):
            state = HOLDS if result.mean > 0 else OPPOSITE
        listed = {str(cells): ", ".join(f"{rate:g}" for rate in rates[str(cells)][0].values())
                  for cells in (self.first, self.second)}
        return Part(state, f"{' against '.join(listed.values())} by seed ({_test_words(result, p)}, in powers of ten)", p,
                    tuple(("largest stable learning rate by seed", *item) for item in listed.items()), _numbers(result, p))

    def _largest(self, measured, cells):
        """-> ({seed: rate}, reason why there is none). A run that broke down (status 70) is a result, a missing one none."""
        mine = [cell for cell in measured["cells"] if cells.has(cell)]
        if not mine:
            return {}, "no cell in the sweep"
        lost = [cell["name"] for cell in mine if cell["state"] != DONE and cell["exit_code"] != 70]
        if lost:
            return {}, f"not done: {', '.join(lost)}"
        found = {}
        for seed in sorted({cell["seed"] for cell in mine}):
            losses = {cell["settings"]["optimizer.lr"]: cell["values"]["loss"] if cell["state"] == DONE else None
                      for cell in mine if cell["seed"] == seed}
            ended = [loss for loss in losses.values() if loss is not None]
            if not ended:
                return {}, f"no rate at which seed {seed} ended"
            for rate in sorted(losses):
                if losses[rate] is None or losses[rate] > min(ended) + self.margin:
                    break
                found[seed] = rate
            if seed not in found:
                return {}, f"seed {seed} is not stable at the lowest rate of the grid"
        return found, ""


@dataclass(frozen=True)
class Claim:
    """Rules that must all hold for a published sentence (published.toml has its words under `key`)."""
    key: str
    rules: tuple
    control: Cells | None = Cells("softmax")  # must have a sink; None: the claim is not about sinks

    def criterion(self):
        text = "; ".join(rule.words() for rule in self.rules)
        return text[:1].upper() + text[1:] + "."

    def judge(self, measured):
        """-> {"claim", "verdict", "words", "short", "control", "parts"}"""
        gate, seeds = (None, None) if self.control is None else judge_control(self.control, measured)
        if seeds:  # where the control has no sink, a seed shows nothing
            measured = {**measured, "cells": [cell for cell in measured["cells"] if cell["seed"] in seeds]}
        parts = [rule.judge(measured) for rule in self.rules]
        said = [gate, *parts] if gate is not None and gate.state != HOLDS else parts
        words = "; ".join(dict.fromkeys(part.words for part in said))
        return {"claim": self.key, "verdict": _verdict(gate, parts), "words": words, "short": table_text(said),
                "control": gate.words if gate else None, "seeds": seeds,
                "parts": [{"state": part.state, "words": part.words, **part.figures} for part in parts]}


def judge_control(cells, measured):
    """-> (Part, seeds in which the control sinks). The absence of a sink elsewhere shows nothing where it does not. The Part
    holds if it sinks in all, is open if in some but at least two, and opposite else."""
    sides = Side("first_mass_effective", cells), Side("sink_rate", cells)
    lacking = _unmeasured(sides, measured)
    if lacking:
        return lacking, None
    masses, rates = (side.values(measured) for side in sides)
    seeds = [seed for seed in masses if masses[seed] > CONTROL_MASS or rates[seed] > CONTROL_RATE]
    state = HOLDS if len(seeds) == len(masses) else OPEN if len(seeds) >= MIN_SEEDS else OPPOSITE
    outcome = f"{cells} sinks in {len(seeds)} of {len(masses)} seeds"
    listed = ", ".join(f"{number(masses[seed], 2)} / {number(rates[seed], 0)} %" for seed in masses)
    words = f"{outcome} (mass / sink rate of seeds {', '.join(map(str, masses))}: {listed})"
    return Part(state, words + (", and only those count" if state == OPEN else ""), None,
                ((outcome, "", ""),)), seeds


def _verdict(gate, parts):
    if any(part.state == UNMEASURED for part in parts + ([gate] if gate else [])):
        return NOT_MEASURED
    if gate is not None and gate.state == OPPOSITE:
        return NOT_TESTABLE
    # That all parts hold needs no correction: each must pass by itself. One contradiction among several tests does.
    for part, p in zip(parts, holm([part.p for part in parts])):
        if part.state == OPPOSITE and (p is None or p < 1 - LEVEL):
            return CONTRADICTED
    return REPRODUCED if all(part.state == HOLDS for part in parts) else NOT_HERE
