"""Who computes: this worker's rank, how many there are, and the sums over all of them."""

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class World:
    """One worker among `size`. Alone, every method is the identity."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """The worker that writes logs and checkpoints."""
        return self.rank == 0

    def sum_(self, tensors: list[Tensor]) -> None:
        """Add tensors of one dtype over all workers, in place, as one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
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
