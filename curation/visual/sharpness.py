"""How much fine detail a clip has."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Sharpness(Filter):
    """Median over the samples, so that one blurred pan or one sharp title decides nothing."""

    stage = "visual"
    rung = "keyframes"
    signals = (
        Signal(
            name="sharpness",
            unit="luma squared",
            meaning="median variance of the Laplacian of 256-pixel pictures, inside borders",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        samples = clip.strip.sampled("sharpness")
        return (
            {"sharpness": float(np.median(samples))}
            if len(samples)
            else self.unmeasured("its pictures are nearly all dark")
        )
