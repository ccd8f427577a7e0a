"""Blocks: what strong compression by 8 x 8 transforms leaves behind."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Blockiness(Filter):
    """Steps in luma across the codec's 8-pixel grid against steps elsewhere, at native size, in the middle of the picture.

    Sees MPEG-2, MPEG-4, MJPEG and H.264 without its deblocking filter; a video that was scaled after its bad compression has its
    grid elsewhere and passes.
    """

    stage = "visual"
    signals = (
        Signal(
            name="blockiness",
            unit="ratio",
            meaning="median luma step across the 8-pixel grid over the step elsewhere, less 1; 0 is none",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        samples = clip.strip.sampled("blockiness")
        if not len(samples):
            return self.unmeasured("the middle of its pictures is flat, dark, or narrower than 64 pixels")
        return {"blockiness": float(np.median(samples))}
