"""Spans and cutting: integer time stamps, half-open, and never longer than promised."""

from fractions import Fraction

import numpy as np
import pytest

from curation.clips.strip import Strip
from curation.clips.time import Clock, clip_id
from curation.shots.lengths import cut_clips


def _strip(frames: int, fps: int = 30, start: int = 48_600) -> Strip:
    base = Fraction(1, 90_000)
    pts = start + np.arange(frames, dtype=np.int64) * (90_000 // fps)
    clock = Clock(pts=pts, end_pts=int(pts[-1]) + 90_000 // fps, time_base=base)
    return Strip(video_id="v", clock=clock, keyframes=np.zeros(frames, bool), signals={})


def test_every_video_starts_at_zero_and_ends_after_its_last_frame() -> None:
    clock = _strip(90).clock
    assert clock.frame_seconds[0] == 0 and clock.duration_seconds == pytest.approx(3.0)
    assert clock.frame_end_pts(89) == clock.end_pts and clock.frame_end_pts(0) == clock.pts[1]


def test_shots_are_half_open_and_cover_every_frame_once() -> None:
    pieces = cut_clips(_strip(300), [100, 250], clip_max_seconds=16)
    assert [(p.start_frame, p.end_frame) for p in pieces] == [(0, 100), (100, 250), (250, 300)]
    assert [p.shot_rank for p in pieces] == [2, 1, 3]


def test_a_long_shot_gives_its_middle_and_no_frame_more() -> None:
    strip = _strip(30 * 40)
    [piece] = cut_clips(strip, [], clip_max_seconds=16)
    start, end = strip.clock.pts[piece.start_frame], strip.clock.frame_end_pts(piece.end_frame - 1)
    assert float((end - start) * strip.clock.time_base) == pytest.approx(16.0)
    assert piece.start_frame == pytest.approx(12 * 30, abs=1) and piece.shot_seconds == pytest.approx(40.0)


def test_the_head_of_a_video_belongs_to_no_clip() -> None:
    pieces = cut_clips(_strip(300), [30, 150], clip_max_seconds=16, drop_head_seconds=2.0)
    assert [(p.start_frame, p.end_frame) for p in pieces] == [(60, 150), (150, 300)]


def test_identity_changes_with_every_part_of_a_span() -> None:
    base = ("v", 0, 0, 100, Fraction(1, 30))
    others = [("w", 0, 0, 100, Fraction(1, 30)), ("v", 1, 0, 100, Fraction(1, 30)), ("v", 0, 1, 100, Fraction(1, 30)),
              ("v", 0, 0, 101, Fraction(1, 30)), ("v", 0, 0, 100, Fraction(1, 25))]  # fmt: skip
    assert len({clip_id(*base), *(clip_id(*other) for other in others)}) == 6
