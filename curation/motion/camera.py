"""Where the camera goes, as far as one global shift per frame can tell."""

from typing import final

from curation.clips.frames import STEP_SECONDS
from curation.contracts import ClipView, Filter, Score, Signal
from curation.motion.jitter import camera_path


@final
class Camera(Filter):
    """Mean velocity of the camera: pans and tilts. Zoom and roll need more than a shift and are not measured here."""

    stage = "motion"
    signals = (
        Signal(
            name="pan",
            unit="longer sides / s",
            meaning="mean velocity of the camera to the right (the picture moves left)",
            version=2,
        ),
        Signal(
            name="tilt", unit="longer sides / s", meaning="mean velocity of the camera upwards (the picture moves down)"
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        _, path = camera_path(clip)
        if len(path) < 4:
            return self.unmeasured("too few steps of a tenth of a second have a picture to hold on to")
        x, y = path.mean(axis=0) / STEP_SECONDS
        return {"pan": float(-x), "tilt": float(y)}
