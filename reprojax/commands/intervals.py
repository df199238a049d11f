"""95 % intervals: of means over seeds (Student's t), paired differences, and shares."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EQUAL = 1e-6
"""Above the rounding of accuracies in float32, below one image of a split."""


class Mean(NamedTuple):
    """A mean and the half width of its 95 % interval (NaN if there is none).

    Where a value is NaN or infinite the mean is NaN, and is printed as "not finite".
    """

    value: float
    half: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "not finite"
        if np.isnan(self.half):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ± {self.half:.3f}"

    @property
    def interval(self) -> str:
        """As in "+0.123 [+0.100, +0.146]"."""
        if not np.isfinite(self.value):
            return "not finite"
        if np.isnan(self.half):
            return f"{self.value:+.3f} [no interval]"
        low, high = self.value - self.half, self.value + self.half
        return f"{self.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def mean_of(values: Sequence[float] | np.ndarray) -> Mean:
    """The mean of runs that differ by their seeds.

    One value has no interval, and neither have two equal ones: accuracies of a few
    images are equal by chance, and the formula would give a width of 0. Differences
    of equal sizes differ by rounding: 0.7 - 0.3 is not 0.8 - 0.4.
    """
    from scipy import stats

    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        return Mean(float("nan"), float("nan"))
    if len(array) < 2 or len(array) == 2 and abs(array[0] - array[1]) < EQUAL:
        return Mean(float(array.mean()), float("nan"))
    t = stats.t.ppf(0.975, len(array) - 1)
    return Mean(float(array.mean()), float(t * array.std(ddof=1) / len(array) ** 0.5))


def paired(a: Sequence[float], b: Sequence[float]) -> Mean:
    """The mean of a - b over the same seeds, without an interval if all are equal.

    So they are where the splits are the same for all seeds and nothing is drawn: of two
    controls, say. Then the seeds say nothing about chance, and a width of 0 would be
    taken for certainty.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values, expected a pair a seed")
    found = mean_of(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return found._replace(half=float("nan")) if found.half < EQUAL else found


class Share(NamedTuple):
    """So many of so many images, such as those that are labelled right."""

    part: int
    whole: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.part / self.whole:.3f} [{low:.3f}, {high:.3f}]"

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's (1927): within [0, 1], and of some width at 0 and 1 too."""
        z = 1.959964
        share, n = self.part / self.whole, self.whole
        middle = share + z**2 / (2 * n)
        half = z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
        low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
        return max(low, 0.0), min(high, 1.0)  # rounding may leave -1e-17
