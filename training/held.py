"""What a run costs while it goes: the devices that its workers hold, by the clock."""

import time
from collections.abc import Callable, Mapping
from typing import Any


class HeldDevices:
    """What the workers of a run hold, by the clock: seconds of GPUs, or of CPU threads where there are none.

    Counted from the line that says that they have begun; a start again with other workers changes the rate.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.unit, self.rate, self.since = "", 0, 0.0
        self.spent: dict[str, float] = {}

    def hear(self, line: Mapping[str, Any]) -> None:
        """A line of the run's log: `start` and `resume` name workers, their device and threads."""
        if line["event"] in ("start", "resume"):
            self.spent, self.since = self.costs(), self.clock()
            on_gpu = str(line["device"]).startswith("cuda")
            self.unit = "gpu_seconds" if on_gpu else "cpu_seconds"
            self.rate = line["workers"] * (1 if on_gpu else line["threads"])

    def costs(self) -> dict[str, float]:
        """So far, by unit; empty before workers have begun."""
        if not self.unit:
            return {}
        more = (self.clock() - self.since) * self.rate
        return self.spent | {self.unit: self.spent.get(self.unit, 0.0) + more}
