"""Whether a clip is blurred, starved of bits, noisy, banded or badly exposed."""

from functools import cache
from typing import Any, final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

PICTURES = 1  # the middle one; more would cost what decoding does
CROPS = 1  # of a picture
SIDE = 224  # pixels


@cache
def _model() -> Any:
    import torch

    from models.content.quality import QualityModel

    torch.set_num_threads(1)  # one worker, one core
    return QualityModel()


def crops(picture: np.ndarray, count: int = CROPS) -> np.ndarray:
    """The squares of an RGB picture uint8 [H, W, 3] with the most contrast, unscaled, side by side: uint8 [<= count, 224, 224, 3].

    Scaled to fit a network the whole picture would lose its blur and its blocks. A smaller picture is mirrored at its edges.
    """
    missing = [max(0, SIDE - side) for side in picture.shape[:2]]
    if any(missing):
        picture = np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    tops, lefts = (_starts(side) for side in picture.shape[:2])
    squares = [picture[top : top + SIDE, left : left + SIDE] for top in tops for left in lefts]
    contrast = [float(square[::4, ::4].mean(axis=2).std()) for square in squares]
    return np.stack([squares[i] for i in np.argsort(contrast, kind="stable")[::-1][:count]])


def _starts(side: int) -> list[int]:
    """Where as many squares as fit side by side begin; a single one in the middle."""
    count = side // SIDE
    return [(side - SIDE) // 2] if count == 1 else np.linspace(0, side - SIDE, count).astype(int).tolist()


@final
class Quality(Filter):
    """What a technical judge would say, and no more: not whether a picture is beautiful, well framed or interesting.

    The paper trained a simple model of frame-level visual quality (section 3.2.1); this one is ours, small, and knows
    the faults it was shown on 38 short films (models/content/quality.json has the held-out figures). It ranks pictures of one kind
    well; its level does not carry over to kinds it never saw: drawn animation and screens score near 0 however clean, and
    soft focus and night can. So no recipe here asks it. It sees looks of 640 pixels: what only full size shows it misses.
    """

    stage = "visual"
    signals = (
        Signal(
            name="visual_quality",
            unit="0..1",
            meaning="probability that the pictures are undamaged: not blurred, upscaled, overcompressed, noisy, banded or badly exposed",
        ),
    )
    rung = "models"
    cost = 2.0

    def score(self, clip: ClipView) -> dict[str, Score]:
        pictures = clip.pictures(PICTURES)
        if not pictures:
            return self.unmeasured("no picture was taken of it")
        odds = _model()(np.concatenate([crops(picture) for picture in pictures]))
        return {"visual_quality": float(1 / (1 + np.exp(-odds.mean())))}
