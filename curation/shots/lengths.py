"""Shots become clips: one clip from the middle of every shot, bounded in length. Pure arithmetic on time stamps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from curation.clips.strip import Strip


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A clip as frames of its video (half-open), and the shot it was taken from."""

    start_frame: int
    end_frame: int
    shot_seconds: float
    shot_rank: int  # 1 is the longest shot of the video


def cut_clips(
    strip: Strip, cut_frames: Sequence[int], clip_max_seconds: float, drop_head_seconds: float = 0.0
) -> list[Piece]:
    """One piece per shot, in time order; longer shots give their middle `clip_max_seconds`.

    The first `drop_head_seconds` of a video belong to no clip (titles and fades live there). Every frame else belongs to exactly
    one shot, and short shots are pieces too: that they are too short is for a rule to say.
    """
    seconds = np.append(strip.clock.frame_seconds, strip.clock.duration_seconds)
    head = int(np.searchsorted(seconds[:-1], drop_head_seconds - 1e-9)) if drop_head_seconds > 0 else 0
    head = head if head < len(strip) else 0
    edges = [head, *(f for f in cut_frames if f > head), len(strip)]
    shots = [(a, b) for a, b in itertools.pairwise(edges) if b > a]
    lengths = [float(seconds[b] - seconds[a]) for a, b in shots]
    ranks = {
        index: rank for rank, index in enumerate(sorted(range(len(shots)), key=lambda i: (-lengths[i], i)), start=1)
    }
    pieces = []
    for index, (start, end) in enumerate(shots):
        if lengths[index] > clip_max_seconds + 1e-6:
            from_second = seconds[start] + (lengths[index] - clip_max_seconds) / 2
            start = int(np.searchsorted(seconds[:-1], from_second - 1e-9))
            # one frame too many would break the promise "at most clip_max_seconds"
            end = max(
                start + 1, int(np.searchsorted(seconds, seconds[start] + clip_max_seconds + 1e-6, side="right")) - 1
            )
        pieces.append(Piece(start_frame=start, end_frame=end, shot_seconds=lengths[index], shot_rank=ranks[index]))
    return pieces
