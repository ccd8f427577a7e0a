"""Fetches the samples a plan names, a few steps ahead, on this worker's share of the global batch."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from curation.clips import UnreadableVideo
from training.data.buckets import Bucket
from training.data.groups import Group, share
from training.data.plan import Plan, Sample

Fetch = Callable[[Sample], np.ndarray]


class Loader:
    """Groups of any step, in any order; asking for step s starts fetching the next `ahead` steps too."""

    def __init__(
        self,
        plan: Plan,
        fetch: Fetch,
        shape: Callable[[Bucket], tuple[int, ...]],
        *,
        rank: int = 0,
        size: int = 1,
        micro_batch: int | None = None,
        threads: int = 2,
        ahead: int = 3,
        last_step: int | None = None,
    ):
        self.plan, self.fetch, self.shape = plan, fetch, shape
        self.rank, self.size, self.micro_batch, self.ahead, self.last_step = rank, size, micro_batch, ahead, last_step
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.pending: dict[int, list[list[tuple[Sample, float, Future]]]] = {}

    def step(self, step: int) -> list[Group]:
        """This worker's groups of global batch `step`."""
        for number in range(step, step + self.ahead + 1):
            if number not in self.pending and (self.last_step is None or number < self.last_step):
                self.pending[number] = self._request(number)
        for number in [n for n in self.pending if n < step]:
            del self.pending[number]
        return [self._group(part) for members in self.pending.pop(step) for part in self._cut(members)]

    def planned(self, step: int) -> list[Sample]:
        """All samples of global batch `step`, this worker's and the others'."""
        return self.plan.step(step)

    def close(self) -> None:
        """Stop fetching."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _request(self, step: int) -> list[list[tuple[Sample, float, Future]]]:
        shares = share(self.plan.step(step), self.rank, self.size)
        return [[(s, weight, self.pool.submit(self.fetch, s)) for s, weight in members] for members in shares]

    def _cut(self, members: list) -> list[list]:
        size = self.micro_batch or len(members)
        return [members[start : start + size] for start in range(0, len(members), size)]

    def _group(self, members: list[tuple[Sample, float, Future]]) -> Group:
        arrays, weights, unreadable = [], [], []
        for sample, weight, future in members:
            try:
                array = future.result()
            except UnreadableVideo:
                array, weight = np.zeros(self.shape(sample.bucket), np.float32), 0.0
                unreadable.append(sample.clip_id)
            arrays.append(torch.from_numpy(array))
            weights.append(weight)
        return Group(
            samples=tuple(sample for sample, _, _ in members),
            data=torch.stack(arrays),
            weights=torch.tensor(weights),
            unreadable=tuple(unreadable),
        )
