"""Camera against objects: one shift, zoom and roll for a whole picture, fitted robustly to the motion of its blocks.

Places and motions are complex numbers x + iy in units of the picture's longer side, from its middle; y points down. A camera that
pans, zooms and rolls moves the point z to growth * z + shift, where |growth| is the zoom and its angle the roll (clockwise as seen).
What a block does beyond that is its own motion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

BLOCK = 8  # pixels of 128
PASSES = 3  # one finds 65 % of a strong roll, two 85 %, three 95 % (labels of the test videos)
ENOUGH = 0.004  # of the longer side, half a pixel: a pass that changes less is the last
SMALLEST = 32  # pixels; OpenCV's DIS crashes on pictures with fewer rows or columns
TEXTURED = 4.0  # luma; mean difference of neighbouring pixels above which a block's motion is believed in full
STILL = 0.3  # luma; between two pictures that differ by less nothing is looked for, and nothing moves
TRUSTED_PEAK = 0.1  # response of a phase correlation, below which its shift is noise


@dataclass(frozen=True, kw_only=True)
class GlobalMotion:
    """S steps from one picture to the next; B blocks of a picture.

    shift: complex64 [S]. growth: complex64 [S]. own: complex64 [S, B], what blocks do beyond the camera.
    weight: float32 [S, B], 0..1, how much of a block can be followed at all. places: complex64 [B].
    unexplained: float32 [S], mean absolute luma difference that is left after the camera's motion is undone.
    """

    shift: np.ndarray
    growth: np.ndarray
    own: np.ndarray
    weight: np.ndarray
    places: np.ndarray
    unexplained: np.ndarray

    @property
    def motion(self) -> np.ndarray:
        """The blocks' whole motion, complex64 [S, B]."""
        moved: np.ndarray = (self.growth - 1)[:, None] * self.places + self.shift[:, None] + self.own
        return moved


