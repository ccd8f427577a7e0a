"""How fast a run goes: tokens or frames a second, the share of time spent waiting for data, and MFU where it is defined."""

import resource
import time
from collections.abc import Callable, Sequence

import torch

from training.data.plan import Sample
from training.world import World

Work = Callable[[Sequence[Sample]], dict[str, float]]  # what a global batch costs: tokens, frames; flops, model FLOPs

# Dense bfloat16 FLOP/s of one device by the words in its name, from the makers' data sheets (SXM parts).
PEAK_FLOPS = {"B200": 2.25e15, "H200": 989e12, "H100": 989e12, "A100": 312e12}


def peak_flops(device: torch.device) -> float | None:
    """The device's dense bfloat16 peak, FLOP/s; None where it is not known, as on every CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for word, peak in PEAK_FLOPS.items() if word in name and "PCIe" not in name), None)


def peak_memory(device: torch.device) -> int:
    """Bytes: the most this process has held of the GPU's memory, or on a CPU of the machine's, Python and all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


class Throughput:
    """Adds up steps between two log lines. Validation and checkpoints are left out: they are no steps."""

    def __init__(self, work: Work | None, world: World):
        self.work, self.device = work, world.device
        peak = peak_flops(world.device)
        self.peak = None if peak is None else peak * world.size
        self._reset()

    def begin(self) -> None:
        """A step begins by asking for its data."""
        self.at = time.monotonic()

    def loaded(self) -> None:
        """The data is there."""
        self.waited += time.monotonic() - self.at

    def done(self, planned: Sequence[Sample]) -> None:
        """The step is over; its loss has been read, so the device is done with its forward and backward passes."""
        self.seconds += time.monotonic() - self.at
        for name, amount in (self.work(planned) if self.work and planned else {}).items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    def numbers(self) -> dict[str, float]:
        """Amounts a second, data_wait (share of a step) and mfu since the last call, which starts anew; peak_memory so far."""
        seconds = max(self.seconds, 1e-9)
        rates = {f"{name}_per_second": amount / seconds for name, amount in self.sums.items()}
        flops = rates.pop("flops_per_second", None)
        if flops is not None and self.peak is not None:
            rates["mfu"] = flops / self.peak
        rates |= {"data_wait": self.waited / seconds, "peak_memory": float(peak_memory(self.device))}
        self._reset()
        return rates

    def _reset(self) -> None:
        self.seconds, self.waited = 0.0, 0.0
        self.sums: dict[str, float] = {}
