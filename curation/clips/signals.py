"""What is measured while a video is decoded: batches of small pictures become the numbers of the strip.

numpy and OpenCV work on whole batches of frames (a batch of pictures is one tall picture to them), which costs a fifth of
working frame by frame. Nothing here knows files; `Measuring` keeps of earlier batches what differences need.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from curation.clips.blends import Blends, transition_lag
from curation.clips.frames import JITTER_SECONDS, STEP_SECONDS, FrameBatch, Sample, VideoFacts
from curation.clips.global_motion import Follower

THUMBNAIL_LONG_SIDE = 32  # pixels
DARK = 32  # luma, 16..235; a row or column that stays below is border if it ends in a straight edge
LIT_SHARE = 0.05  # of a row or column; fewer bright pixels are noise in a border
EDGE_SHARE = 0.5  # of the edge's length must be lit within four pixels; dark scenes have 0.1-0.3
# flow_motion -> the codec's vectors: log-log fit over 65 real H.264, MPEG-2 and MPEG-4 videos, Spearman 0.87, half of them within a
# factor of 1.6 (LOG.md, 2026-11-21)
FLOW_SLOPE, FLOW_INTERCEPT = 1.05, -0.59
FOLLOWED = 3.0  # blocks with texture, of about 140; fewer tell no motion
OBJECT = 0.004  # of the longer side in a tenth of a second, half a pixel of 128: what a block must do beyond the camera
BLACK, WHITE = 16, 235  # luma; pixels of video range beyond are clipped
FULL_BLACK, FULL_WHITE = 1, 254  # the same of full range

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
    "camera_x": (
        "longer sides / s",
        "the picture's shift to the right that all blocks share (curation/clips/global_motion.py)",
    ),
    "camera_y": ("longer sides / s", "the same downwards"),
    "camera_zoom": ("1/s", "growth of the picture, natural logarithm; 0.1 is 10 % a second"),
    "camera_roll": ("degrees / s", "turn of the picture, clockwise as seen"),
    "object_motion": ("longer sides / s", "mean motion of textured blocks beyond the camera's"),
    "object_share": ("0..1", "share of textured blocks that move beyond the camera's motion"),
    "incoherence": (
        "ratio",
        "change of the blocks' motion since the step before over the motion itself; 2 is at random",
    ),
    "unexplained_change": ("luma", "mean absolute luma difference that is left after the camera's motion is undone"),
    "flow_motion": ("% of the longer side per frame", "mean length of optical flow on 128-pixel pictures, any codec"),
    "block_motion": (
        "% of the longer side per frame",
        "mean length of the codec's motion vectors; where it has none, flow_motion fitted to them",
    ),
}
SAMPLED_SIGNALS = {
    "sharpness": ("luma squared", "variance of the Laplacian of 256-pixel pictures, inside any dark border"),
    "black_clipped": ("0..1", "share of the picture inside borders at or below black"),
    "white_clipped": ("0..1", "share of the picture inside borders at or above white"),
    "blockiness": ("ratio", "luma steps across the codec's 8-pixel grid over those inside it, less 1; 0 is none"),
    "noise": ("luma", "standard deviation of noise in the flattest tenth of the picture, at native size"),
    "border_left": ("widths", "width of the dark border on the left"),
    "border_right": ("widths", "width of the dark border on the right"),
    "border_top": ("heights", "height of the dark border above"),
    "border_bottom": ("heights", "height of the dark border below"),
}
PAIR_SIGNALS = {
    "native_motion": (
        "luma",
        "VMAF motion from the frame before, at native size, once a second (clips/native_motion.py)",
    ),
}
SIGNALS = {**FRAME_SIGNALS, **BLEND_SIGNALS, **STEP_SIGNALS, **SAMPLED_SIGNALS, **PAIR_SIGNALS}


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
        small = half_size(batch.luma)
        self._steps = self._steps or _Steps(facts, int(batch.pts[0]), height, width)
        self._blends = self._blends or Blends(transition_lag(_rate(batch, facts)))
        self._blends.add(small)
        pictures = picture_signals(batch, small)
        signals = {
            **pictures,
            "luma_change": self._change("small", small),
            "fine_change": self._change("luma", batch.luma),
            **self._steps.measure(batch, pictures["contrast"]),
            "native_motion": batch.native_motion,
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


def half_size(pictures: np.ndarray) -> np.ndarray:
    """Luma uint8 [F, h, w], h and w even, at half the size by area, in one call: the frames of one tall picture do not mix."""
    frames, height, width = pictures.shape
    tall = pictures.reshape(frames * height, width)
    small = cv2.resize(tall, (width // 2, frames * height // 2), interpolation=cv2.INTER_AREA)
    return small.reshape(frames, height // 2, width // 2)


def picture_signals(batch: FrameBatch, small: np.ndarray) -> dict[str, np.ndarray]:
    """What each picture shows by itself: brightness and contrast of `small`, a batch at half size, and what is sampled; float32 [F]."""
    flat = small.reshape(len(small), -1).astype(np.float32)
    brightness = flat.mean(axis=1)
    contrast = np.sqrt(np.maximum(np.einsum("fp,fp->f", flat, flat) / flat.shape[1] - brightness**2, 0))
    return {"brightness": brightness, "contrast": contrast, **_samples(batch)}


def _rate(batch: FrameBatch, facts: VideoFacts) -> float:
    """Frames a second at the start of a video."""
    steps = np.diff(batch.pts)
    return 1 / (float(np.median(steps)) * float(facts.time_base)) if len(steps) else 0.0


class _Steps:
    """Motion over steps of a tenth of a second: the camera's, the objects', and all of it."""

    def __init__(self, facts: VideoFacts, first: int, height: int, width: int):
        self.time_base, self.first = float(facts.time_base), first
        self.next_step = 0.0
        self.follower = Follower(height, width)
        self.before: tuple[np.ndarray, float] | None = None  # the last step's picture and its time
        self.frames_since = 0
        self.last_field: np.ndarray | None = None  # the blocks' whole motion in the last step

    def measure(self, batch: FrameBatch, contrast: np.ndarray) -> dict[str, np.ndarray]:
        """The step signals of a batch."""
        result = {name: np.full(len(batch.pts), np.nan) for name in STEP_SIGNALS}
        result["block_motion"][:] = batch.block_motion
        pictures: list[np.ndarray] = []
        at: list[int] = []
        seconds, frames = [], []
        for i, now in enumerate((batch.pts - self.first) * self.time_base):
            self.frames_since += 1
            if now < self.next_step - JITTER_SECONDS:
                continue
            if self.before is not None:
                pictures, at = pictures or [self.before[0]], [*at, i]
                pictures.append(batch.luma[i])
                seconds.append(now - self.before[1])
                frames.append(self.frames_since)
            self.before, self.frames_since = (batch.luma[i], now), 0
            self.next_step = now + STEP_SECONDS
        if at:
            self._fill(result, pictures, np.array(at), np.array(seconds), np.array(frames), contrast)
        return result

    def _fill(
        self,
        result: dict[str, np.ndarray],
        pictures: list[np.ndarray],
        at: np.ndarray,
        seconds: np.ndarray,
        frames: np.ndarray,
        contrast: np.ndarray,
    ) -> None:
        found = self.follower.follow(pictures)
        textured = found.weight.sum(axis=1)
        known = (textured >= FOLLOWED) & (contrast[at] > 2)  # else there is nothing to hold on to
        own = np.abs(found.own)
        moves = own > OBJECT * np.maximum(seconds / STEP_SECONDS, 1)[:, None]
        textured = np.maximum(textured, 1e-6)
        field = found.motion
        flow = 100 * np.abs(field).mean(axis=1) / frames
        values = {
            "camera_x": found.shift.real / seconds,
            "camera_y": found.shift.imag / seconds,
            "camera_zoom": np.log(np.abs(found.growth)) / seconds,
            "camera_roll": np.degrees(np.angle(found.growth)) / seconds,
            "object_motion": (found.weight * own).sum(axis=1) / textured / seconds,
            "object_share": (found.weight * moves).sum(axis=1) / textured,
            "incoherence": self._incoherence(field / seconds[:, None], found.weight),
        }
        for name, numbers in values.items():
            result[name][at] = np.where(known, numbers, np.nan)
        result["unexplained_change"][at] = found.unexplained
        result["flow_motion"][at] = flow
        if not np.isfinite(result["block_motion"]).any():
            result["block_motion"][at] = np.exp(FLOW_INTERCEPT) * flow**FLOW_SLOPE

    def _incoherence(self, field: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Of each step against the one before, float32 [S]; NaN for a video's first."""
        before = np.concatenate([field[:1] * np.nan if self.last_field is None else self.last_field[None], field[:-1]])
        self.last_field = field[-1]
        change = (weight * np.abs(field - before)).sum(axis=1)
        return change / np.maximum((weight * (np.abs(field) + np.abs(before)) / 2).sum(axis=1), 1e-9)


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL_LONG_SIDE / max(picture.shape)
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _samples(batch: FrameBatch) -> dict[str, np.ndarray]:
    result = {name: np.full(len(batch.pts), np.nan, np.float32) for name in SAMPLED_SIGNALS}
    seen: list[Sample] = []
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
        black, white = (FULL_BLACK, FULL_WHITE) if sample.full_range else (BLACK, WHITE)
        result["black_clipped"][i] = np.count_nonzero(inner <= black) / inner.size
        result["white_clipped"][i] = np.count_nonzero(inner >= white) / inner.size
        result["blockiness"][i] = _blockiness(sample.detail)
        seen.append(sample)
    result["noise"][[sample.index for sample in seen]] = _noise([sample.detail for sample in seen])
    return result


