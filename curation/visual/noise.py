"""Noise: grain of film and of sensors in the dark."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Noise(Filter):
    """Immerkaer's estimate (1996) in the flattest tenth of the picture, at native size: texture is not noise."""

    stage = "visual"
    signals = (
        Signal(name="noise", unit="luma", meaning="median standard deviation of noise where the picture is flattest"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        samples = clip.strip.sampled("noise")
        if not len(samples):
            return self.unmeasured("its pictures are nearly all dark, or smaller than 32 pixels")
        return {"noise": float(np.median(samples))}
