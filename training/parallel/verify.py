"""Proof that a layout over workers trains as one worker does: a small copy of the recipe, in float64, on the CPU.

One process computes a few steps; every layout repeats them with its own processes over gloo on the loopback. Losses,
every parameter's gradient, the weights after the steps and their moving average must agree to rounding. In float64 a
term that is missing, doubled or from the wrong place cannot hide in it.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from training.parallel.mesh import ParallelConfig
from training.parallel.short_run import Outcome, Small, compute
from training.recipes import VideoRecipe
from training.world import World

TARGET = 1e-10  # of every relative difference
Layout = tuple[ParallelConfig, int]  # and the number of workers


def _layout(workers: int, **degrees: Any) -> Layout:
    return ParallelConfig(**degrees), workers


LAYOUTS: dict[str, Layout] = {
    "recompute full": _layout(1, recompute="full"),
    "recompute save-attention": _layout(1, recompute="save-attention"),
    "dp 2": _layout(2),
    "fsdp 2": _layout(2, dp_shard=2),
    "tp 2": _layout(2, tp=2),
    "cp 2": _layout(2, cp=2),
    "dp 4": _layout(4),
    "fsdp 4": _layout(4, dp_shard=4),
    "tp 4": _layout(4, tp=4),
    "cp 4": _layout(4, cp=4),
    "tp 2 cp 2": _layout(4, tp=2, cp=2),
    "fsdp 2 cp 2": _layout(4, dp_shard=2, cp=2),
    "fsdp 2 tp 2": _layout(4, dp_shard=2, tp=2),
    "replicate 2 shard 2": _layout(4, dp_shard=2),
}


class NothingToCompare(RuntimeError):
    """A parameter without a gradient would agree with anything."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A layout beside one worker: max |difference| / max |value|, the worst step's or parameter's."""

    name: str
    workers: int
    seconds: float
    loss: float = math.nan
    norm: float = math.nan
    gradients: dict[str, float]
    update: float = math.nan
    average: float = math.nan
    skipped: str | None = None  # why this recipe cannot be laid out so
    failed: str | None = None  # what a worker raised

    @property
    def worst(self) -> tuple[str, float]:
        """The parameter whose gradient is furthest off."""
        return max(self.gradients.items(), key=lambda item: item[1], default=("", math.nan))

    @property
    def passed(self) -> bool:
        """Whether everything agrees; a layout that the recipe does not allow is neither proved nor refuted."""
        numbers = (self.loss, self.norm, self.worst[1], self.update, self.average)
        return self.skipped is not None or (self.failed is None and all(number <= TARGET for number in numbers))


def verify(
    recipe: VideoRecipe,
    layouts: dict[str, Layout] | None = None,
    *,
    steps: int = 2,
    show: Callable[[Compared], None] | None = None,
    prepare: Callable[[], None] | None = None,
) -> list[Compared]:
    """Compare every layout with one worker. `prepare` runs in each worker before all else (tests break things with it)."""
    layouts = LAYOUTS if layouts is None else layouts
    unit = math.lcm(*(config.cp * config.tp for config, _ in layouts.values()))
    small = Small.of(recipe, unit, steps)
    with torch.random.fork_rng(devices=[]):
        expected = compute(small, ParallelConfig(), World())
    if silent := [name for name, gradient in expected.gradients.items() if not gradient.any()]:
        raise NothingToCompare(f"the gradient of {', '.join(silent[:5])} is zero; nothing would be proved about it")
    found = []
    for name, (config, workers) in layouts.items():
        found.append(_compare(small, expected, name, config, workers, prepare))
        if show:
            show(found[-1])
    return found


def _compare(
    small: Small,
    expected: Outcome,
    name: str,
    config: ParallelConfig,
    workers: int,
    prepare: Callable[[], None] | None,
) -> Compared:
    began = time.monotonic()

    def result(**values: Any) -> Compared:
        seconds = time.monotonic() - began
        return Compared(name=name, workers=workers, seconds=seconds, **({"gradients": {}} | values))

    try:
        config.check(small.model, small.buckets, None, workers)
    except ValueError as error:
        return result(skipped=str(error))
    with tempfile.TemporaryDirectory() as folder:
        # Forked from one server that has imported everything: 2 s a layout, against 6 s for processes that import anew.
        multiprocessing.set_forkserver_preload([__name__])
        try:
            start_processes(
                _worker, (workers, folder, small, config, prepare), nprocs=workers, start_method="forkserver"
            )
        except ProcessRaisedException as error:
            return result(failed=str(error).strip().splitlines()[-1])
        found = Outcome(**torch.load(Path(folder) / "outcome.pt", weights_only=True))
    pairs = [(found.losses, expected.losses), (found.norms, expected.norms)]
    loss, norm = (_apart(*(torch.tensor(x, dtype=torch.float64) for x in pair)) for pair in pairs)
    return result(
        loss=loss,
        norm=norm,
        gradients={n: _apart(found.gradients[n], g) for n, g in expected.gradients.items()},
        update=max(_apart(found.updates[n], u) for n, u in expected.updates.items()),
        average=max(_apart(found.average[n], a) for n, a in expected.average.items()),
    )


def _apart(found: Tensor, expected: Tensor) -> float:
    difference = float((found - expected).abs().max() / expected.abs().max())
    return difference if math.isfinite(difference) else math.inf


def _worker(
    rank: int, size: int, folder: str, small: Small, config: ParallelConfig, prepare: Callable[[], None] | None
) -> None:
    torch.set_num_threads(1)
    if prepare:
        prepare()
    if size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    outcome = compute(small, config, World(rank=rank, size=size, workers_per_share=config.workers_per_share))
    if rank == 0:
        torch.save(vars(outcome), Path(folder) / "outcome.pt")
    if size > 1:
        dist.destroy_process_group()
