"""Clipped shadows and highlights: detail that the camera, or a careless conversion, has lost."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Exposure(Filter):
    """Medians over two pictures a second, inside borders. Whether a clip is black or white as a whole is visual.brightness."""

    stage = "visual"
    rung = "keyframes"
    signals = (
        Signal(
            name="black_clipped",
            unit="0..1",
            meaning="share of the picture at or below black (luma 16, or 1 of full range)",
        ),
        Signal(
            name="white_clipped",
            unit="0..1",
            meaning="share of the picture at or above white (luma 235, or 254 of full range)",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        black, white = clip.strip.sampled("black_clipped"), clip.strip.sampled("white_clipped")
        if not len(black):
            return self.unmeasured("its pictures are nearly all dark")
        return {"black_clipped": float(np.median(black)), "white_clipped": float(np.median(white))}
