"""The camera's path through a clip, step by step, as the strip has it."""

from dataclasses import dataclass

import numpy as np

from curation.clips.strip import Strip

NO_PATH = "fewer than four tenths of a second have a picture to hold on to"


@dataclass(frozen=True, kw_only=True)
class CameraPath:
    """Velocities of the picture over steps of a tenth of a second, float32 [steps] each; only steps that are known.

    seconds: at the end of the step. x to the right and y downwards in longer sides / s, zoom in 1/s, roll in degrees / s.
    object_share: share of the textured blocks that move beyond the camera.
    """

    seconds: np.ndarray
    x: np.ndarray
    y: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray
    object_share: np.ndarray

    def __len__(self) -> int:
        return len(self.seconds)

    @property
    def speed(self) -> np.ndarray:
        """How fast the picture's points move, in longer sides / s: the shift, and what zoom and roll do half a side off the middle."""
        return np.hypot(self.x, self.y) + np.abs(self.zoom) / 2 + np.radians(np.abs(self.roll)) / 2

    @property
    def change(self) -> np.ndarray:
        """How much the velocity differs from the step before, in longer sides / s, float32 [steps - 1]."""
        return (
            np.hypot(np.diff(self.x), np.diff(self.y))
            + np.abs(np.diff(self.zoom)) / 2
            + np.radians(np.abs(np.diff(self.roll))) / 2
        )


def camera_path(strip: Strip) -> CameraPath:
    """The known steps of a strip. The first step of a span begins outside it and is left out."""
    signals = strip.signals
    known = np.isfinite(signals["camera_x"]) & strip.steps_inside()
    return CameraPath(
        seconds=strip.clock.frame_seconds[known],
        x=signals["camera_x"][known],
        y=signals["camera_y"][known],
        zoom=signals["camera_zoom"][known],
        roll=signals["camera_roll"][known],
        object_share=signals["object_share"][known],
    )
