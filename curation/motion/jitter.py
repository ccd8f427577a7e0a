"""A shaking camera, and shots that were never one shot."""

from typing import final

import numpy as np

from curation.clips.frames import STEP_SECONDS
from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured
from curation.shots.strip_detector import find_cuts


def camera_path(clip: ClipView) -> tuple[np.ndarray, np.ndarray]:
    """Seconds [steps], and the camera's shift per 1/10 second in shares of the longer side, float [steps, 2]; only known shifts."""
    facts, strip = clip.facts, clip.strip
    longer = max(facts.width, facts.height)
    known = np.isfinite(strip.signals["shift_x"])
    known[:1] = False  # the first shift comes from outside the clip
    seconds = strip.clock.frame_seconds[known]
    x = strip.signals["shift_x"][known] * facts.width / longer
    y = strip.signals["shift_y"][known] * facts.height / longer
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else STEP_SECONDS
    return seconds, np.stack([x, y], axis=1) * (STEP_SECONDS / step)


@final
class Jitter(Filter):
    """How abruptly the camera's velocity changes. The paper's proxy, shots per second < 0.85, is measured beside it."""

    stage = "motion"
    signals = (
        Signal(
            name="jitter",
            unit="% of the longer side",
            meaning="75th percentile of the change of the camera's shift from one tenth of a second to the next",
            version=2,
        ),
        Signal(
            name="shots_per_second",
            unit="1/s",
            meaning="cuts that a sensitive detector (half the threshold) sees inside the clip",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        times, path = camera_path(clip)
        next_to_each_other = np.diff(times) < 1.5 * np.median(np.diff(times)) if len(times) > 1 else np.empty(0, bool)
        changes = np.hypot(*np.diff(path, axis=0).T)[next_to_each_other] if len(path) >= 4 else np.empty(0)
        seconds = clip.strip.clock.duration_seconds
        return {
            "jitter": 100 * float(np.percentile(changes, 75))
            if len(changes) >= 3
            else Unmeasured("too few neighbouring steps have a picture to hold on to"),
            "shots_per_second": len(find_cuts(clip.strip, sensitivity=2.0)) / seconds
            if seconds > 0
            else Unmeasured("it lasts no time"),
        }
