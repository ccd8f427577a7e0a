"""What is measured while a video is decoded: batches of small pictures become the numbers of the strip.

numpy and OpenCV work on whole batches of frames (a batch of pictures is one tall picture to them), which costs a fifth of
working frame by frame. Nothing here knows files; `Measuring` keeps of earlier batches what differences need.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from curation.clips.blends import Blends, transition_lag
from curation.clips.frames import JITTER_SECONDS, STEP_SECONDS, FrameBatch, VideoFacts

THUMBNAIL_LONG_SIDE = 32  # pixels
DARK = 32  # luma, 16..235; a row or column that stays below is border if it ends in a straight edge
LIT_SHARE = 0.05  # of a row or column; fewer bright pixels are noise in a border
EDGE_SHARE = 0.5  # of the edge's length must be lit within four pixels; dark scenes have 0.1-0.3
# Optical flow on 128-pixel pictures -> the codec's vectors: log-log fit over 60 real H.264, MPEG-2 and MPEG-4 videos,
# Spearman 0.89 (LOG.md, 2026-11-21)
SMALLEST_FLOW = 32  # pixels; OpenCV's DIS crashes on pictures with fewer rows
FLOW_SLOPE, FLOW_INTERCEPT = 1.24, -0.21

# name -> (unit, meaning); every signal is float32 per frame, NaN where it was not measured
FRAME_SIGNALS = {
    "brightness": ("luma, 16..235", "mean luma"),
    "contrast": ("luma", "standard deviation of luma, on 64-pixel pictures"),
    "luma_change": ("luma", "mean absolute luma difference to the frame before, on 64-pixel pictures"),
    "fine_change": ("luma", "mean absolute luma difference to the frame before, on 128-pixel pictures"),
}
BLEND_SIGNALS = {
    "long_change": ("luma", "mean absolute luma difference from a quarter second before to a quarter second after"),
    "blend_residual": ("luma", "mean absolute luma difference to the mean of these two; 0 in the middle of a dissolve"),
}
STEP_SIGNALS = {
    "shift_x": (
        "widths",
        "global shift to the right since the step before, by phase correlation on 128-pixel pictures",
    ),
    "shift_y": ("heights", "global shift downwards since the step before"),
    "block_motion": (
        "% of the longer side per frame",
        "mean length of the codec's motion vectors; where it has none, of optical flow on 128-pixel pictures, fitted to them",
    ),
}
SAMPLED_SIGNALS = {
    "sharpness": ("luma squared", "variance of the Laplacian of 256-pixel pictures, inside any dark border"),
    "blockiness": ("ratio", "luma steps across the codec's 8-pixel grid over those inside it, less 1; 0 is none"),
    "noise": ("luma", "standard deviation of noise in the flattest tenth of the picture, at native size"),
    "border_left": ("widths", "width of the dark border on the left"),
    "border_right": ("widths", "width of the dark border on the right"),
    "border_top": ("heights", "height of the dark border above"),
    "border_bottom": ("heights", "height of the dark border below"),
}
LOOK_SIGNALS = {
    "lettering": (
        "luma per pixel",
        "strokes of the line of a look that is most like writing; once a second, with the looks",
    ),
}
SIGNALS = {**FRAME_SIGNALS, **BLEND_SIGNALS, **STEP_SIGNALS, **SAMPLED_SIGNALS, **LOOK_SIGNALS}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything of one video. pts: int64 [F]. signals: name -> float32 [F].

    thumbnails: frame index -> luma, uint8 [h, w], long side 32 pixels. looks: [(frame index, JPEG)].
    """

    pts: np.ndarray
    keyframes: np.ndarray
    signals: dict[str, np.ndarray]
    thumbnails: dict[int, np.ndarray]
    looks: list[tuple[int, bytes]]