class Follower:
    """Measures steps between pictures of one size, the longer side 128 pixels."""

    def __init__(self, height: int, width: int):
        self.pad = (max(0, SMALLEST - height), max(0, SMALLEST - width))
        self.height, self.width = height + self.pad[0], width + self.pad[1]
        self.longer = max(self.height, self.width)
        self.window = cv2.createHanningWindow((self.width // 2, self.height // 2), cv2.CV_32F)
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)  # 0.06 ms; the others 0.15 to 0.7
        self.rows, self.columns = self.height // BLOCK, self.width // BLOCK
        x = (np.arange(self.columns) + 0.5) * BLOCK - self.width / 2
        y = (np.arange(self.rows) + 0.5) * BLOCK - self.height / 2
        self.places = ((x + 1j * y[:, None]) / self.longer).ravel().astype(np.complex64)

    def follow(self, pictures: Sequence[np.ndarray]) -> GlobalMotion:
        """From each picture, luma uint8 [height, width], to the one after it."""
        padded = [cv2.copyMakeBorder(p, 0, self.pad[0], 0, self.pad[1], cv2.BORDER_REPLICATE) for p in pictures]
        steps = len(padded) - 1
        weight = self._textures(padded[1:])
        unexplained = np.array([_difference(padded[s], padded[s + 1]) for s in range(steps)], np.float32)
        open_steps = np.flatnonzero(unexplained > STILL)
        shift, growth = self._first_guess(padded, open_steps), np.ones(steps, np.complex64)
        own = np.zeros((steps, len(self.places)), np.complex64)
        for _ in range(PASSES if len(open_steps) else 0):
            for s in open_steps:
                undone = self._moved(padded[s], shift[s], growth[s])
                own[s] = self._flow(undone, padded[s + 1])
                unexplained[s] = _difference(undone, padded[s + 1])
            more, turn, left = _fit(self.places, own[open_steps], weight[open_steps])
            shift[open_steps] = (1 + turn) * shift[open_steps] + more
            growth[open_steps] *= 1 + turn
            own[open_steps] = left
            open_steps = open_steps[np.abs(more) + np.abs(turn) / 2 > ENOUGH]
            if not len(open_steps):
                break
        return GlobalMotion(
            shift=shift, growth=growth, own=own, weight=weight, places=self.places, unexplained=unexplained
        )

    def _first_guess(self, pictures: Sequence[np.ndarray], steps: np.ndarray) -> np.ndarray:
        """The shift by phase correlation at half the size, which no pan is too fast for; 0 where its peak is noise."""
        size = self.width // 2, self.height // 2
        small = [cv2.resize(p, size, interpolation=cv2.INTER_AREA).astype(np.float32) for p in pictures]
        guess = np.zeros(len(pictures) - 1, np.complex64)
        for s in steps:
            # OpenCV 5 multiplies its arguments by the window, in place
            (x, y), peak = cv2.phaseCorrelate(small[s].copy(), small[s + 1].copy(), self.window)
            if peak > TRUSTED_PEAK:
                guess[s] = 2 * complex(x, y) / self.longer
        return guess

    def _textures(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """How much of each block can be followed, float32 [S, B]; all pictures at once, as one tall picture."""
        tall = np.concatenate(pictures)
        steep = np.zeros(tall.shape, np.uint8)
        steep[:, 1:] = cv2.absdiff(tall[:, 1:], tall[:, :-1])
        down = cv2.absdiff(tall[1:], tall[:-1])
        down[self.height - 1 :: self.height] = 0  # from one picture to the next
        steep[1:] = cv2.add(steep[1:], down)
        inner = steep.reshape(len(pictures), self.height, self.width)[:, : self.rows * BLOCK, : self.columns * BLOCK]
        inner = inner.reshape(-1, self.columns * BLOCK).astype(np.float32)
        mean = cv2.resize(inner, (self.columns, len(pictures) * self.rows), interpolation=cv2.INTER_AREA)
        return np.clip(mean / TEXTURED, 0, 1).reshape(len(pictures), -1)

    def _flow(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        field: Any = self.flow.calc(before, after, None)  # type: ignore[call-overload]
        inner = field[: self.rows * BLOCK, : self.columns * BLOCK]
        mean = cv2.resize(inner, (self.columns, self.rows), interpolation=cv2.INTER_AREA) / self.longer
        return mean.view(np.complex64).ravel()

    def _moved(self, picture: np.ndarray, shift: complex, growth: complex) -> np.ndarray:
        if shift == 0 and growth == 1:
            return picture
        middle = complex(self.width - 1, self.height - 1) / 2
        rest = middle - growth * middle + shift * self.longer
        matrix = np.array([[growth.real, -growth.imag, rest.real], [growth.imag, growth.real, rest.imag]], np.float32)
        size = (self.width, self.height)
        return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference without the rim, where a camera that moves has news."""
    rows, columns = one.shape[0] // 8, one.shape[1] // 8
    inner = np.s_[rows : one.shape[0] - rows, columns : one.shape[1] - columns]
    return float(cv2.norm(one[inner], other[inner], cv2.NORM_L1)) / max(1, one[inner].size)


def _fit(places: np.ndarray, motion: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """shift [S], turn [S] and what is left [S, B] of motion = shift + turn * place, by iteratively reweighted least squares.

    Geman and McClure's weights, their scale from the median of what is left: objects that cover less than half of a picture have no say.
    """
    left = motion - _median(motion.real) - 1j * _median(motion.imag)
    for _ in range(5):
        length = np.abs(left)
        scale = np.maximum(1e-3, 1.5 * _median(length))
        w = weight / (1 + (length / scale) ** 2) ** 2
        total = w.sum(axis=1, keepdims=True) + 1e-9
        middle, mean = (w * places).sum(axis=1, keepdims=True) / total, (w * motion).sum(axis=1, keepdims=True) / total
        off = places - middle
        turn = (w * off.conj() * (motion - mean)).sum(axis=1, keepdims=True)
        turn = turn / ((w * np.abs(off) ** 2).sum(axis=1, keepdims=True) + 1e-3)  # 1e-3: a few blocks tell no zoom
        shift = mean - turn * middle
        left = motion - shift - turn * places
    return shift[:, 0], turn[:, 0], left


def _median(values: np.ndarray) -> np.ndarray:
    """The upper median of each row, [S, 1], at a third of the cost of numpy's."""
    half = values.shape[1] // 2
    return np.partition(values, half, axis=1)[:, half : half + 1]
