"""Paired differences between two sets of runs: Student's t, its interval, exact sign flips, Holm's correction.

Only Python's own arithmetic, so that the report needs no statistics package. The t distribution comes from the
regularised incomplete beta function, evaluated by the continued fraction of Lentz (DLMF 8.17.22).
"""

import math
from dataclasses import dataclass

LEVEL = 0.95  # of the confidence intervals; a difference counts when its adjusted p is below 1 - LEVEL
MAX_FLIPPED = 20  # pairs whose 2^n sign flips are all counted
_TINY = 1e-300
_PRECISION = 1e-15


def incomplete_beta(a, b, x):
    """Regularised I_x(a, b) for a, b > 0 and 0 <= x <= 1."""
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError(f"incomplete beta of a = {a}, b = {b}, x = {x}; wanted a, b > 0 and x in [0, 1]")
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast below its mode only
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front * _beta_fraction(a, b, x) / a


def _beta_fraction(a, b, x):
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                     -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _PRECISION:
            return value
    raise ArithmeticError(f"incomplete beta of a = {a}, b = {b}, x = {x} does not converge")


def _away_from_zero(value):
    return value if abs(value) > _TINY else _TINY


def t_two_sided(t, degrees):
    """Probability that |T| >= |t| for Student's T."""
    if math.isinf(t):
        return 0.0
    if abs(t) < 1:  # where the argument below would round to 1
        return 1 - incomplete_beta(0.5, degrees / 2, t * t / (degrees + t * t))
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def t_quantile(probability, degrees):
    """t with P(T <= t) = probability, by bisection: the tail is monotone, and 200 halvings reach the last bit."""
    if not 0 < probability < 1:
        raise ValueError(f"quantile of probability {probability}; wanted one between 0 and 1")
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    tail = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while t_two_sided(high, degrees) > tail:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if t_two_sided(middle, degrees) > tail else (low, middle)
    return (low + high) / 2


def sign_flip_p(differences):
    """Two-sided exact p of the mean under random signs -> p, or None for more pairs than are counted.

    The share of all 2^n sign assignments whose |sum| is at least the one seen. By symmetry the first sign may stay.
    """
    if not 0 < len(differences) <= MAX_FLIPPED:
        return None
    sums = [differences[0]]
    for difference in differences[1:]:
        sums = [total + difference for total in sums] + [total - difference for total in sums]
    seen = abs(math.fsum(differences))
    slack = 1e-12 * math.fsum(map(abs, differences))  # sums of equal numbers in another order
    return sum(abs(total) >= seen - slack for total in sums) / len(sums)


def holm(values):
    """Holm's step-down adjustment; None stays None and counts for nothing."""
    order = sorted((value, place) for place, value in enumerate(values) if value is not None)
    adjusted, highest = [None] * len(values), 0.0
    for rank, (value, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True)
class Paired:
    """Differences (first minus second) of n pairs. Without a spread to judge by, the numbers that need one are None."""
    differences: tuple
    mean: float
    sd: float | None  # n - 1
    low: float | None  # of the interval
    high: float | None
    t: float | None
    p: float | None
    flip_p: float | None
    flip_floor: float | None  # the smallest p that n sign flips can give

    @property
    def n(self):
        return len(self.differences)


def paired(differences):
    """-> Paired, or None without a pair.

    With equal differences the sample has no spread: the t statistic is undefined, and p and interval stay None.
    """
    differences = tuple(map(float, differences))
    n = len(differences)
    if not n:
        return None
    mean = math.fsum(differences) / n
    flip_floor = 2.0 ** (1 - n) if n <= MAX_FLIPPED else None
    if n == 1:
        return Paired(differences, mean, None, None, None, None, None, sign_flip_p(differences), flip_floor)
    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    if sd <= 1e-12 * max(map(abs, differences)):
        return Paired(differences, mean, 0.0, None, None, None, None, sign_flip_p(differences), flip_floor)
    error = sd / math.sqrt(n)
    t = mean / error
    half = t_quantile((1 + LEVEL) / 2, n - 1) * error
    return Paired(differences, mean, sd, mean - half, mean + half, t, t_two_sided(t, n - 1),
                  sign_flip_p(differences), flip_floor)
