"""Clips in which nothing happens."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

STILL = 0.5  # luma; re-encoded still pictures stay below 0.2, the slowest labelled motion is above 0.6


@final
class Static(Filter):
    """How much of the clip is (nearly) the frame before once more. The paper's own model for this is unpublished."""

    stage = "motion"
    signals = (
        Signal(
            name="static_share",
            unit="0..1",
            meaning="share of frames that differ from the one before by less than 0.5 luma",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        steps = clip.strip.after_first("luma_change")
        return (
            {"static_share": float(np.mean(steps < STILL))} if len(steps) else self.unmeasured("it has only one frame")
        )
