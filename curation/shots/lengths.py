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
    shot_seconds: float  # without the frames of transitions
    shot_rank: int  # 1 is the longest shot of the video


def cut_clips(
    strip: Strip,
    cut_frames: Sequence[int],
    clip_max_seconds: float,
    drop_head_seconds: float = 0.0,
    gradual: Sequence[tuple[int, int]] = (),
) -> list[Piece]:
    """One piece per shot, in time order; longer shots give their middle `clip_max_seconds`.

    The first `drop_head_seconds` of a video belong to no clip (titles live there), nor do the frames of gradual transitions: a
    dissolve ends one shot and begins the next, a fade at the video's start or end is trimmed from its shot. Every frame else
    belongs to exactly one shot, and short shots are pieces too: that they are too short is for a rule to say.
    """
    seconds = np.append(strip.clock.frame_seconds, strip.clock.duration_seconds)
    head = int(np.searchsorted(seconds[:-1], drop_head_seconds - 1e-9)) if drop_head_seconds > 0 else 0
    head = head if head < len(strip) else 0
    shots = shot_spans(len(strip), cut_frames, gradual, head)
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


def shot_spans(
    frames: int, cut_frames: Sequence[int], gradual: Sequence[tuple[int, int]] = (), head: int = 0
) -> list[tuple[int, int]]:
    """The shots of a video of so many frames as half-open spans in order: what cuts, gradual spans and the dropped head leave."""
    taken = np.zeros(frames, bool)
    taken[:head] = True
    for start, end in gradual:
        taken[max(0, start) : end] = True
    begins = np.zeros(frames, bool)
    begins[[frame for frame in cut_frames if 0 <= frame < frames]] = True
    # a frame begins a shot if it is free and is a cut, or follows a frame that is not free
    begins = ~taken & (begins | np.concatenate([[True], taken[:-1]]))
    spans = []
    for start, following in itertools.pairwise([*np.flatnonzero(begins), frames]):
        inside = np.flatnonzero(taken[start:following])
        spans.append((int(start), int(start + inside[0]) if len(inside) else int(following)))
    return spans
