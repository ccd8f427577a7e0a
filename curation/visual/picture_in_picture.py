"""A picture inside the picture: a webcam over a screen, a reaction over a video, a second camera in a corner."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import final

import cv2
import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured
from curation.visual.persistence import Persistence, persistence, stability

FAINTEST = 2.0  # luma per pixel; an edge weaker than this is none
LINES = 16  # most columns (rows) that may be a side
LINE = 0.4  # of a stretch lies on an edge, averaged over the looks: chance gives 0.2
SIDES = (0.12, 0.8)  # of the picture's width and height, least and most
AREA = (0.02, 0.45)  # of the picture
BEYOND = 0.06  # of the shorter side: how far past its corners a side is looked at
HIDDEN = 0.12  # taken off for each side that coincides with the picture's own edge
MOVES = 0.4  # of the gradient around lasts at most: then a rectangle that stays is proof by itself
APART = 2.0  # natural logarithm of the ratio of changes inside and outside that counts in full
WEIGHT = 0.5  # of that ratio against the sides


@final
class PictureInPicture(Filter):
    """How surely four straight sides stay where they are, end at their corners, and part two things that move differently.

    Around a locked camera's picture windows and doors stay, too; there only a contrast of change between inside and outside
    counts. Where everything moves the sides suffice.
    """

    stage = "visual"
    rung = "models"
    cost = 1.7  # when the logo was looked for before
    signals = (
        Signal(name="inset_score", unit="0..1", meaning="how surely a second picture is set into the picture"),
        Signal(name="inset_share", unit="0..1", meaning="share of the picture's area of the likeliest such rectangle"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        looks = persistence(clip)
        if isinstance(looks, Unmeasured):
            return self.unmeasured(looks)
        score, share = 0.0, 0.0
        for box in sorted(rectangles(looks), key=lambda each: -each.edges):
            if box.edges <= score:
                break  # the rest cannot be surer than their sides
            score, share = max((score, share), (_surety(looks, box), box.share))
        return {"inset_score": min(1.0, score), "inset_share": share}


@dataclass(frozen=True)
class Rectangle:
    """left..right, top..bottom in pixels of a half look. edges: -1..1, how well its sides stay, less how much they run on."""

    left: int
    top: int
    right: int
    bottom: int
    share: float
    edges: float


def rectangles(looks: Persistence) -> Iterator[Rectangle]:
    """Every rectangle of lasting straight sides, of which two at most may be the picture's own."""
    upright, level = _edges(looks.pictures.mean(axis=3))
    height, width = upright.shape
    down, across = _sums(upright), _sums(level.T)
    past = max(4, round(BEYOND * min(height, width)))
    columns = [0, *_lines(down, round(SIDES[0] * height)), width]
    rows = [0, *_lines(across, round(SIDES[0] * width)), height]
    tops, bottoms = np.array(list(combinations(rows, 2))).T
    high = bottoms - tops
    fits = (SIDES[0] * height < high) & (high < SIDES[1] * height)
    tops, bottoms, high = tops[fits], bottoms[fits], high[fits]
    for left, right in combinations(columns, 2):
        uprights = [x for x in (left, right) if 0 < x < width]
        if not uprights or not SIDES[0] * width < right - left < SIDES[1] * width:
            continue
        shares = (right - left) * high / (width * height)
        level = (across[right] - across[left]) / (right - left)  # of every row
        top_sides = np.where(tops > 0, level[tops], np.inf)
        bottom_sides = np.where(bottoms < height, level[np.minimum(bottoms, height - 1)], np.inf)
        weakest = np.minimum(top_sides, bottom_sides)
        for x in uprights:
            weakest = np.minimum(weakest, (down[bottoms, x] - down[tops, x]) / high)
        inner = (tops > 0) | (bottoms < height)
        good = np.flatnonzero(inner & (weakest >= LINE) & (AREA[0] < shares) & (shares < AREA[1]))
        for top, bottom, share in zip(tops[good].tolist(), bottoms[good].tolist(), shares[good].tolist(), strict=True):
            levels = [y for y in (top, bottom) if 0 < y < height]
            sides = [_mean(down, x, top, bottom) for x in uprights] + [_mean(across, y, left, right) for y in levels]
            on = [
                _mean(down, x, *end)
                for x in uprights
                for end in ((top - 2 - past, top - 2), (bottom + 3, bottom + 3 + past))
            ]
            on += [
                _mean(across, y, *end)
                for y in levels
                for end in ((left - 2 - past, left - 2), (right + 3, right + 3 + past))
            ]
            runs_on = [each for each in on if each == each]  # without nan
            edges = sum(sides) / len(sides) - 0.5 * sum(runs_on) / max(1, len(runs_on)) - HIDDEN * (4 - len(sides))
            yield Rectangle(left, top, right, bottom, share, edges)