def _blockiness(detail: np.ndarray) -> float:
    """Luma steps between columns 7|8, 15|16, ... over the steps elsewhere, less 1. NaN for a flat or narrow picture."""
    columns = detail.shape[1] // 8 * 8
    if columns < 64:
        return float("nan")
    steps = cv2.absdiff(detail[:, 1:columns], detail[:, : columns - 1]).mean(axis=0, dtype=np.float32)
    on_grid = steps[7::8].mean()
    inside = steps[np.arange(len(steps)) % 8 != 7].mean()
    return float(on_grid / inside - 1) if inside > 0.1 else float("nan")


def _noise(details: Sequence[np.ndarray]) -> np.ndarray:
    """Standard deviation of noise in the flattest tenth of each picture's blocks, float64 [S]: texture is not noise. NaN for small pictures."""
    blocks = [_roughness(detail) for detail in details]
    result = np.full(len(details), np.nan)
    for size in {each.size for each in blocks if each.size}:  # a percentile of many pictures costs about that of one
        alike = [number for number, each in enumerate(blocks) if each.size == size]
        flattest = np.percentile(np.stack([blocks[number] for number in alike]), 10, axis=1)
        result[alike] = np.sqrt(np.pi / 2) / 6 * flattest
    return result


def _roughness(detail: np.ndarray) -> np.ndarray:
    """Mean response of each 32x32 block to the filter of Immerkaer (1996), float32 [blocks]."""
    rows, columns = (side // 32 * 32 for side in detail.shape)
    if not rows or not columns:
        return np.empty(0, np.float32)
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    response = cv2.convertScaleAbs(cv2.filter2D(detail[:rows, :columns], cv2.CV_16S, kernel)).astype(np.float32)
    return cv2.resize(response, (columns // 32, rows // 32), interpolation=cv2.INTER_AREA).ravel()


def _borders(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Widths in pixels of the dark rims with a straight edge: left, right, top, bottom. A wholly dark picture has rims that meet."""
    height, width = picture.shape
    lit = (picture > DARK).view(np.uint8)
    # OpenCV counts in a seventh of numpy's time
    columns = cv2.reduce(lit, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0] / height > LIT_SHARE
    rows = cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0] / width > LIT_SHARE
    if not columns.any() or not rows.any():
        return width // 2, width // 2, height // 2, height // 2
    left, right, top, bottom = (
        int(columns.argmax()),
        int(columns[::-1].argmax()),
        int(rows.argmax()),
        int(rows[::-1].argmax()),
    )
    turned = lit.T
    return (
        left if left and _straight_edge(turned[left:]) else 0,
        right if right and _straight_edge(turned[: width - right][::-1]) else 0,
        top if top and _straight_edge(lit[top:]) else 0,
        bottom if bottom and _straight_edge(lit[: height - bottom][::-1]) else 0,
    )


def _straight_edge(lit: np.ndarray) -> bool:
    """Whether a picture begins at once: a bar ends on one line, a shadow fades over many. The first lines inside, 0 or 1 [lines, pixels]."""
    return bool(lit[:4].max(axis=0).mean() >= EDGE_SHARE)
