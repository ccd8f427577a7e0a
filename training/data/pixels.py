"""Pixels of a sample: a window of its clip that moves with the step, for training the autoencoder."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from curation.clips import UnreadableVideo, read_frames
from training.data.buckets import Bucket, grid_starts, grid_times, sampled_fps, window_times
from training.data.plan import Plan, Sample
from training.data.source import check_source


def to_signal(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] as the networks see them: float32 [3, T, H, W] in [-1, 1]."""
    return np.ascontiguousarray(frames.transpose(3, 0, 1, 2), dtype=np.float32) / 127.5 - 1.0


def to_frames(signal: np.ndarray) -> np.ndarray:
    """The way back: float [3, T, H, W] in [-1, 1], clipped and rounded, to uint8 [T, H, W, 3]."""
    return np.rint((np.clip(signal, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 3, 0)


def pixel_shape(bucket: Bucket) -> tuple[int, int, int, int]:
    """[3, T, H, W] of a sample of this bucket."""
    return 3, bucket.frames, bucket.height, bucket.width


def read_window(clip: Mapping[str, Any], bucket: Bucket) -> np.ndarray:
    """The bucket's one window of a clip, uint8 [T, H, W, 3]; raises UnreadableVideo."""
    return _read(clip, window_times(clip, bucket), bucket)


def _read(clip: Mapping[str, Any], times: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Frames of the very file that was curated: another one in its place would be trained on without a word."""
    check_source(clip)
    return read_frames(clip, times.tolist(), bucket.height, bucket.width)


class WindowReader:
    """Windows at the step's own place on the clip's frame grid, float32 [3, T, H, W].

    Sets whose whole clips fit in `memory_bytes` are decoded once and kept; larger ones decode each window when it is
    asked for. Both give the same frames.
    """

    def __init__(self, plan: Plan, memory_bytes: int = 1 << 30):
        self.plan = plan
        self.kept: dict[int, np.ndarray | UnreadableVideo] = {}
        self.locks = {row: threading.Lock() for row in plan.bucket_of}
        self.keep_all = sum(self._bytes(row) for row in plan.bucket_of) <= memory_bytes

    def __call__(self, sample: Sample) -> np.ndarray:
        clip = self.plan.rows[sample.row]
        fps = self._fps(sample.row)
        starts = grid_starts(clip, sample.bucket, fps)
        start = min(int(sample.key("window").uniform() * starts), starts - 1)
        if not self.keep_all:
            return to_signal(_read(clip, grid_times(start, sample.bucket.frames, fps), sample.bucket))
        return to_signal(self._whole(sample.row)[start : start + sample.bucket.frames])

    def _fps(self, row: int) -> float:
        return sampled_fps(self.plan.rows[row], self.plan.bucket_of[row])

    def _grid(self, row: int) -> int:
        bucket = self.plan.bucket_of[row]
        return grid_starts(self.plan.rows[row], bucket, self._fps(row)) + bucket.frames - 1

    def _bytes(self, row: int) -> int:
        bucket = self.plan.bucket_of[row]
        return self._grid(row) * bucket.height * bucket.width * 3

    def _whole(self, row: int) -> np.ndarray:
        with self.locks[row]:
            if row not in self.kept:
                bucket = self.plan.bucket_of[row]
                try:
                    self.kept[row] = _read(self.plan.rows[row], grid_times(0, self._grid(row), self._fps(row)), bucket)
                except UnreadableVideo as error:
                    self.kept[row] = error
        found = self.kept[row]
        if isinstance(found, UnreadableVideo):
            raise found
        return found
