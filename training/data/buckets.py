"""Duration x aspect x resolution: which shape a clip is trained in, and which of its frames are taken."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class DurationRule:
    """Clips of at least `min_seconds` and, unless None, less than `max_seconds` become `frames` frames.

    With `fps` the frames are a middle cut at that rate; without, the whole clip is sampled evenly. A clip may be
    shorter than `min_seconds` by half a frame: an encoder's "16 seconds" often lacks that much.
    """

    min_seconds: float
    max_seconds: float | None
    frames: int
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.frames != 1 and self.frames % 8:
            raise ValueError(
                f"frames={self.frames} is not 1 or a multiple of 8, the lengths the autoencoder is trained on; "
                f"the nearest that is, is {max(1, round(self.frames / 8)) * 8}"
            )
        if self.fps is not None and self.frames / self.fps > self.min_seconds + 1e-2:
            raise ValueError(
                f"{self.frames} frames at {self.fps:g} fps last {self.frames / self.fps:.2f} s, longer than the rule's "
                f"shortest clip of {self.min_seconds:g} s; raise min_seconds or fps, or take fewer frames"
            )


@dataclass(frozen=True, kw_only=True)
class Size:
    """A picture size, in pixels. Both sides divide by 16: 8 for the autoencoder, 2 for the patch."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height % 16 or self.width % 16:
            raise ValueError(
                f"{self.width}x{self.height} does not divide by 16 on both sides (8 for the autoencoder, 2 for the patch)"
            )


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One shape: every sample of a bucket stacks with every other."""

    frames: int
    height: int
    width: int
    fps: float | None = None

    @property
    def name(self) -> str:
        """For people, files and logs: `128f-192x352`, or `16f8fps-64x64` when the rate is fixed."""
        rate = f"{self.fps:g}fps" if self.fps else ""
        return f"{self.frames}f{rate}-{self.height}x{self.width}"

    @property
    def tokens(self) -> int:
        """Tokens after the autoencoder (8 x 8 x 8) and the patch (1 x 2 x 2)."""
        return math.ceil(self.frames / 8) * (self.height // 16) * (self.width // 16)

    def image(self) -> "Bucket":
        """The same picture size, one frame."""
        return Bucket(frames=1, height=self.height, width=self.width)


@dataclass(frozen=True, kw_only=True)
class BucketTable:
    """Durations in order (first match wins) by sizes (nearest aspect wins)."""

    durations: tuple[DurationRule, ...]
    sizes: tuple[Size, ...]
    min_native_fps: float | None = None

    def assign(self, clip: Mapping[str, Any]) -> Bucket | str:
        """The bucket of one row of kept clips, or one sentence saying why it has none."""
        seconds, fps = clip["end_seconds"] - clip["start_seconds"], clip["fps"]
        if self.min_native_fps is not None and fps < self.min_native_fps - 1e-6:
            return f"native rate {fps:.3g} fps is below {self.min_native_fps:g}"
        slack = 0.5 / fps if fps else 0.0
        for rule in self.durations:
            if seconds >= rule.min_seconds - slack and (rule.max_seconds is None or seconds < rule.max_seconds - slack):
                size = self._nearest_size(clip)
                return Bucket(frames=rule.frames, fps=rule.fps, height=size.height, width=size.width)
        shortest = min(rule.min_seconds for rule in self.durations)
        return f"{seconds:.2f} s fits no duration bucket; the shortest starts at {shortest:g} s"

    def _nearest_size(self, clip: Mapping[str, Any]) -> Size:
        width, height = clip.get("crop_width") or clip["width"], clip.get("crop_height") or clip["height"]
        return min(self.sizes, key=lambda size: abs(math.log(width / height) - math.log(size.width / size.height)))

    def buckets(self) -> tuple[Bucket, ...]:
        """Every bucket of the table, one frame included: what a model trained on it has seen."""
        videos = [
            Bucket(frames=rule.frames, fps=rule.fps, height=size.height, width=size.width)
            for rule in self.durations
            for size in self.sizes
        ]
        return tuple(dict.fromkeys([*videos, *(bucket.image() for bucket in videos)]))

    def check_divides(self, parts: int) -> None:
        """Raise unless every bucket's tokens, one frame included, divide into `parts` (tensor x context parallel)."""
        for bucket in self.buckets():
            if bucket.tokens % parts:
                raise ValueError(
                    f"bucket {bucket.name} has {bucket.tokens} tokens, which do not divide into {parts} parts"
                )


