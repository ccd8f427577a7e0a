"""Stills shown as video: frozen, or under a virtual camera that glides over them. The paper drops slideshow-like clips."""

from typing import final

import numpy as np

from curation.clips.frames import JITTER_SECONDS, STEP_SECONDS
from curation.contracts import ClipView, Filter, Score, Signal
from curation.motion.path import NO_PATH, camera_path

FROZEN = 0.2  # luma; re-encoded stills stay below
GLIDES = 0.02  # longer sides / s; slower than this nobody would call it a moving camera
NOTHING_ELSE = 0.05  # share of blocks; stills under a gliding camera have up to 0.02, real moving cameras 0.05 to 0.7
STEADY = 0.04  # longer sides / s; change of velocity in a tenth of a second: virtual cameras up to 0.02, tripods and hands 0.03 to 0.4


@final
class Slideshow(Filter):
    """Share of the clip in which nothing lives: a frozen picture, or one that moves as a whole, perfectly steadily."""

    stage = "motion"
    signals = (
        Signal(
            name="still_share",
            unit="0..1",
            meaning="share of the clip that is a still picture, frozen or under a steady virtual camera",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        path = camera_path(clip.strip)
        change = clip.strip.signals["luma_change"][1:]
        change = change[np.isfinite(change)]
        if not len(change):
            return self.unmeasured("it has only one frame")
        frozen = float(np.mean(change < FROZEN))
        if len(path) < 4:
            return {"still_share": frozen} if frozen > 0 else self.unmeasured(NO_PATH)
        steady = np.concatenate([path.change[:1], path.change]) < STEADY
        glides = (path.speed > GLIDES) & (path.object_share < NOTHING_ELSE) & steady
        steps = max(1.0, clip.strip.clock.duration_seconds / max(STEP_SECONDS, _step(path.seconds)))
        return {"still_share": min(1.0, frozen + float(glides.sum()) / steps)}


def _step(seconds: np.ndarray) -> float:
    return float(np.median(np.diff(seconds))) - JITTER_SECONDS / 2
