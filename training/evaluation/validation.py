"""Validation while training: the held-out clips at fixed times and fixed noise (or fixed windows), every N steps.

Nothing is drawn anew, so two validations differ by the weights alone and are compared clip by clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import nn

from training.data.buckets import Bucket
from training.data.plan import Planned
from training.evaluation.intervals import mean_interval
from training.world import World


@dataclass(frozen=True, kw_only=True)
class ClipMeasured:
    """What one held-out clip in one bucket measures. `numbers` has `loss`, the mean of `by_time` where there are times."""

    clip_id: str
    bucket: str
    numbers: dict[str, float]
    by_time: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Pairs it with the same clip of another validation: a clip may be measured as a video and as an image."""
        return f"{self.clip_id}/{self.bucket}"


def choose_clips(
    rows: Sequence[Mapping[str, Any]], recipe: Planned, per_bucket: int
) -> list[tuple[Mapping[str, Any], Bucket]]:
    """At most so many held-out rows of each bucket, the same ones always: in the order of their ids, which are hashes."""
    chosen: dict[Bucket, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["clip_id"]):
        bucket = recipe.buckets.assign(row)
        if not isinstance(bucket, str):
            if recipe.batch.videos:
                chosen.setdefault(bucket, []).append(row)
            if recipe.batch.images:
                chosen.setdefault(bucket.image(), []).append(row)
    return [(row, bucket) for bucket, members in chosen.items() for row in members[:per_bucket]]


class Validate(Protocol):
    """Measures the weights at hand."""

    def __call__(self, model: nn.Module, world: World) -> list[ClipMeasured]:
        """This worker's share of the held-out clips; must draw nothing from torch's generators."""
        ...


def validate_everywhere(validate: Validate, model: nn.Module, world: World) -> list[ClipMeasured]:
    """All workers' shares, in one order, on every worker: all of them come to the same learning rate."""
    was_training = model.training
    found = [clip for part in world.gather(validate(model.eval(), world)) for clip in part]
    model.train(was_training)
    return sorted(found, key=lambda clip: clip.name)


def losses_by_clip(clips: Sequence[ClipMeasured]) -> dict[str, float]:
    """Each clip's loss by its name."""
    return {clip.name: clip.numbers["loss"] for clip in clips}


def summarised(clips: Sequence[ClipMeasured], previous: Mapping[str, float]) -> dict[str, Any]:
    """A log line's values: means, half-widths of 95 % intervals over clips, per bucket, and the change since `previous`.

    Names ending in _ci95 are half-widths; they are missing where there is one clip only. A loss per bucket is `loss/BUCKET`.
    A clip measured in two buckets counts once in the whole, by its mean: its two losses are not independent.
    """
    values: dict[str, Any] = {"num_clips": len({clip.clip_id for clip in clips})}
    for name in clips[0].numbers:
        _put(values, name, mean_interval(_by_clip({clip.name: clip.numbers[name] for clip in clips})))
    for bucket in sorted({clip.bucket for clip in clips}):
        _put(values, f"loss/{bucket}", mean_interval([c.numbers["loss"] for c in clips if c.bucket == bucket]))
    changes = {c.name: c.numbers["loss"] - previous[c.name] for c in clips if c.name in previous}
    if changes:
        _put(values, "change", mean_interval(_by_clip(changes)))
    timed = [clip.by_time for clip in clips if clip.by_time]
    if timed:
        values["loss_by_time"] = [sum(column) / len(column) for column in zip(*timed, strict=True)]
    return values | {"clips": [asdict(clip) for clip in clips]}


def _by_clip(numbers: Mapping[str, float]) -> list[float]:
    """One number a clip: the mean of its buckets'."""
    found: dict[str, list[float]] = {}
    for name, number in numbers.items():
        found.setdefault(name.split("/")[0], []).append(number)
    return [sum(several) / len(several) for several in found.values()]


def _put(values: dict[str, Any], name: str, interval: tuple[float, float | None]) -> None:
    values[name] = interval[0]
    if interval[1] is not None:
        values[f"{name}_ci95"] = interval[1]
