"""A step is a function of its number."""

from dataclasses import dataclass, replace

import pytest

from training.data.buckets import BucketTable, DurationRule, Size, demo_buckets, paper_buckets
from training.data.groups import share
from training.data.keys import Key
from training.data.plan import BatchSize, Plan, check_splits, plan


@dataclass(frozen=True)
class Small:
    buckets: BucketTable
    batch: BatchSize
    fps_tag: bool = True


TWO_LENGTHS = BucketTable(
    durations=(
        DurationRule(min_seconds=4, max_seconds=None, frames=32, fps=8),
        DurationRule(min_seconds=2, max_seconds=4, frames=16, fps=8),
    ),
    sizes=(Size(height=64, width=64), Size(height=64, width=112)),
)


def rows(count):
    return [
        {
            "clip_id": f"{i:032x}", "video_id": f"v{i}", "duplicate_group": f"g{i}", "split": "train", "caption": f"clip {i}",
            "start_seconds": 1.0, "end_seconds": 3.5 + 2 * (i % 2), "fps": 24.0, "width": 640, "height": 640 if i % 3 else 360,
        }
        for i in range(count)
    ]  # fmt: skip


RECIPE = Small(TWO_LENGTHS, BatchSize(videos=3, images=1))


def test_a_step_needs_nothing_but_its_number():
    whole = Plan(rows(25), RECIPE, seed=7)
    forwards = [whole.step(s) for s in range(40)]

    assert [whole.step(s) for s in reversed(range(40))] == forwards[::-1]
    assert plan(rows(25), RECIPE, 7, 31) == forwards[31]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_number_of_workers_computes_the_same_samples(size):
    for step in range(10):
        samples = plan(rows(25), RECIPE, 7, step)
        parts = [share(samples, rank, size) for rank in range(size)]
        counted = [s for part in parts for group in part for s, weight in group if weight]

        assert sorted(counted, key=lambda s: s.slot) == samples
        shapes = {tuple((group[0][0].bucket, len(group)) for group in part) for part in parts}
        assert len(shapes) == 1, "every worker runs the same shapes, as often"


def test_an_epoch_shows_every_row_once_and_says_what_is_left_over():
    recipe = Small(demo_buckets(), BatchSize(videos=4))
    whole = Plan(rows(22), recipe, seed=0)

    assert whole.batches_per_epoch == 5
    assert whole.leftovers == {"16f8fps-64x64": 2}
    epochs = [[s.row for step in range(5 * e, 5 * e + 5) for s in whole.step(step)] for e in range(3)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert set(range(22)) == {row for epoch in epochs for row in epoch}, "others are left out each time"


def test_every_bucket_is_visited_and_a_batch_has_one_shape_beside_its_images():
    whole = Plan(rows(25), RECIPE, seed=1)
    seen = set()
    for step in range(whole.batches_per_epoch):
        samples = whole.step(step)
        assert len({s.bucket for s in samples[:3]}) == 1
        assert [s.bucket.frames for s in samples[3:]] == [1]
        seen.add(samples[0].bucket)
    assert seen == set(whole.members)


def test_fewer_rows_than_a_batch_are_repeated():
    whole = Plan(rows(2), Small(demo_buckets(), BatchSize(videos=5)), seed=0)

    assert sorted(s.row for s in whole.step(0))[0:2] == [0, 0]
    assert len(whole.step(0)) == 5
    assert whole.leftovers == {"16f8fps-64x64": -3}


def test_the_hash_names_the_plan():
    first = Plan(rows(10), RECIPE, seed=0).hash()

    assert Plan(rows(10), RECIPE, seed=0).hash() == first
    assert Plan(rows(10), RECIPE, seed=1).hash() != first
    assert Plan(rows(11), RECIPE, seed=0).hash() != first
    assert Plan(rows(10), replace(RECIPE, batch=BatchSize(videos=2)), seed=0).hash() != first
    recaptioned = [row | {"caption": "other"} for row in rows(10)]
    assert Plan(recaptioned, RECIPE, seed=0).hash() != first


def test_the_caption_carries_the_rate_as_a_tag():
    assert plan(rows(6), RECIPE, 0, 0)[0].caption.startswith("FPS-8 clip ")
    assert plan(rows(6), replace(RECIPE, fps_tag=False), 0, 0)[0].caption.startswith("clip ")


def test_keys_never_share_their_numbers():
    keys = [
        Key(seed=seed, purpose=purpose, step=step, slot=slot)
        for seed in (0, 1) for purpose in ("noise", "timestep") for step in (0, 1) for slot in (0, 1)
    ]  # fmt: skip
    drawn = [key.uniform() for key in keys]

    assert len(set(drawn)) == len(drawn)
    assert [key.uniform() for key in keys] == drawn


def test_noise_is_gaussian():
    noise = Key(seed=0, purpose="noise", step=3).normal((4, 50, 50))

    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    assert noise.min() < -2, "uniform noise would not go there"


def test_rows_that_fit_no_bucket_are_excluded_with_a_reason():
    slow = rows(3)[0] | {"fps": 12.0, "end_seconds": 9.0}
    whole = Plan([slow], Small(paper_buckets(256), BatchSize(videos=1)), seed=0)

    assert whole.excluded == {slow["clip_id"]: "native rate 12 fps is below 16"}
    with pytest.raises(ValueError, match="no clip of this snapshot fits"):
        whole.step(0)


def test_overlapping_splits_are_refused():
    clean = rows(4)
    clean[3]["split"] = "validation"
    check_splits(clean)

    for column, value in (("video_id", "v0"), ("duplicate_group", "g1")):
        with pytest.raises(ValueError, match=f"{column}.*both the train and the validation split"):
            check_splits([*clean[:3], clean[3] | {column: value}])
