"""What stays where it is while the rest of the picture changes: the gradients of a clip's looks, over time.

The gradient of what is drawn over footage is the same in every picture, the footage's is not; its median over time is the mark's own
(Dekel et al., On the Effectiveness of Visible Watermarks, CVPR 2017, section 3.1).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from curation.contracts import ClipView, Unmeasured

LOOKS = 8  # at most; a clip of 4 s has 4
MIN_LOOKS = 4  # three agree by chance where a camera moves slowly
RIM = 2  # pixels inside the borders that are not looked at: the blurred edge of a bar
MIN_SIDE = 32  # pixels of picture inside the borders


@dataclass(frozen=True)
class Persistence:
    """L looks at half their size (long side at most 320 pixels), inside the borders.

    pictures: float32 [L, H, W, 3], slightly smoothed. All gradients are in 8-bit steps per pixel.
    """

    pictures: np.ndarray

    @cached_property
    def gradients(self) -> np.ndarray:
        """To the right and down, of each colour: float32 [L, H, W, 6]; 0 at the edge of the picture."""
        both = np.zeros((*self.pictures.shape[:3], 6), np.float32)
        np.subtract(self.pictures[:, :, 2:], self.pictures[:, :, :-2], out=both[:, :, 1:-1, :3])
        np.subtract(self.pictures[:, 2:], self.pictures[:, :-2], out=both[:, 1:-1, :, 3:])
        both *= 0.5
        return both

    @cached_property
    def _lasting_and_passing(self) -> tuple[np.ndarray, np.ndarray]:
        middle = _median(self.gradients)
        passing = np.zeros(middle.shape[:2], np.float32)
        for each in self.gradients:
            passing += _length(each - middle)
        return _length(middle), passing / len(self.gradients)

    @property
    def lasting(self) -> np.ndarray:
        """Length of the median gradient over time, float32 [H, W]."""
        return self._lasting_and_passing[0]

    @property
    def passing(self) -> np.ndarray:
        """Mean distance of a look's gradient from that median, float32 [H, W]."""
        return self._lasting_and_passing[1]

    @cached_property
    def changes(self) -> np.ndarray:
        """Mean change from one look to the next, 8-bit steps, float32 [H, W]."""
        return np.abs(np.diff(self.pictures, axis=0)).mean(axis=(0, 3))

    @cached_property
    def standstill(self) -> float:
        """How much of the gradient lasts, 0..1: 0.1 to 0.4 by chance where the camera moves, 0.4 to 1 where it is locked.

        The median over 4 x 4 tiles, so that one strong mark over a soft picture is no standstill.
        """
        height, width = (side // 4 for side in self.lasting.shape)
        tiles = [np.s_[y * height : (y + 1) * height, x * width : (x + 1) * width] for y in range(4) for x in range(4)]
        return float(np.median([stability(self.lasting[tile], self.passing[tile]) for tile in tiles]))


def _median(values: np.ndarray) -> np.ndarray:
    """Over the first axis, by odd-even exchange of whole pictures: a sixth of the cost of numpy's, which gathers each pixel's values."""
    rows = list(values)
    for turn in range(len(rows)):
        for i in range(turn % 2, len(rows) - 1, 2):
            rows[i], rows[i + 1] = np.minimum(rows[i], rows[i + 1]), np.maximum(rows[i], rows[i + 1])
    middle: np.ndarray = (rows[(len(rows) - 1) // 2] + rows[len(rows) // 2]) / 2
    return middle


def _length(gradient: np.ndarray) -> np.ndarray:
    """Root mean square over the colours of a gradient [H, W, 6], float32 [H, W]."""
    return np.sqrt(np.einsum("hwc,hwc->hw", gradient, gradient) / 3)


def stability(lasting: np.ndarray, passing: np.ndarray) -> float:
    """Lasting / (lasting + passing) gradient, summed over the pixels given, 0..1; 1 where there is no gradient at all."""
    both = float(lasting.sum() + passing.sum())
    return float(lasting.sum()) / both if both > 0 else 1.0


def persistence(clip: ClipView) -> Persistence | Unmeasured:
    """Of a clip's looks, or why there is none."""
    if len(clip.looks) < MIN_LOOKS:
        return Unmeasured("fewer than four pictures were taken of it")
    spread = np.linspace(0, len(clip.looks) - 1, min(LOOKS, len(clip.looks)))
    borders = tuple(
        float(np.median(samples)) if len(samples := clip.strip.sampled(f"border_{side}")) else 0.0
        for side in ("left", "right", "top", "bottom")
    )
    return _persistence(tuple(clip.looks[round(i)][1] for i in spread), borders)


@lru_cache(maxsize=1)  # the two filters that ask do so for the same clip; together they cost what one does
def _persistence(looks: tuple[bytes, ...], borders: tuple[float, ...]) -> Persistence | Unmeasured:
    decoded = (cv2.imdecode(np.frombuffer(look, np.uint8), cv2.IMREAD_REDUCED_COLOR_2) for look in looks)
    pictures = [picture for picture in decoded if picture is not None]
    height, width = pictures[0].shape[:2]
    left, right = (round(share * width) + (RIM if share else 0) for share in borders[:2])
    top, bottom = (round(share * height) + (RIM if share else 0) for share in borders[2:])
    if width - left - right < MIN_SIDE or height - top - bottom < MIN_SIDE:
        return Unmeasured("inside its borders its pictures are smaller than 64 pixels")
    inside = np.s_[top : height - bottom, left : width - right]
    return Persistence(np.stack([cv2.GaussianBlur(p[inside].astype(np.float32), (0, 0), 0.6) for p in pictures]))
