"""Which shape a clip is trained in."""

import numpy as np
import pytest

from training.data.buckets import (
    Bucket,
    BucketTable,
    DurationRule,
    Size,
    demo_buckets,
    grid_starts,
    grid_times,
    paper_buckets,
    sampled_fps,
    window_times,
)


def clip(seconds, fps=24.0, width=1920, height=1080):
    return {"start_seconds": 5.0, "end_seconds": 5.0 + seconds, "fps": fps, "width": width, "height": height}


@pytest.mark.parametrize(
    ("seconds", "frames", "fps"),
    [
        (20.0, 256, 16.0), (16.0, 256, 16.0), (15.99, 256, 16.0), (15.9, 256, 256 / 15.9), (12.0, 256, 256 / 12.0),
        (11.0, 256, 24.0), (10.67, 256, 24.0), (10.0, 192, 19.2), (8.0, 192, 24.0), (7.9, 128, 128 / 7.9), (4.0, 128, 32.0),
    ],
)  # fmt: skip
def test_the_papers_duration_table(seconds, frames, fps):
    row = clip(seconds)
    bucket = paper_buckets(768).assign(row)

    assert isinstance(bucket, Bucket)
    assert bucket.frames == frames
    assert sampled_fps(row, bucket) == pytest.approx(fps)


def test_too_short_and_too_slow_have_a_reason():
    assert paper_buckets(256).assign(clip(3.0)) == "3.00 s fits no duration bucket; the shortest starts at 4 s"
    assert paper_buckets(256).assign(clip(9.0, fps=15.0)) == "native rate 15 fps is below 16"
    assert isinstance(paper_buckets(256).assign(clip(9.0, fps=16.0)), Bucket)
    assert isinstance(demo_buckets().assign(clip(9.0, fps=5.0)), Bucket), "the demo takes what there is"


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (1920, 1080, (576, 1024)),
        (1080, 1920, (1024, 576)),
        (500, 500, (768, 768)),
        (640, 480, (640, 896)),
        (480, 640, (896, 640)),
    ],
)
def test_the_nearest_aspect_wins(width, height, size):
    bucket = paper_buckets(768).assign(clip(9.0, width=width, height=height))

    assert (bucket.height, bucket.width) == size


def test_the_crop_box_decides_the_aspect():
    letterboxed = clip(9.0, width=1440, height=1440) | {"crop_width": 1440, "crop_height": 810}

    assert paper_buckets(768).assign(letterboxed).width == 1024


@pytest.mark.parametrize("resolution", [256, 768])
def test_every_papers_bucket_divides_by_eight_workers_one_frame_included(resolution):
    table = paper_buckets(resolution)
    table.check_divides(8)

    assert len([b for b in table.buckets() if b.frames > 1]) >= 15
    assert {b.frames for b in table.buckets()} == {1, 128, 192, 256}


def test_the_papers_token_counts():
    assert Bucket(frames=256, height=768, width=768).tokens == 73_728
    assert Bucket(frames=256, height=576, width=1024).tokens == 73_728
    assert Bucket(frames=256, height=256, width=256).tokens == 8_192


def test_tokens_that_do_not_divide_raise():
    with pytest.raises(ValueError, match="32 tokens, which do not divide into 3 parts"):
        demo_buckets().check_divides(3)


def test_windows_lie_in_the_middle_and_whole_clips_are_spread():
    middle = window_times(clip(20.0), Bucket(frames=256, fps=16.0, height=256, width=256))
    whole = window_times(clip(8.0), Bucket(frames=128, height=256, width=256))
    picture = window_times(clip(8.0), Bucket(frames=1, height=256, width=256))

    np.testing.assert_allclose([middle[0], middle[-1]], [2.0, 2.0 + 255 / 16])
    np.testing.assert_allclose([whole[0], whole[-1]], [0.0, 127 / 16])
    np.testing.assert_allclose(picture, [4.0])


def test_the_grid_holds_every_window_that_fits():
    bucket = Bucket(frames=16, fps=8.0, height=64, width=64)

    assert grid_starts(clip(4.0), bucket, 8.0) == 17
    assert grid_times(16, 16, 8.0)[-1] < 4.0
    assert grid_starts(clip(2.0), bucket, 8.0) == 1


def test_impossible_tables_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="the nearest that is, is 16"):
        DurationRule(min_seconds=4, max_seconds=None, frames=15, fps=8)
    with pytest.raises(ValueError, match=r"last 4\.00 s, longer than the rule's shortest clip of 2 s"):
        DurationRule(min_seconds=2, max_seconds=None, frames=32, fps=8)
    with pytest.raises(ValueError, match="100x64 does not divide by 16"):
        Size(height=64, width=100)
    with pytest.raises(ValueError, match="512 has no table"):
        paper_buckets(512)


def test_the_first_rule_that_matches_wins():
    table = BucketTable(
        durations=(
            DurationRule(min_seconds=2, max_seconds=None, frames=16, fps=8),
            DurationRule(min_seconds=4, max_seconds=None, frames=32, fps=8),
        ),
        sizes=(Size(height=64, width=64),),
    )

    assert table.assign(clip(10.0)).frames == 16
