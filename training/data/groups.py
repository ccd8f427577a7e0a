"""A worker's share of a global batch: samples of one shape, computed together, each with its weight."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from training.data.buckets import Bucket
from training.data.plan import Sample


@dataclass(frozen=True, kw_only=True)
class Group:
    """Samples of one shape that one worker computes together."""

    samples: tuple[Sample, ...]
    data: Tensor  # [B, ...], what the objective reads: pixels or latents
    weights: Tensor  # [B], 1 for a sample that counts, 0 for padding and for rows that did not decode
    unreadable: Mapping[str, str] = field(default_factory=dict)  # clips that could not be read, and why


def share(samples: list[Sample], rank: int, size: int) -> list[list[tuple[Sample, float]]]:
    """This worker's samples with their weights, one list per shape.

    Every worker gets equally many samples of every shape, so all of them run the same calls; where the batch does not
    divide, the last ones repeat a sample at weight zero.
    """
    by_bucket: dict[Bucket, list[tuple[Sample, float]]] = {}
    for sample in samples:
        by_bucket.setdefault(sample.bucket, []).append((sample, 1.0))
    for members in by_bucket.values():
        members += [(members[-1][0], 0.0)] * (-len(members) % size)
    return [members[rank::size] for members in by_bucket.values()]
