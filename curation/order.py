"""Which filter is asked first: the one whose rejections have been the cheapest. And what each one costs, measured as it works."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from curation.contracts import Filter, filters
from curation.recipes import Recipe


class Asking:
    """The filters of a run in their order, and the CPU seconds of each. A ladder stops at the first that rejects a clip."""

    def __init__(self, order: Sequence[str] = ()):
        self.place = {name: number for number, name in enumerate(order)}
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def in_order(self, due: Iterable[Filter]) -> list[Filter]:
        """Filters on the strip first, which cost next to nothing; then those that see pictures, in the order of the run."""
        return sorted(due, key=lambda each: (each.rung == "models", self.place.get(each.name, len(self.place))))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds[name] += time.process_time() - started


def cheapest_first(
    videos: Iterable[Mapping[str, Any]], decisions: Iterable[Mapping[str, Any]], recipe: Recipe
) -> list[str]:
    """Names of the filters that see pictures, by CPU seconds per clip they reject, as an earlier run has measured it.

    videos: rows with `filter_seconds`; decisions: rows with `failed_rules`. A filter that no rule asks, or that rejected nothing,
    comes last; where nothing was measured, `Filter.cost` decides, the figure of docs/filters.md.
    """
    seconds: defaultdict[str, float] = defaultdict(float)
    length = 0.0
    for row in videos:
        spent_on = json.loads(row.get("filter_seconds") or "{}")
        length += (row.get("duration_seconds") or 0.0) if spent_on else 0.0
        for name, spent in spent_on.items():
            seconds[name] += spent
    signal_of = {rule.name: rule.signal for rule in recipe.all_rules}
    rejected = Counter(signal_of.get(name) for row in decisions for name in row["failed_rules"] or ())

    def cost_per_rejection(each: Filter) -> tuple[float, float]:
        cost = seconds[each.name] or each.cost / 1000 * (length or 1.0)
        count = sum(rejected[signal.name] for signal in each.signals)
        return (cost / count if count else float("inf"), each.cost)

    return [each.name for each in sorted((f for f in filters() if f.rung == "models"), key=cost_per_rejection)]