class Measuring:
    """Feed it the batches of a `Scan` in order; `result` is the whole."""

    def __init__(self) -> None:
        self._pts: list[np.ndarray] = []
        self._keyframes: list[np.ndarray] = []
        self._signals: dict[str, list[np.ndarray]] = {name: [] for name in SIGNALS}
        self._thumbnails: dict[int, np.ndarray] = {}
        self._looks: list[tuple[int, bytes]] = []
        self._count = 0
        self._last: dict[str, np.ndarray] = {}  # the last picture of the batch before
        self._steps: _Steps | None = None
        self._blends: Blends | None = None

    def add(self, batch: FrameBatch, facts: VideoFacts) -> None:
        """Measure one batch."""
        frames, height, width = batch.luma.shape
        # by area, in one call: a batch is one tall picture, whose frames do not mix because their height is even
        tall = batch.luma.reshape(frames * height, width)
        small = cv2.resize(tall, (width // 2, frames * height // 2), interpolation=cv2.INTER_AREA)
        small = small.reshape(frames, height // 2, width // 2)
        self._steps = self._steps or _Steps(facts, int(batch.pts[0]), width, height)
        self._blends = self._blends or Blends(transition_lag(_rate(batch, facts)))
        self._blends.add(small)
        flat = small.reshape(frames, -1).astype(np.float32)
        brightness = flat.mean(axis=1)
        contrast = np.sqrt(np.maximum(np.einsum("fp,fp->f", flat, flat) / flat.shape[1] - brightness**2, 0))
        signals = {
            "brightness": brightness,
            "contrast": contrast,
            "luma_change": self._change("small", small),
            "fine_change": self._change("luma", batch.luma),
            **self._steps.measure(batch, contrast),
            **_samples(batch),
            "lettering": batch.lettering,
        }
        for name, values in signals.items():
            self._signals[name].append(values.astype(np.float32))
        for sample in batch.samples:
            self._thumbnails[self._count + sample.index] = _thumbnail(sample.luma)
        self._pts.append(batch.pts)
        self._keyframes.append(batch.keyframes)
        self._looks += [(self._count + index, look) for index, look in batch.looks]
        self._count += frames

    def result(self) -> Measured:
        assert self._blends is not None
        return Measured(
            pts=np.concatenate(self._pts),
            keyframes=np.concatenate(self._keyframes),
            signals={name: np.concatenate(parts) for name, parts in self._signals.items() if parts}
            | self._blends.result(),
            thumbnails=self._thumbnails,
            looks=self._looks,
        )

    def _after_last(self, key: str, values: np.ndarray) -> np.ndarray:
        """The batch with the last entry of the one before in front; the very first entry is put before itself."""
        joined = np.concatenate([self._last.get(key, values[0])[None], values])
        self._last[key] = values[-1]
        return joined

    def _change(self, key: str, pictures: np.ndarray) -> np.ndarray:
        """Mean absolute difference of each picture to the one before; NaN for the very first."""
        first = key not in self._last
        joined = self._after_last(key, pictures)
        rows = joined.reshape(-1, joined.shape[2])
        steps = cv2.absdiff(rows[joined.shape[1] :], rows[: -joined.shape[1]]).reshape(len(pictures), -1)
        result = steps.mean(axis=1, dtype=np.float32)
        result[:1] = np.nan if first else result[:1]
        return result


def _rate(batch: FrameBatch, facts: VideoFacts) -> float:
    """Frames a second at the start of a video."""
    steps = np.diff(batch.pts)
    return 1 / (float(np.median(steps)) * float(facts.time_base)) if len(steps) else 0.0


class _Steps:
    """Motion over steps of a tenth of a second: the global shift, and the motion of blocks where the codec tells none."""

    def __init__(self, facts: VideoFacts, first: int, width: int, height: int):
        self.time_base, self.first = float(facts.time_base), first
        self.next_step = 0.0
        self.window = cv2.createHanningWindow((width, height), cv2.CV_32F)
        self.flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self.before: np.ndarray | None = None
        self.frames_since = 0

    def measure(self, batch: FrameBatch, contrast: np.ndarray) -> dict[str, np.ndarray]:
        """shift_x, shift_y and block_motion of a batch."""
        pictures = batch.luma
        x, y = np.full(len(pictures), np.nan), np.full(len(pictures), np.nan)
        motion = batch.block_motion
        codec_tells = bool(np.isfinite(motion).any())
        if not codec_tells:
            motion = motion.copy()
        height, width = pictures.shape[1:]
        for i, now in enumerate((batch.pts - self.first) * self.time_base):
            self.frames_since += 1
            if now < self.next_step - JITTER_SECONDS:
                continue
            picture = pictures[i]
            if self.before is not None:
                if contrast[i] > 2:  # else there is nothing to hold on to
                    (dx, dy), response = cv2.phaseCorrelate(
                        self.before.astype(np.float32), picture.astype(np.float32), self.window
                    )
                    if response > 0.1:
                        x[i], y[i] = dx / width, dy / height
                if not codec_tells and min(picture.shape) >= SMALLEST_FLOW:
                    field: Any = self.flow.calc(self.before, picture, None)  # type: ignore[call-overload]
                    share = (
                        100 * np.hypot(field[..., 0], field[..., 1]).mean() / (max(width, height) * self.frames_since)
                    )
                    motion[i] = np.exp(FLOW_INTERCEPT) * share**FLOW_SLOPE
            self.before, self.frames_since = picture, 0
            self.next_step = now + STEP_SECONDS
        return {"shift_x": x, "shift_y": y, "block_motion": motion}


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL_LONG_SIDE / max(picture.shape)
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _samples(batch: FrameBatch) -> dict[str, np.ndarray]:
    result = {name: np.full(len(batch.pts), np.nan) for name in SAMPLED_SIGNALS}
    for sample in batch.samples:
        i, picture = sample.index, sample.luma
        left, right, top, bottom = _borders(picture)
        inner = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
        height, width = picture.shape
        if inner.size < picture.size // 8:
            continue  # a picture that is nearly all dark says nothing
        result["sharpness"][i] = cv2.Laplacian(np.ascontiguousarray(inner), cv2.CV_32F)[2:-2, 2:-2].var()
        sides = (left / width, right / width, top / height, bottom / height)
        for name, side in zip(("left", "right", "top", "bottom"), sides, strict=True):
            result[f"border_{name}"][i] = side
        result["blockiness"][i] = _blockiness(sample.detail)
        result["noise"][i] = _noise(sample.detail)
    return result


def _blockiness(detail: np.ndarray) -> float:
    """Luma steps between columns 7|8, 15|16, ... over the steps elsewhere, less 1. NaN for a flat or narrow picture."""
    columns = detail.shape[1] // 8 * 8
    if columns < 64:
        return float("nan")
    steps = cv2.absdiff(detail[:, 1:columns], detail[:, : columns - 1]).mean(axis=0, dtype=np.float32)
    on_grid = steps[7::8].mean()
    inside = np.delete(steps, np.s_[7::8]).mean()
    return float(on_grid / inside - 1) if inside > 0.1 else float("nan")


def _noise(detail: np.ndarray) -> float:
    """Standard deviation of noise (Immerkaer 1996) in the flattest tenth of 32x32 blocks: texture is not noise."""
    rows, columns = (side // 32 * 32 for side in detail.shape)
    if not rows or not columns:
        return float("nan")
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = np.abs(cv2.filter2D(detail[:rows, :columns], cv2.CV_32F, kernel))
    blocks = response.reshape(rows // 32, 32, columns // 32, 32).mean(axis=(1, 3))
    return float(np.sqrt(np.pi / 2) / 6 * np.percentile(blocks, 10))


def _borders(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Widths in pixels of the dark rims with a straight edge: left, right, top, bottom. A wholly dark picture has rims that meet."""
    lit = picture > DARK
    columns, rows = lit.mean(axis=0) > LIT_SHARE, lit.mean(axis=1) > LIT_SHARE
    if not columns.any() or not rows.any():
        return picture.shape[1] // 2, picture.shape[1] // 2, picture.shape[0] // 2, picture.shape[0] // 2
    left, right, top, bottom = (
        int(columns.argmax()),
        int(columns[::-1].argmax()),
        int(rows.argmax()),
        int(rows[::-1].argmax()),
    )
    turned = picture.T
    return (
        left if _straight_edge(turned[left:]) else 0,
        right if _straight_edge(turned[: len(turned) - right][::-1]) else 0,
        top if _straight_edge(picture[top:]) else 0,
        bottom if _straight_edge(picture[: len(picture) - bottom][::-1]) else 0,
    )


def _straight_edge(lines: np.ndarray) -> bool:
    """Whether a picture begins at once: a bar ends on one line, a shadow fades over many. The first lines inside, [lines, pixels]."""
    return bool((lines[:4].max(axis=0) > DARK).mean() >= EDGE_SHARE)