def sampled_fps(clip: Mapping[str, Any], bucket: Bucket) -> float:
    """Frames per second as the model sees them: the bucket's rate, or the one that spreads it over the clip."""
    if bucket.frames == 1:
        return 0.0
    return bucket.fps or bucket.frames / (clip["end_seconds"] - clip["start_seconds"])


def window_times(clip: Mapping[str, Any], bucket: Bucket) -> np.ndarray:
    """Seconds from the clip's start of the bucket's one window in this clip, float64 [frames].

    A function of (row, bucket) alone, so latents are cached once: a middle cut at the bucket's rate, the whole clip,
    or the middle frame for an image.
    """
    seconds = clip["end_seconds"] - clip["start_seconds"]
    if bucket.frames == 1:
        return np.array([seconds / 2])
    fps = sampled_fps(clip, bucket)
    start = max(0.0, (seconds - bucket.frames / fps) / 2)
    return start + np.arange(bucket.frames) / fps


def grid_starts(clip: Mapping[str, Any], bucket: Bucket, fps: float) -> int:
    """How many windows of `bucket.frames` frames start on the clip's grid of `fps` frames a second; at least 1."""
    seconds = clip["end_seconds"] - clip["start_seconds"]
    return max(1, math.floor(seconds * fps + 0.5) - bucket.frames + 1)


def grid_times(start: int, frames: int, fps: float) -> np.ndarray:
    """Seconds from the clip's start of `frames` grid points beginning at `start`, float64 [frames]."""
    return (start + np.arange(frames)) / fps


_PAPER_DURATIONS = (  # Movie Gen, Table 2; native rates below 16 fps are excluded (section 4.4: FPS buckets 16-32)
    DurationRule(min_seconds=16.0, max_seconds=None, frames=256, fps=16.0),
    DurationRule(min_seconds=12.0, max_seconds=16.0, frames=256),
    DurationRule(min_seconds=10.67, max_seconds=12.0, frames=256, fps=24.0),
    DurationRule(min_seconds=8.0, max_seconds=10.67, frames=192),
    DurationRule(min_seconds=4.0, max_seconds=8.0, frames=128),
)


def paper_buckets(resolution: int) -> BucketTable:
    """The five durations by five aspects of the paper at 256 or 768 px (of equal area). Aspects beyond 16:9 are ours."""
    landscape = {256: ((192, 352), (224, 320)), 768: ((576, 1024), (640, 896))}  # 16:9 and 4:3, tokens divide by 8
    if resolution not in landscape:
        raise ValueError(f"resolution={resolution} has no table; the paper trains at 256 and 768")
    sides = [(resolution, resolution), *landscape[resolution], *((w, h) for h, w in landscape[resolution])]
    sizes = tuple(Size(height=height, width=width) for height, width in sides)
    return BucketTable(durations=_PAPER_DURATIONS, sizes=sizes, min_native_fps=16.0)


def demo_buckets(frames: int = 16, fps: float = 8.0, side: int = 64) -> BucketTable:
    """One small square shape: the middle two seconds of any clip long enough. Slow native rates are welcome."""
    rule = DurationRule(min_seconds=frames / fps, max_seconds=None, frames=frames, fps=fps)
    return BucketTable(durations=(rule,), sizes=(Size(height=side, width=side),))
