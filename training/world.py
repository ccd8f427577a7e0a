"""Who computes: this worker's rank, how many there are, and the sums over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class World:
    """One worker among `size`. Alone, every method is the identity.

    Where a model is spread over workers, `workers_per_share` of them, neighbours in rank, compute one share of the
    batch together and hold the same losses; see training.parallel.mesh.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers_per_share: int = 1  # cp x tp

    def __post_init__(self) -> None:
        if self.size % self.workers_per_share:
            raise ValueError(f"{self.size} workers do not divide into groups of {self.workers_per_share} (cp x tp)")

    @property
    def share(self) -> int:
        """Which share of a batch this worker reads, with its group: 0 to shares - 1."""
        return self.rank // self.workers_per_share

    @property
    def shares(self) -> int:
        """Into how many shares a batch is cut: dp_replicate x dp_shard."""
        return self.size // self.workers_per_share

    @property
    def is_first(self) -> bool:
        """The worker that writes logs and checkpoints."""
        return self.rank == 0

    def deal(self, items: Sequence[Item]) -> list[tuple[Item, bool]]:
        """This worker's part of `items`, each with whether this worker speaks for it.

        As many on every worker, and the same ones where a share is computed together: a model that is spread over
        workers computes only where all of them do.
        """
        mine = list(range(self.share, len(items), self.shares))
        padding = [len(items) - 1] * (-(-len(items) // self.shares) - len(mine))
        speaks = self.rank % self.workers_per_share == 0
        return [(items[i], speaks) for i in mine] + [(items[i], False) for i in padding]

    def sum_(self, tensors: list[Tensor]) -> None:
        """Add tensors of one dtype over the shares of the batch, in place, as one message; equal on every worker."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        if self.rank % self.workers_per_share:
            flat.zero_()  # the first worker of each share speaks for it
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, value: object) -> list:
        """The small picklable values of all workers, in rank order, on every worker."""
        if self.size == 1:
            return [value]
        found: list = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Return when every worker is here."""
        if self.size > 1:
            dist.barrier()
