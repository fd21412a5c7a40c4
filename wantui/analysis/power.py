"""Smallest effects that the comparison of groups finds, by number of seeds and number of groups.

`python tests/benchmarks/power.py` computes the table. A pair of groups is found if its verdict is "more" or "less":
Student's interval excludes 0, and p is at most 0.05 both in the pair's own sign-flip test and over all pairs. With few
seeds, the power of a t test would be too optimistic: with six seeds, the sign-flip test needs equal signs of all
differences.
"""

import math
from bisect import bisect_left

POWER = 0.8
"""Share of batches in which the smallest detectable effect is found."""
MIN_SEEDS = 6
"""Smallest number of seeds with which the sign-flip test can give a p below 0.05."""
MAX_EXACT_SEEDS, MIN_DRAWN_P = 14, 1e-4
"""Maximum number of seeds for which all sign flips are tried, and the smallest p of the random flips for more seeds.
The values equal the values in wantui/analysis/statistics.py, which imports scipy."""
GROUP_COUNTS = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)
SEED_COUNTS = (*range(MIN_SEEDS, 17), 18, 20, 24, 32, 48, 96)
_EFFECTS_BY_SEED_COUNT = {
    6: (1.807, 2.239, 2.602, 2.992, 3.327, 3.816, 4.257, 5.112, 5.818, 6.973, 8.534),
    7: (1.352, 1.676, 1.918, 2.128, 2.303, 2.563, 2.833, 3.335, 3.689, 4.343, 5.202),
    8: (1.207, 1.483, 1.673, 1.818, 1.953, 2.161, 2.37, 2.697, 2.978, 3.334, 3.948),
    9: (1.1, 1.299, 1.46, 1.587, 1.696, 1.861, 2, 2.275, 2.477, 2.773, 3.191),
    10: (1.016, 1.205, 1.345, 1.458, 1.55, 1.693, 1.807, 2.034, 2.204, 2.451, 2.782),
    11: (0.9433, 1.121, 1.248, 1.348, 1.427, 1.552, 1.652, 1.846, 1.984, 2.187, 2.466),
    12: (0.8992, 1.062, 1.175, 1.261, 1.334, 1.446, 1.535, 1.699, 1.821, 1.994, 2.237),
    13: (0.8497, 1.005, 1.113, 1.191, 1.253, 1.354, 1.435, 1.578, 1.689, 1.85, 2.057),
    14: (0.8133, 0.9593, 1.054, 1.131, 1.189, 1.278, 1.352, 1.486, 1.58, 1.725, 1.906),
    15: (0.7793, 0.9176, 1.007, 1.076, 1.13, 1.217, 1.283, 1.409, 1.491, 1.62, 1.788),
    16: (0.7512, 0.8827, 0.9685, 1.027, 1.079, 1.164, 1.222, 1.337, 1.415, 1.534, 1.681),
    18: (0.7041, 0.8201, 0.8987, 0.9535, 0.9986, 1.07, 1.124, 1.22, 1.293, 1.393, 1.52),
    20: (0.6687, 0.7711, 0.838, 0.8894, 0.936, 0.9972, 1.045, 1.133, 1.196, 1.282, 1.395),
    24: (0.6012, 0.6963, 0.755, 0.7963, 0.8336, 0.8856, 0.9292, 1.001, 1.051, 1.122, 1.216),
    32: (0.5115, 0.5915, 0.6405, 0.674, 0.7012, 0.7473, 0.7754, 0.8327, 0.871, 0.9254, 0.9943),
    48: (0.413, 0.4746, 0.5105, 0.5386, 0.558, 0.591, 0.6143, 0.6546, 0.6837, 0.7211, 0.7681),
    96: (0.2892, 0.3305, 0.3552, 0.3717, 0.3863, 0.4066, 0.4207, 0.4474, 0.4639, 0.4882, 0.5168),
}
"""Smallest detectable d_z for each of GROUP_COUNTS, by number of seeds."""
_SCALED_LIMITS = (2.802, 3.185, 3.411, 3.569, 3.691, 3.872, 4.005, 4.233, 4.385, 4.59, 4.834)
"""Limit of d_z sqrt(n) as the number n of seeds grows, for each of GROUP_COUNTS; d_z is the smallest detectable one."""


def compute_min_pair_p(seed_count: int) -> float:
    """Return the smallest p that sign flips can give for a pair of groups; 1 for one seed."""
    return 2.0 ** (1 - seed_count) if seed_count <= MAX_EXACT_SEEDS else MIN_DRAWN_P


def find_detectable_effect(seed_count: int, group_count: int) -> float | None:
    """Return the smallest d_z that is detected for a group pair with a power of 0.8; None with too few seeds.

    The differences of the pair are normal, with a mean of d_z standard deviations, and every other group has the same
    mean as one of the two groups. For n seeds, d_z sqrt(n) is interpolated over 1 / n and over the logarithm of the
    number of groups; the result differs from the simulated value by less than 1 %.
    With three or more groups and nine or more seeds, the table leaves out the sign flips of the family, which raise the
    effect by less than 4 %.

    Raises:
        ValueError: there are fewer than two groups, or more than the table has.
    """
    if not GROUP_COUNTS[0] <= group_count <= GROUP_COUNTS[-1]:
        raise ValueError(f"cannot look up the detectable effect for {group_count} groups: the table has 2 to 50")
    if seed_count < MIN_SEEDS:
        return None
    column = bisect_left(GROUP_COUNTS, group_count)
    high = _interpolate_seed_count(seed_count, column)
    if GROUP_COUNTS[column] == group_count:
        return high
    low, low_count = _interpolate_seed_count(seed_count, column - 1), GROUP_COUNTS[column - 1]
    share = math.log(group_count / low_count) / math.log(GROUP_COUNTS[column] / low_count)
    return low + share * (high - low)


def _interpolate_seed_count(seed_count: int, column: int) -> float:
    """Return the smallest detectable d_z for a number of seeds, from one column of the table."""
    if seed_count in _EFFECTS_BY_SEED_COUNT:
        return _EFFECTS_BY_SEED_COUNT[seed_count][column]
    row = bisect_left(SEED_COUNTS, seed_count)
    low_count = SEED_COUNTS[row - 1]
    low = _EFFECTS_BY_SEED_COUNT[low_count][column] * math.sqrt(low_count)
    high, inverse_high = _SCALED_LIMITS[column], 0.0
    if row < len(SEED_COUNTS):
        high_count = SEED_COUNTS[row]
        high, inverse_high = _EFFECTS_BY_SEED_COUNT[high_count][column] * math.sqrt(high_count), 1 / high_count
    share = (1 / low_count - 1 / seed_count) / (1 / low_count - inverse_high)
    return (low + share * (high - low)) / math.sqrt(seed_count)
