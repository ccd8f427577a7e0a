"""Frames a second: as presented, and as they differ."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured
from curation.motion.frozen import SAME


@final
class FrameRate(Filter):
    """24 pictures a second in a 60 fps file are 24: repeated frames teach a model to stutter."""

    stage = "visual"
    signals = (
        Signal(name="fps", unit="1/s", meaning="presented frames per second, the mean over the clip"),
        Signal(
            name="distinct_fps",
            unit="1/s",
            meaning="frames per second that differ from the one before, of seconds in which anything moves",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        if clip.strip.fps <= 0:
            return self.unmeasured("it lasts no time")
        return {"fps": clip.strip.fps, "distinct_fps": _distinct(clip)}


def _distinct(clip: ClipView) -> Score:
    differs = np.nan_to_num(clip.strip.signals["fine_change"][1:]) >= SAME
    second = clip.strip.clock.frame_seconds[1:].astype(int)
    per_second = np.bincount(second, weights=differs) if len(second) else np.zeros(0)
    whole = per_second[: int(clip.strip.clock.duration_seconds)]
    moving = whole[whole > 0]
    return float(np.median(moving)) if len(moving) else Unmeasured("nothing moves in a whole second of it")
