"""CPU seconds of one action after another on the same files, by a worker process that may live in anybody's environment.

Standard library only. A worker gets a JSON list of paths on stdin, the shortest video first, and prints a JSON line a capability:
{"capability", "cpu_seconds": {path: [all, the kernel's share]}, "errors": {path: words}, "results": {path: anything}}. What was printed stays when it dies.
"""

import json
import os
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

PASSES = 3  # the median of so many, where they are cheap
CHEAP_SECONDS = 6.0  # CPU seconds of one pass over the files


def spent() -> tuple[float, float]:
    """CPU seconds of this process and of its children that have ended: user and system, and system alone."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    system = sum(usage.ru_stime for usage in usages)
    return system + sum(usage.ru_utime for usage in usages), system


class Meter:
    """Measures capabilities on the files that stdin names."""

    def __init__(self) -> None:
        self.files: list[str] = json.load(sys.stdin)
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever else prints, prints to stderr

    def measure(
        self,
        capability: str,
        action: Callable[[Any], Any],
        prepare: Callable[[str], Any] = lambda path: path,
        files: Sequence[str] | None = None,
        warm: bool = True,
        results: bool = False,
    ) -> None:
        """The cost of `action(prepare(path))`, `prepare` not counted; warm: once before on the first file, not counted."""
        paths = self.files if files is None else list(files)
        costs: dict[str, list[tuple[float, float]]] = {path: [] for path in paths}
        errors: dict[str, str] = {}
        found: dict[str, Any] = {}

        def once(path: str) -> tuple[float, float]:
            prepared = prepare(path)
            before = spent()
            found[path] = action(prepared)
            after = spent()
            return after[0] - before[0], after[1] - before[1]

        for turn in range(-1 if warm else 0, PASSES):
            for path in paths[:1] if turn < 0 else paths:
                if path in errors:
                    continue
                try:
                    cost = once(path)
                except BaseException as error:  # whatever a neighbour does is an answer
                    errors[path] = words(error)
                    if isinstance(error, KeyboardInterrupt):
                        raise
                    continue
                if turn >= 0:
                    costs[path].append(cost)
            if turn >= 0 and sum(total for each in costs.values() for total, _ in each) / (turn + 1) > CHEAP_SECONDS:
                break
        answer: dict[str, Any] = {
            "capability": capability,
            "cpu_seconds": {path: statistics.median_low(costs[path]) for path in paths if path not in errors},
            "errors": errors,
        }
        if results:
            answer["results"] = {path: found[path] for path in paths if path not in errors}
        print(json.dumps(answer), file=self._answers, flush=True)


def words(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def without(capabilities: Sequence[str], error: BaseException) -> None:
    """Says that none of these can be measured, and why."""
    meter = Meter()

    def fail(_: Any) -> None:
        raise error

    for capability in capabilities:
        meter.measure(capability, fail, warm=False)
