"""Where the camera goes: pan, tilt, zoom, roll, and whether it stands."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal
from curation.motion.path import NO_PATH, camera_path

STANDS = (
    0.01  # longer sides / s; locked cameras of the test videos stay below in 9 of 10 steps, tripod-like drifts do not
)


@final
class Camera(Filter):
    """The motion that all blocks of the picture share, after what objects do is left out (curation/clips/global_motion.py)."""

    stage = "motion"
    signals = (
        Signal(
            name="pan",
            unit="longer sides / s",
            meaning="mean velocity of the camera to the right (the picture moves left)",
            version=3,
        ),
        Signal(
            name="tilt",
            unit="longer sides / s",
            meaning="mean velocity of the camera upwards (the picture moves down)",
            version=2,
        ),
        Signal(name="zoom", unit="1/s", meaning="mean growth of the picture, natural logarithm; positive is in"),
        Signal(
            name="roll",
            unit="degrees / s",
            meaning="mean turn of the camera, clockwise (the picture turns the other way)",
        ),
        Signal(
            name="camera_speed",
            unit="longer sides / s",
            meaning="median speed of the picture's points, by shift, zoom and roll",
        ),
        Signal(
            name="camera_stands", unit="0..1", meaning="share of tenths of a second in which the camera stands still"
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        path = camera_path(clip.strip)
        if len(path) < 4:
            return self.unmeasured(NO_PATH)
        return {
            "pan": -float(path.x.mean()),
            "tilt": float(path.y.mean()),
            "zoom": float(path.zoom.mean()),
            "roll": -float(path.roll.mean()),
            "camera_speed": float(np.median(path.speed)),
            "camera_stands": float(np.mean(path.speed < STANDS)),
        }
