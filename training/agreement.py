"""What all workers agree on before a step: which rows cannot be read, and whether to save, or to save and leave."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.groups import Group
from training.world import World

STOP_FILE = "STOP"  # written into the run's folder by whoever wants it to save and leave
ASK_SECONDS = 1.0  # between two questions about interruptions: Ray's costs 3 to 12 ms

# Asked by all workers at the same steps: to save at once and go on (a node is about to go), or to save and leave.
Interruption = Callable[[], Literal["save", "stop"] | None]


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """The same on every worker."""

    unreadable: dict[str, str]  # clip id to why, since this process began
    stop: bool
    save: bool  # once for each interruption
    save_failed: bool


class Agreement:
    """One small message a step, so that all workers stop or save at the same step, or none does."""

    def __init__(self, out: Path, world: World, interruption: Interruption | None = None):
        self.out, self.world, self.interruption = out, world, interruption
        self.unreadable: dict[str, str] = {}
        self.asked_at, self.due, self.saved = time.monotonic(), False, False

    def reach(self, groups: Sequence[Group], *, save_failed: bool) -> Agreed:
        """Say what this worker found and wants, and hear what all did."""
        found = {clip_id: why for group in groups for clip_id, why in group.unreadable.items()}
        asked = self._interruption()  # by all or by none: whoever sees the file first must still answer
        wish = "stop" if (self.out / STOP_FILE).exists() else asked
        was_asked, due = self.due, time.monotonic() - self.asked_at >= ASK_SECONDS
        reports = self.world.gather((found, wish, save_failed, due))
        for others, *_ in reports:
            self.unreadable |= others
        self.due = any(due for *_, due in reports)
        save = any(wish == "save" for _, wish, *_ in reports)
        first = save and not self.saved
        self.saved = save if was_asked else self.saved  # until the answer is another one
        return Agreed(
            unreadable=self.unreadable,
            stop=any(wish == "stop" for _, wish, *_ in reports),
            save=first,
            save_failed=any(failed for *_, failed, _ in reports),
        )

    def _interruption(self) -> str | None:
        """Asked by all workers at the same steps, since answering takes all of them under Ray."""
        if self.interruption is None or not self.due:
            return None
        self.asked_at = time.monotonic()
        return self.interruption()
