"""Wipes: one picture pushed off by another along a straight edge. The shot detector, which knows no places, does not see them."""

from collections.abc import Mapping
from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

CHANGED = 12.0  # luma, between two thumbnails a second apart
WHOLESALE = 0.5  # of the picture must have changed
SHARES = (0.15, 0.85)  # of what changed, still in the old picture halfway


@final
class Wipes(Filter):
    """Halfway through a wipe a picture is the old one here and the new one there, and a straight line parts them.

    Looked for in three thumbnails in a row, two a second: of wipes of 0.5 to 1.2 seconds between real films half are above
    any clip without (docs/filters.md). Round ones, and shorter ones, are missed.
    """

    stage = "visual"
    signals = (
        Signal(
            name="wipe_likeness",
            unit="0..1",
            meaning="how well one thumbnail is put together from the one before and the one after along a straight line",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        thumbnails = clip.strip.thumbnails
        frames = sorted(thumbnails)
        if len(frames) < 3:
            return self.unmeasured("fewer than three thumbnails were taken of it")
        return {
            "wipe_likeness": max(
                _likeness(thumbnails, *three) for three in zip(frames, frames[1:], frames[2:], strict=False)
            )
        }


def _likeness(thumbnails: Mapping[int, np.ndarray], first: int, second: int, third: int) -> float:
    """What two pictures explain of the one between them, 0..1, times how straight the line between them is, 0..1."""
    before, middle, after = (thumbnails[frame].astype(np.float32) for frame in (first, second, third))
    change = np.abs(after - before)
    changed = change > CHANGED
    to_before, to_after = np.abs(middle - before)[changed], np.abs(middle - after)[changed]
    old = to_before < to_after
    if changed.mean() < WHOLESALE or not SHARES[0] < old.mean() < SHARES[1]:
        return 0.0
    explained = 1 - np.minimum(to_before, to_after).sum() / (change[changed].sum() / 2)  # a dissolve explains nothing
    rows, columns = np.nonzero(changed)
    way = np.array([columns[old].mean() - columns[~old].mean(), rows[old].mean() - rows[~old].mean()])
    along = columns * way[0] + rows * way[1]
    split = np.zeros(len(along), bool)
    split[np.argsort(-along, kind="stable")[: int(old.sum())]] = True
    straight = 2 * float((split == old).mean()) - 1
    return float(max(0.0, explained) * max(0.0, straight))
