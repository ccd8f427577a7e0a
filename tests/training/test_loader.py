"""What reaches the training step is the same on any number of workers, after a restart at any step, and in time."""

import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from curation.clips import UnreadableVideo
from training.data.buckets import Bucket, BucketTable, DurationRule, Size
from training.data.loader import Loader
from training.data.plan import BatchSize, Plan, Sample
from training.data.recent import RecentlyUsed
from training.objectives.flow import flow_times
from training.recipes import video_demo

SHAPES = BucketTable(
    durations=(
        DurationRule(min_seconds=4, max_seconds=None, frames=32, fps=8),
        DurationRule(min_seconds=2, max_seconds=4, frames=16, fps=8),
    ),
    sizes=(Size(height=64, width=64), Size(height=64, width=112)),
)
STEPS = 12


def make_plan(videos: int, images: int, seed: int) -> Plan:
    rows = [
        {
            "clip_id": f"{i:032x}", "video_id": f"v{i}", "duplicate_group": f"g{i}", "split": "train", "caption": f"clip {i}",
            "start_seconds": 0.0, "end_seconds": 2.5 + 2 * (i % 2), "fps": 24.0, "width": 64, "height": 64 if i % 3 else 36,
        }
        for i in range(23)
    ]  # fmt: skip
    return Plan(rows, replace(video_demo(), buckets=SHAPES, batch=BatchSize(videos=videos, images=images)), seed)


def noise_of(sample: Sample) -> np.ndarray:
    """Stands for a latent, and for the noise beside it: both are functions of the sample alone."""
    return sample.key("noise").normal((2, sample.bucket.frames // 8 or 1, 3))


def shape(bucket: Bucket) -> tuple[int, ...]:
    return 2, bucket.frames // 8 or 1, 3


def stream(plan: Plan, size: int, steps: range, **options) -> list[list[tuple]]:
    """Of each step, in the order of slots, everything that reached any of `size` workers with a weight."""
    loaders = [Loader(plan, noise_of, shape, rank=r, size=size, last_step=STEPS, **options) for r in range(size)]
    found = []
    for step in steps:
        arrived = []
        for loader in loaders:
            for group in loader.step(step):
                times = flow_times(group.samples, torch.device("cpu")).tolist()
                for number, sample in enumerate(group.samples):
                    if group.weights[number]:
                        data = group.data[number].numpy().tobytes()
                        arrived.append(
                            (sample.slot, sample.clip_id, sample.bucket, sample.caption, times[number], data)
                        )
        found.append(sorted(arrived))
    for loader in loaders:
        loader.close()
    return found


@pytest.mark.parametrize(("videos", "images", "seed"), [(5, 2, 0), (1, 0, 1), (4, 1, 2), (0, 7, 3), (3, 3, 4)])
def test_any_number_of_workers_and_any_restart_see_one_stream(videos, images, seed):
    plan = make_plan(videos, images, seed)
    alone = stream(plan, 1, range(STEPS))
    for step, arrived in enumerate(alone):
        planned = plan.step(step)
        assert [slot for slot, *_ in arrived] == list(range(videos + images)), "no slot is lost or there twice"
        assert [(c, b, text) for _, c, b, text, _, _ in arrived] == [(s.clip_id, s.bucket, s.caption) for s in planned]
        assert [data for *_, data in arrived] == [noise_of(sample).tobytes() for sample in planned]

    for size in (2, 3, 4):
        assert stream(plan, size, range(STEPS)) == alone
        assert stream(plan, size, range(STEPS), micro_batch=1 + size % 2, threads=3, ahead=1) == alone
    for start in range(STEPS):
        assert stream(make_plan(videos, images, seed), 1 + start % 4, range(start, STEPS)) == alone[start:]


def test_times_and_noise_repeat_nowhere():
    everything = [sample for step in stream(make_plan(4, 2, 0), 1, range(STEPS)) for sample in step]

    assert len({time for *_, time, _ in everything}) == len({data for *_, data in everything}) == 6 * STEPS


def test_the_next_steps_are_whole_before_they_are_asked_for():
    plan = make_plan(4, 0, 0)
    fetched: Counter[int] = Counter()
    lock = threading.Lock()

    def fetch(sample: Sample) -> np.ndarray:
        with lock:
            fetched[sample.step] += 1
        return noise_of(sample)

    loader = Loader(plan, fetch, shape, ahead=2, last_step=STEPS)
    loader.step(0)
    deadline = time.monotonic() + 20
    while not all(loader.pending[step].done() for step in (1, 2)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert fetched == {0: 4, 1: 4, 2: 4}, "so many steps ahead and none further"
    loader.step(1)
    loader.close()
    assert max(fetched.values()) == 4


def test_steps_may_be_asked_for_in_any_order():
    plan = make_plan(3, 1, 0)
    loader = Loader(plan, noise_of, shape, last_step=STEPS)
    for step in (7, 2, 11, 0, 7):
        assert [s for group in loader.step(step) for s in group.samples] == sorted(
            plan.step(step), key=lambda s: s.slot
        )
    loader.close()


def test_a_clip_that_cannot_be_read_weighs_nothing_and_says_why():
    plan = make_plan(4, 0, 0)
    lost = plan.step(0)[1].clip_id

    def fetch(sample: Sample) -> np.ndarray:
        if sample.clip_id == lost:
            raise UnreadableVideo("changed", "clip.mp4 is not the file that was curated")
        return noise_of(sample)

    loader = Loader(plan, fetch, shape, last_step=1)
    (group,) = loader.step(0)
    loader.close()
    assert group.weights.tolist() == [1, 0, 1, 1]
    assert group.unreadable == {lost: "clip.mp4 is not the file that was curated"}
    assert not group.data[1].any() and group.data[0].any()


def test_other_errors_of_the_background_reach_the_step():
    def fetch(sample: Sample) -> np.ndarray:
        raise MemoryError("no room")

    loader = Loader(make_plan(2, 0, 0), fetch, shape, last_step=2)
    with pytest.raises(MemoryError, match="no room"):
        loader.step(0)
    loader.close()


def test_memory_holds_what_was_used_last_and_no_more_than_its_bytes():
    memory: RecentlyUsed[np.ndarray] = RecentlyUsed(40, lambda array: array.nbytes)
    for number in range(5):
        memory.put(number, np.full(2, number, np.float64))  # 16 bytes
        memory.get(0)
        assert memory.num_bytes == sum(array.nbytes for array in memory.values.values()) <= 40

    assert list(memory.values) == [4, 0], "the first is asked for all the time"
    memory.put("large", np.zeros(6))
    assert memory.get("large") is None and memory.num_bytes == 0
    memory.put(0, np.zeros(1))
    memory.put(0, np.zeros(3))
    assert memory.num_bytes == 24
