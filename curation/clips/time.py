"""Presentation time: integer time stamps are the truth, seconds are derived, spans are half-open.

Frame index: 0-based among the frames presented after edit lists. Seconds: (pts - pts of the first presented frame) x time base,
so every video starts at 0. The end of a span is the pts of the next frame, or the last pts plus its duration.
"""

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The time stamps of one video stream.

    pts: int64 [F], strictly increasing, of the presented frames. end_pts: where the last frame's showing ends.
    time_base: seconds per unit.
    """

    pts: np.ndarray
    end_pts: int
    time_base: Fraction

    def __len__(self) -> int:
        return len(self.pts)

    def seconds(self, pts: int) -> float:
        return float((int(pts) - int(self.pts[0])) * self.time_base)

    @cached_property
    def frame_seconds(self) -> np.ndarray:
        """Start of every frame, float64 [F], the first at 0."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    @property
    def duration_seconds(self) -> float:
        """What was decoded, never what a container claims."""
        return self.seconds(self.end_pts)

    def frame_end_pts(self, frame: int) -> int:
        """Where the showing of `frame` ends: the pts of the next frame, or the end of the video."""
        return int(self.pts[frame + 1]) if frame + 1 < len(self.pts) else int(self.end_pts)


def clip_id(video_id: str, stream_index: int, start_pts: int, end_pts: int, time_base: Fraction) -> str:
    """Identity of a clip: the first 128 bits of the SHA-256 of its video, stream, span and time base, in hex."""
    text = f"{video_id}/{stream_index}/{start_pts}/{end_pts}/{time_base.numerator}/{time_base.denominator}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
