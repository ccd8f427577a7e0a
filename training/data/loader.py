"""Whole groups of a step, fetched and put together in the background a few steps ahead, of this worker's share."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from curation.clips import UnreadableVideo
from training.data.buckets import Bucket
from training.data.groups import Group, share
from training.data.plan import Plan, Sample

Fetch = Callable[[Sample], np.ndarray]
Fetched = tuple[Sample, float, Future[np.ndarray]]  # a sample, its weight, and its array when it is there


class Loader:
    """Groups of any step, in any order; asking for step s starts making the next `ahead` steps too.

    Three stages, so that the training thread only takes what is there: one thread asks for the samples of each step in
    turn, `threads` decode, one stacks. The array and the copy that is stacked are both in memory for `ahead` + 1 steps.
    """

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
        self.asking = ThreadPoolExecutor(1, thread_name_prefix="plan")
        self.decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.stacking = ThreadPoolExecutor(1, thread_name_prefix="stack")
        self.pending: dict[int, Future[list[Group]]] = {}

    def step(self, step: int) -> list[Group]:
        """This worker's groups of global batch `step`."""
        for number in range(step, step + self.ahead + 1):
            if number not in self.pending and (self.last_step is None or number < self.last_step):
                self.pending[number] = self.stacking.submit(self._groups, self.asking.submit(self._ask, number))
        for number in [n for n in self.pending if n < step]:
            self.pending.pop(number).cancel()
        return self.pending.pop(step).result()

    def planned(self, step: int) -> list[Sample]:
        """All samples of global batch `step`, this worker's and the others'."""
        return self.plan.step(step)

    def close(self) -> None:
        """Stop fetching."""
        for pool in (self.asking, self.decoding, self.stacking):  # a stage ends when the one before has
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, step: int) -> list[list[Fetched]]:
        shares = share(self.plan.step(step), self.rank, self.size)
        return [[(s, weight, self.decoding.submit(self.fetch, s)) for s, weight in members] for members in shares]

    def _groups(self, asked: Future[list[list[Fetched]]]) -> list[Group]:
        return [self._group(part) for members in asked.result() for part in self._cut(members)]

    def _cut(self, members: list[Fetched]) -> list[list[Fetched]]:
        size = self.micro_batch or len(members)
        return [members[start : start + size] for start in range(0, len(members), size)]

    def _group(self, members: list[Fetched]) -> Group:
        arrays, weights, unreadable = [], [], {}
        for sample, weight, future in members:
            try:
                array = future.result()
            except UnreadableVideo as error:
                array, weight = np.zeros(self.shape(sample.bucket), np.float32), 0.0
                unreadable[sample.clip_id] = str(error)
            arrays.append(torch.from_numpy(array))
            weights.append(weight)
        return Group(
            samples=tuple(sample for sample, _, _ in members),
            data=torch.stack(arrays),
            weights=torch.tensor(weights),
            unreadable=unreadable,
        )
