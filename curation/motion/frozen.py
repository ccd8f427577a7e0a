"""Freezes: the same frame again and again, in a clip that may move otherwise."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

SAME = 0.1  # luma; a frame that the encoder skips is the same to the bit, its re-encodings differ by less than this


@final
class Frozen(Filter):
    """Dropped frames, buffering, a slide among moving pictures."""

    stage = "motion"
    signals = (
        Signal(name="freeze_seconds", unit="s", meaning="longest time in which every frame equals the one before"),
        Signal(name="repeated_share", unit="0..1", meaning="share of frames that equal the one before"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        if len(clip.strip) < 2:
            return self.unmeasured("it has only one frame")
        same = np.nan_to_num(clip.strip.signals["fine_change"][1:], nan=np.inf) < SAME
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
        starts, ends = edges[::2], edges[1::2]
        seconds = clip.strip.clock.frame_seconds  # frames starts + 1 .. ends equal frame starts
        longest = max(
            (float(seconds[end] - seconds[start]) for start, end in zip(starts, ends, strict=True)), default=0.0
        )
        return {"freeze_seconds": longest, "repeated_share": float(same.mean())}
