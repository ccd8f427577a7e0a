"""How long a call takes on a device and how much memory it adds."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

WARM_UPS = 3
SLOW = 0.7  # seconds: a call that long is warm after its first time
FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The median of some calls."""

    seconds: float
    repetitions: int
    bytes: int | None  # allocated at most during the calls, above what there was before; None on a CPU

    @property
    def gib(self) -> float | None:
        """The bytes, for people."""
        return None if self.bytes is None else self.bytes / 2**30


def measure(call: Callable[[], object], device: torch.device, *, seconds: float, repetitions: int) -> Timing:
    """Warm up three times, then take the median of `repetitions` calls, or of at least three that fit in `seconds`.

    Calls are queued one after the other, as in training: what the host does between kernels hides as it would there.
    The first call may compile; it is never counted. A call of 0.7 s and more warms up twice.
    """
    cuda = device.type == "cuda"
    _call(call, device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0
    once = _call(call, device)
    for _ in range(WARM_UPS - 2 if once < SLOW else 0):
        once = _call(call, device)
    count = min(repetitions, max(FEWEST, int(seconds / max(once, 1e-9))))
    spent = _queued(call, count, device) if cuda else [_call(call, device) for _ in range(count)]
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else None
    return Timing(seconds=statistics.median(spent), repetitions=count, bytes=peak)


def _call(call: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def _queued(call: Callable[[], object], count: int, device: torch.device) -> list[float]:
    with torch.cuda.device(device):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
