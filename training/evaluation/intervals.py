"""Means with 95 % intervals, and paired differences: two checkpoints on the same clips, times and noise."""

import math
from collections.abc import Mapping, Sequence

# 97.5 % quantiles of Student's t for 1 to 20 degrees of freedom; held-out sets of a few clips are common here, and the
# normal law's 1.96 would make their intervals 6.5 times too narrow at two clips.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
      2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and half the width of its 95 % interval; None for a single value, which says nothing of its spread."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, student_t(count - 1) * math.sqrt(variance / count)


def paired_difference(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float | None] | None:
    """Mean of after - before over the clips in both, with its half-width; None when there is none.

    What makes one clip harder than another drops out, so this is far narrower than the difference of two intervals.
    """
    shared = [after[name] - before[name] for name in sorted(after.keys() & before.keys())]
    return mean_interval(shared) if shared else None


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; beyond the table 1.96 + 2.4 / freedom, right to 0.004."""
    return _T[freedom - 1] if freedom <= len(_T) else 1.95996 + 2.4 / freedom
