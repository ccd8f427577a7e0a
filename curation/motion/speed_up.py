"""Time-lapse and fast motion: what moves does not go on moving the same way."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

MOVES = 0.1  # % of the longer side per frame; the direction of less is noise


@final
class SpeedUp(Filter):
    """Things have inertia: a tenth of a second later they move much as before. Played faster, less so."""

    stage = "motion"
    signals = (
        Signal(
            name="motion_incoherence",
            unit="ratio",
            meaning="median over moving steps: change of the blocks' motion in a tenth of a second over the motion itself",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        signals = clip.strip.signals
        moving = np.isfinite(signals["incoherence"]) & (signals["flow_motion"] > MOVES)
        moving &= clip.strip.steps_inside(2)  # of two steps the first must not begin outside
        if moving.sum() < 5:
            return self.unmeasured("too little moves in it")
        return {"motion_incoherence": float(np.median(signals["incoherence"][moving]))}
