"""The arithmetic of paired comparisons, against tables, closed forms and enumeration by hand. Needs no packages.

    python3 -m unittest discover tests/python
"""

import itertools
import math
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from plimsoll_report.paired import holm, incomplete_beta, paired, sign_flip_p, t_quantile, t_two_sided  # noqa: E402

# Percentage points of Student's t, as printed in statistical tables (six digits).
TABLE = {(0.975, 1): 12.7062, (0.975, 2): 4.30265, (0.975, 3): 3.18245, (0.975, 4): 2.77645, (0.975, 5): 2.57058,
         (0.975, 9): 2.26216, (0.975, 30): 2.04227, (0.975, 120): 1.97993, (0.95, 2): 2.91999, (0.995, 2): 9.92484,
         (0.995, 10): 3.16927, (0.9995, 4): 8.61030}


class Distribution(unittest.TestCase):
    def test_quantiles_of_the_tables(self):
        for (probability, degrees), t in TABLE.items():
            self.assertAlmostEqual(t_quantile(probability, degrees) / t, 1, delta=4e-6, msg=(probability, degrees))
            self.assertAlmostEqual(t_quantile(1 - probability, degrees) / t, -1, delta=4e-6)
        self.assertAlmostEqual(t_quantile(0.5, 3), 0, delta=1e-9)

    def test_closed_forms(self):
        # 1 degree: Cauchy. 2 degrees: 1 - t / sqrt(2 + t^2).
        for t in (1e-6, 0.01, 0.3, 0.999, 1, 2, 10, 1000):
            self.assertAlmostEqual(t_two_sided(t, 1), 1 - 2 / math.pi * math.atan(t), delta=1e-14)
            self.assertAlmostEqual(t_two_sided(t, 2), 1 - t / math.sqrt(2 + t * t), delta=1e-13)
        self.assertEqual(t_two_sided(0, 7), 1)
        self.assertEqual(t_two_sided(math.inf, 7), 0)

    def test_many_degrees_approach_the_normal_distribution(self):
        self.assertAlmostEqual(t_two_sided(1.959964, 1e7), 0.05, delta=1e-6)

    def test_incomplete_beta(self):
        for x in (0, 1e-9, 0.2, 0.5, 0.9, 1 - 1e-9, 1):
            self.assertAlmostEqual(incomplete_beta(1, 1, x), x, delta=1e-15)
            self.assertAlmostEqual(incomplete_beta(3.5, 1, x), x ** 3.5, delta=1e-14)
            self.assertAlmostEqual(incomplete_beta(2, 5, x) + incomplete_beta(5, 2, 1 - x), 1, delta=1e-14)
        self.assertAlmostEqual(incomplete_beta(40, 40, 0.5), 0.5, delta=1e-13)
        # I_x(2, 3) = 6x^2 - 8x^3 + 3x^4
        self.assertAlmostEqual(incomplete_beta(2, 3, 0.3), 6 * 0.09 - 8 * 0.027 + 3 * 0.0081, delta=1e-14)
        for a, b, x in ((0, 1, 0.5), (1, -1, 0.5), (1, 1, 1.1), (1, 1, math.nan)):
            with self.assertRaises(ValueError):
                incomplete_beta(a, b, x)


class Pairs(unittest.TestCase):
    def test_three_pairs_by_hand(self):
        # mean 2, sd 1, t = 2 sqrt(3), two degrees: p = 1 - t / sqrt(2 + t^2)
        result = paired([1, 2, 3])
        self.assertEqual((result.mean, result.sd, result.n), (2, 1, 3))
        self.assertAlmostEqual(result.t, 2 * math.sqrt(3))
        self.assertAlmostEqual(result.p, 1 - math.sqrt(12 / 14), delta=1e-14)
        self.assertAlmostEqual(result.high, 2 + 4.3026527 / math.sqrt(3), delta=1e-6)
        self.assertAlmostEqual(result.low, 2 - 4.3026527 / math.sqrt(3), delta=1e-6)
        self.assertEqual((result.flip_p, result.flip_floor), (0.25, 0.25))

    def test_sleep_data_of_student_1908(self):
        result = paired([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
        self.assertAlmostEqual(result.t, 4.0621, delta=1e-4)
        self.assertAlmostEqual(result.p, 0.002833, delta=1e-6)
        self.assertAlmostEqual(result.low, 0.7001, delta=1e-4)
        self.assertAlmostEqual(result.high, 2.4599, delta=1e-4)

    def test_the_sign_of_a_difference_does_not_change_p(self):
        one, other = paired([0.1, -0.3, 0.7, 0.2]), paired([-0.1, 0.3, -0.7, -0.2])
        self.assertEqual((one.p, one.flip_p, one.low), (other.p, other.flip_p, -other.high))

    def test_sign_flips_against_all_assignments(self):
        for values in ([1, -2, 3], [0.1, 0.2, 0.3, -0.05], [1, 1, 1, 1, -1], [0, 0, 1], [5]):
            seen = abs(sum(values))
            sums = [abs(sum(s * v for s, v in zip(signs, values)))
                    for signs in itertools.product((1, -1), repeat=len(values))]
            self.assertEqual(sign_flip_p(values), sum(total >= seen - 1e-12 for total in sums) / len(sums), values)
        self.assertEqual(sign_flip_p([1, -2, 3]), 0.75)
        self.assertIsNone(sign_flip_p([0.1] * 21))
        self.assertIsNone(paired(range(1, 30)).flip_floor)

    def test_one_pair_and_no_pair(self):
        result = paired([0.5])
        self.assertEqual((result.mean, result.sd, result.p, result.low, result.flip_p), (0.5, None, None, None, 1.0))
        self.assertIsNone(paired([]))

    def test_without_a_spread_there_is_no_test(self):
        for values in ([0.25] * 3, [0, 0], [0.1 + 0.2, 0.3]):
            result = paired(values)
            self.assertEqual((result.sd, result.t, result.p, result.low), (0, None, None, None), values)

    def test_holm(self):
        self.assertEqual(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
        self.assertEqual(holm([0.5, None, 0.9]), [1.0, None, 1.0])
        self.assertEqual(holm([0.2]), [0.2])
        self.assertEqual(holm([None]), [None])


if __name__ == "__main__":
    unittest.main()
