"""Whether a clip is blurred, starved of bits, noisy, banded or badly exposed."""

from functools import cache
from typing import Any, final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

PICTURES = 3
CROPS = 2  # of a picture
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
    height, width = picture.shape[:2]
    tops = (
        np.linspace(0, height - SIDE, max(1, height // SIDE)).astype(int)
        if height >= 2 * SIDE
        else [(height - SIDE) // 2]
    )
    lefts = (
        np.linspace(0, width - SIDE, max(1, width // SIDE)).astype(int) if width >= 2 * SIDE else [(width - SIDE) // 2]
    )
    squares = [picture[top : top + SIDE, left : left + SIDE] for top in tops for left in lefts]
    contrast = [float(square[::4, ::4].mean(axis=2).std()) for square in squares]
    return np.stack([squares[i] for i in np.argsort(contrast, kind="stable")[::-1][:count]])


@final
class Quality(Filter):
    """What a technical judge would say, and no more: not whether a picture is beautiful, well framed or interesting.

    The paper keeps clips of high "visual quality" by a model of its own (section 3.2.1); this one is ours and small, and
    it knows the faults it was shown (models/content/quality.json has the figures). It sees looks of 640 pixels, so what only full size
    would show is not seen; a filmmaker's soft focus, night and grain can look like faults to it.
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
    cost = 14.0

    def score(self, clip: ClipView) -> dict[str, Score]:
        pictures = clip.pictures(PICTURES)
        if not pictures:
            return self.unmeasured("no picture was taken of it")
        odds = _model()(np.concatenate([crops(picture) for picture in pictures]))
        return {"visual_quality": float(1 / (1 + np.exp(-odds.mean())))}
