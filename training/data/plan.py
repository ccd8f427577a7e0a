"""A step is a function of its number: which rows, shapes, captions and random keys make up global batch `step`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from models.text.prompt import tagged
from training.data.buckets import Bucket, BucketTable, sampled_fps
from training.data.keys import Key

PLAN_FORMAT = 2  # raise when the same inputs plan different batches


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Samples of the *global* batch: `videos` from one bucket, and `images`, single frames of any clip."""

    videos: int  # 0 in a text-to-image stage
    images: int = 0

    def __post_init__(self) -> None:
        if self.videos < 0 or self.images < 0 or not self.videos + self.images:
            raise ValueError(
                f"a batch holds at least one video or image and no fewer than 0 of each, not {self.videos} and {self.images}"
            )


class Planned(Protocol):
    """What a plan needs of a recipe."""

    @property
    def buckets(self) -> BucketTable: ...
    @property
    def batch(self) -> BatchSize: ...
    @property
    def fps_tag(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One place of the global batch. `row` indexes the rows the plan was made of."""

    slot: int
    row: int
    clip_id: str
    bucket: Bucket
    caption: str
    seed: int
    step: int

    def key(self, purpose: str) -> Key:
        """The random stream of this place for `purpose`: timestep, noise, drop, window or posterior."""
        return Key(seed=self.seed, purpose=purpose, step=self.step, slot=self.slot)


class Plan:
    """All batches of a run, without drawing any: rows by bucket, and arithmetic from a step to its samples."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], recipe: Planned, seed: int):
        self.rows, self.batch, self.fps_tag, self.seed = rows, recipe.batch, recipe.fps_tag, seed
        self.members: dict[Bucket, list[int]] = {}
        self.excluded: dict[str, str] = {}  # clip_id -> why
        for index, row in enumerate(rows):
            bucket = recipe.buckets.assign(row)
            if isinstance(bucket, str):
                self.excluded[row["clip_id"]] = bucket
            else:
                self.members.setdefault(bucket, []).append(index)
        self.order = sorted(self.members, key=lambda bucket: bucket.name)
        self.counts = [max(1, len(self.members[b]) // self.batch.videos) for b in self.order if self.batch.videos]
        self.bucket_of = {index: bucket for bucket, members in self.members.items() for index in members}
        self.images = sorted(self.bucket_of)
        self._shuffled = lru_cache(maxsize=256)(self._shuffle)
        self._image_order = lru_cache(maxsize=2)(self._shuffle_images)

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches in one pass over the rows; 0 when no row has a bucket."""
        if not self.batch.videos:
            return max(1, len(self.images) // self.batch.images) if self.images else 0
        return sum(self.counts)

    @property
    def leftovers(self) -> dict[str, int]:
        """Rows of each bucket that one epoch leaves out (others each time), negative where rows are repeated."""
        if not self.batch.videos:
            return {}
        return {
            bucket.name: len(self.members[bucket]) - count * self.batch.videos
            for bucket, count in zip(self.order, self.counts, strict=True)
        }

    def hash(self) -> str:
        """Names the plan: equal hashes draw equal batches at every step."""
        described = {
            "format": PLAN_FORMAT,
            "seed": self.seed,
            "batch": [self.batch.videos, self.batch.images],
            "fps_tag": self.fps_tag,
            "rows": [
                [
                    b.name,
                    [
                        [self.rows[i]["clip_id"], tagged(self.rows[i]["caption"], 0, self.rows[i].get("camera_motion"))]
                        for i in self.members[b]
                    ],
                ]
                for b in self.order
            ],
        }
        return hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16).hexdigest()

    def step(self, step: int) -> list[Sample]:
        """The samples of global batch `step`: its videos, then its images."""
        if not self.order:
            raise ValueError("no clip of this snapshot fits a bucket of the recipe, so there is nothing to plan")
        samples = self._videos(step) if self.batch.videos else []
        for number in range(self.batch.images):
            epoch, place = divmod(step * self.batch.images + number, len(self.images))
            row = self.images[self._image_order(epoch)[place]]
            samples.append(self._sample(step, len(samples), row, self.bucket_of[row].image()))
        return samples

    def _videos(self, step: int) -> list[Sample]:
        epoch, place = divmod(step, self.batches_per_epoch)
        flat = int(
            Key(seed=self.seed, purpose="order", step=epoch).generator().permutation(self.batches_per_epoch)[place]
        )
        which = int(np.searchsorted(np.cumsum(self.counts), flat, side="right"))
        offset = flat - sum(self.counts[:which])
        bucket = self.order[which]
        members = self.members[bucket]
        shuffled = [members[i] for i in self._shuffled(epoch, which + 1, len(members), self.batch.videos)]
        rows = shuffled[offset * self.batch.videos : (offset + 1) * self.batch.videos]
        return [self._sample(step, slot, row, bucket) for slot, row in enumerate(rows)]

    def _shuffle(self, epoch: int, stream: int, count: int, least: int) -> np.ndarray:
        """`count` indices permuted; fewer rows than a batch are permuted again until one batch is full."""
        generator = Key(seed=self.seed, purpose="order", step=epoch, slot=stream).generator()
        rounds = [generator.permutation(count) for _ in range(max(1, -(-least // count)))]
        return np.concatenate(rounds)

    def _shuffle_images(self, epoch: int) -> np.ndarray:
        return Key(seed=self.seed, purpose="image order", step=epoch).generator().permutation(len(self.images))

    def _sample(self, step: int, slot: int, row: int, bucket: Bucket) -> Sample:
        clip = self.rows[row]
        caption = final_caption(clip, bucket, self.fps_tag)
        return Sample(
            slot=slot, row=row, clip_id=clip["clip_id"], bucket=bucket, caption=caption, seed=self.seed, step=step
        )


def final_caption(clip: Mapping[str, Any], bucket: Bucket, fps_tag: bool) -> str:
    """What the text encoders read for a clip in a bucket: its caption behind its tags."""
    fps = sampled_fps(clip, bucket) if fps_tag else 0.0
    return tagged(clip["caption"], fps, clip.get("camera_motion"))


def batch_hash(samples: Sequence[Sample]) -> str:
    """Names a global batch: clips, shapes, captions and the keys that times, noise and crops are drawn from."""
    named = [[s.seed, s.step, s.slot, s.clip_id, s.bucket.name, s.caption] for s in samples]
    return hashlib.blake2b(json.dumps(named).encode(), digest_size=8).hexdigest()


def plan(rows: Sequence[Mapping[str, Any]], recipe: Planned, seed: int, step: int) -> list[Sample]:
    """Global batch `step`, from nothing but its number. `Plan` does the same for many steps without starting over."""
    return Plan(rows, recipe, seed).step(step)


def check_splits(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise when training and validation rows share a source video or a group of near-duplicates."""
    for column in ("video_id", "duplicate_group"):
        sides: dict[str, set[str]] = {"train": set(), "validation": set()}
        for row in rows:
            if row.get(column):
                sides[row["split"]].add(row[column])
        if shared := sides["train"] & sides["validation"]:
            raise ValueError(
                f"{len(shared)} {column} value(s) are in both the train and the validation split, e.g. {min(shared)}; "
                "a loss on such clips would measure memory. Curate again so that the split is drawn by group"
            )
