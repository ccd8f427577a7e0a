"""A shaking camera, and shots that were never one shot."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Signal
from curation.shots.strip_detector import find_cuts

SAMPLES_PER_SECOND = 10  # hand shake lives at 2-10 Hz; compression noise above


def camera_path(clip: ClipView) -> np.ndarray:
    """Camera shift per 1/10 second in shares of the longer side, float [steps, 2]; unknown shifts count as none."""
    facts, strip = clip.facts, clip.strip
    longer = max(facts.width, facts.height)
    x = np.nan_to_num(strip.signals["shift_x"][1:]) * facts.width / longer
    y = np.nan_to_num(strip.signals["shift_y"][1:]) * facts.height / longer
    frames = max(1, round(strip.fps / SAMPLES_PER_SECOND))
    whole = len(x) // frames * frames
    return np.stack([x[:whole], y[:whole]], axis=1).reshape(-1, frames, 2).sum(axis=1)


@final
class Jitter(Filter):
    """How abruptly the camera's velocity changes. The paper's proxy, shots per second < 0.85, is measured beside it."""

    stage = "motion"
    signals = (
        Signal(
            name="jitter",
            unit="% of the longer side",
            meaning="75th percentile of the change of the camera's shift from one tenth of a second to the next",
        ),
        Signal(
            name="shots_per_second",
            unit="1/s",
            meaning="cuts that a sensitive detector (half the threshold) sees inside the clip",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, float | None]:
        path = camera_path(clip)
        changes = np.hypot(*np.diff(path, axis=0).T) if len(path) >= 4 else np.empty(0)
        seconds = clip.strip.clock.duration_seconds
        return {
            "jitter": 100 * float(np.percentile(changes, 75)) if len(changes) else None,
            "shots_per_second": len(find_cuts(clip.strip, sensitivity=2.0)) / seconds if seconds > 0 else None,
        }