def _edges(lumas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In what share of the looks an upright (a level) edge passes within a pixel, float32 [H, W] each. lumas: [L, H, W].

    Where the edge is, not which way it goes: between two moving pictures its sign is anything.
    """
    upright, level = np.zeros_like(lumas[0]), np.zeros_like(lumas[0])
    for luma in lumas:
        right, down = np.zeros_like(luma), np.zeros_like(luma)
        right[:, 1:-1] = np.abs(luma[:, 2:] - luma[:, :-2]) / 2
        down[1:-1] = np.abs(luma[2:] - luma[:-2]) / 2
        crest = (right >= cv2.dilate(right, np.ones((1, 5)))) & (right > FAINTEST) & (right > down)
        upright += cv2.dilate(crest.astype(np.uint8), np.ones((1, 3)))
        crest = (down >= cv2.dilate(down, np.ones((5, 1)))) & (down > FAINTEST) & (down > right)
        level += cv2.dilate(crest.astype(np.uint8), np.ones((3, 1)))
    return upright / len(lumas), level / len(lumas)


def _sums(edges: np.ndarray) -> np.ndarray:
    """Sums from the top of each column: [H + 1, W]."""
    return np.cumsum(np.vstack([np.zeros_like(edges[:1]), edges]), axis=0, dtype=np.float64)


def _mean(sums: np.ndarray, line: int, start: int, end: int) -> float:
    """Of one column between two rows; nan where fewer than 3 pixels of that lie in the picture."""
    start, end = max(0, start), min(len(sums) - 1, end)
    return float(sums[end, line] - sums[start, line]) / (end - start) if end - start >= 3 else float("nan")


def _lines(sums: np.ndarray, shortest: int) -> list[int]:
    """The columns that an edge follows longest, left to right, at least 3 pixels apart."""
    best = np.zeros(sums.shape[1])
    for length in (shortest, 2 * shortest):
        best = np.maximum(best, (sums[length:] - sums[:-length]).max(axis=0) / length)
    found: list[int] = []
    for column in np.argsort(-best, kind="stable").tolist():
        if best[column] <= LINE or len(found) == LINES:
            break
        if 2 < column < len(best) - 3 and all(abs(column - other) > 2 for other in found):
            found.append(column)
    return sorted(found)


def _surety(looks: Persistence, box: Rectangle) -> float:
    """The sides' score, less what is missing of a proof that inside and outside move differently."""
    height, width = looks.lasting.shape
    outside = np.ones((height, width), bool)
    outside[max(0, box.top - 3) : box.bottom + 4, max(0, box.left - 3) : box.right + 4] = False
    if stability(looks.lasting[outside], looks.passing[outside]) <= MOVES:
        return box.edges
    past = max(4, round(BEYOND * min(height, width)))
    ring = np.zeros((height, width), bool)
    ring[max(0, box.top - past) : box.bottom + past + 1, max(0, box.left - past) : box.right + past + 1] = True
    ring &= outside
    inside = looks.changes[box.top + 3 : box.bottom - 2, box.left + 3 : box.right - 2]
    if not inside.size or not ring.any():  # of a picture of few pixels nothing is left to compare
        return box.edges
    ratio = abs(float(np.log((inside.mean() + 1) / (looks.changes[ring].mean() + 1))))
    return box.edges - WEIGHT * (1 - min(1.0, ratio / APART))
