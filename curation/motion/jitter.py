"""A shaking camera, and shots that were never one shot."""

from typing import final

import numpy as np

from curation.clips.frames import STEP_SECONDS
from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured
from curation.motion.path import NO_PATH, camera_path
from curation.shots.strip_detector import find_cuts


@final
class Jitter(Filter):
    """How abruptly the camera's velocity changes. The paper's proxy, shots per second < 0.85, is measured beside it.

    The paper counts PySceneDetect's shots, whose default detector takes 27 luma between two frames for a cut; a camera that is
    shaken, or swung, makes many. Ours counts what a shot detector of half our threshold sees inside a clip.
    """

    stage = "motion"
    signals = (
        Signal(
            name="jitter",
            unit="% of the longer side",
            meaning="75th percentile of the change of the camera's shift from one tenth of a second to the next",
            version=3,
        ),
        Signal(
            name="shots_per_second",
            unit="1/s",
            meaning="cuts that a sensitive detector (half the threshold) sees inside the clip",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        path = camera_path(clip.strip)
        seconds = clip.strip.clock.duration_seconds
        gaps = np.diff(path.seconds)
        neighbours = gaps < 1.5 * np.median(gaps) if len(gaps) else np.empty(0, bool)
        changes = np.hypot(np.diff(path.x), np.diff(path.y))[neighbours] * STEP_SECONDS
        cuts = len(find_cuts(clip.strip, sensitivity=2.0))
        return {
            "jitter": 100 * float(np.percentile(changes, 75)) if len(changes) >= 3 else Unmeasured(NO_PATH),
            "shots_per_second": cuts / seconds if seconds > 0 else Unmeasured("it lasts no time"),
        }
