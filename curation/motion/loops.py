"""Clips that play the same frames again, as animated pictures and boomerangs made long do."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

SHORTEST = 0.4  # seconds of a period
OVERLAP = 0.3  # of the clip must have its like one period before
LIVELY = 1.0  # luma; less change over the clip than this and every part is like every other


@final
class Loops(Filter):
    """A loop shifted by its period is itself again, down to the numbers of each frame."""

    stage = "motion"
    signals = (
        Signal(
            name="loop_likeness",
            unit="0..1",
            meaning="how much more alike the clip is to itself one period later than at shorter shifts; 1 is a perfect loop",
        ),
        Signal(name="loop_seconds", unit="s", meaning="that period"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        signals = clip.strip.signals
        frames = np.nan_to_num(np.stack([signals[name] for name in ("brightness", "contrast", "fine_change")], axis=1))
        frames = frames[1:].astype(np.float64)  # the first frame's change comes from outside
        shortest, longest = int(np.ceil(SHORTEST * clip.strip.fps)), int((1 - OVERLAP) * len(frames))
        if longest - shortest < 8:
            return self.unmeasured("it is too short to repeat itself")
        if float(frames[:, :2].std(axis=0).max()) < LIVELY / 2 and float(frames[:, 2].std()) < LIVELY / 4:
            return self.unmeasured("so little changes in it that every part is like every other")
        shifts = np.arange(shortest, longest)
        apart = np.array([np.abs(frames[shift:] - frames[:-shift]).mean() for shift in shifts])
        # against the largest difference at any smaller shift: what drifts grows ever less alike and has no way back
        likeness = 1 - apart / np.maximum(np.maximum.accumulate(apart), 1e-9)
        best = int(likeness.argmax())
        return {"loop_likeness": float(likeness[best]), "loop_seconds": float(shifts[best] / clip.strip.fps)}
