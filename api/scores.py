"""Scores against rules: histograms, and what would be kept at other thresholds. A query, never a decode."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from api.query import name_of
from api.tables import TableCache, Views
from curation.clips import Snapshot
from curation.contracts import signals
from curation.decide import COMPARE
from curation.recipes import Rule, parse_recipe

NUM_BINS = 64
Scale = Literal["linear", "log"]
UNITS = {"shot_seconds": "s", "duration_seconds": "s"}


@dataclass(frozen=True)
class Scores:
    """What was measured of the N clips of a snapshot, and what was decided. A null score is nan.

    clips: kept, set_aside and one float64 column for each signal that a rule asks for."""

    rules: tuple[Rule, ...]
    clips: pa.Table

    @staticmethod
    def of(snapshot: Snapshot, views: Views, tables: TableCache) -> "Scores":
        """The rules are those of the recipe the snapshot was made with; only the columns they ask for are read."""
        rules = parse_recipe(snapshot.commit.recipe, "the recipe of this snapshot").all_rules
        view = views.open(snapshot, "clips")
        names = sorted({rule.signal for rule in rules if rule.signal in view.columns})

        def load() -> pa.Table:
            columns = [
                "coalesce(d.fate = 'kept', false) AS kept",
                "coalesce(d.rule LIKE 'content.%', false) AS set_aside",
            ]
            columns += [f"{view.columns[name][0]}::DOUBLE AS {name_of(name)}" for name in names]
            with views.engine.cursor() as reader:
                return reader.table(f"SELECT {', '.join(columns)} {view.joined(reader, 'clip', names)}")

        return Scores(rules=rules, clips=tables.remember(snapshot, "scores", load))

    @cached_property
    def kept(self) -> np.ndarray:
        """bool [N]: kept by the recipe."""
        return self.clips["kept"].to_numpy()

    @cached_property
    def set_aside(self) -> np.ndarray:
        """bool [N]: passed the rules, but is a copy, or one too many of its kind: no threshold here changes that."""
        return self.clips["set_aside"].to_numpy()

    def values(self, signal: str) -> np.ndarray:
        """float64 [N]."""
        if signal not in self.clips.column_names:
            return np.full(self.clips.num_rows, np.nan)
        return self.clips[signal].to_numpy()

    def share_below(self, signal: str, value: float) -> float:
        """Which share of the measured clips has a smaller value; 0 where none was measured."""
        values = self.values(signal)
        measured = ~np.isnan(values)
        return float((values[measured] < value).mean()) if measured.any() else 0.0

    def fails(self, rule: Rule, threshold: float | None = None) -> np.ndarray:
        """bool [N]: measured, and not what the rule asks for. What was not measured fails nothing."""
        values = self.values(rule.signal)
        passes = COMPARE[rule.comparison](values, rule.threshold if threshold is None else threshold)
        return ~passes & ~np.isnan(values)

    def what_if(self, thresholds: Mapping[str, float]) -> "WhatIf":
        """Counts at other thresholds; rules not named keep theirs."""
        failed = np.zeros(self.clips.num_rows, bool)
        unmeasured = np.zeros(self.clips.num_rows, bool)
        for rule in self.rules:
            failed |= self.fails(rule, thresholds.get(rule.name))
            unmeasured |= np.isnan(self.values(rule.signal))
        passing = ~failed & ~self.set_aside
        # A clip the recipe kept was kept with what was measured of it; another that lacks a score is not promised.
        certain = passing & (self.kept | ~unmeasured)
        return WhatIf(
            clips=len(failed),
            kept=int(certain.sum()),
            entering=int((certain & ~self.kept).sum()),
            leaving=int((self.kept & ~certain).sum()),
            unmeasured=int((passing & ~certain).sum()),
            set_aside=int((~failed & self.set_aside).sum()),
        )

    @cached_property
    def _failures(self) -> dict[str, np.ndarray]:
        return {rule.name: self.fails(rule) for rule in self.rules}

    def histogram(self, signal: str) -> "Histogram":
        """One signal in 64 bins: all clips, those kept, those that only the rules on this signal reject."""
        values = self.values(signal)
        measured = ~np.isnan(values)
        rules = [rule for rule in self.rules if rule.signal == signal]
        scale, low, high = _axis(values[measured], [rule.threshold for rule in rules])
        here = _any(self._failures, [rule.name for rule in rules], len(values))
        elsewhere = _any(self._failures, [rule.name for rule in self.rules if rule.signal != signal], len(values))
        elsewhere |= self.set_aside
        along = _along(values[measured], scale, low, high)
        places = np.clip(along * NUM_BINS, 0, NUM_BINS - 1).astype(int)

        def count(which: np.ndarray) -> list[int]:
            return np.bincount(places[which[measured]], minlength=NUM_BINS).tolist()

        known = signals().get(signal)
        return Histogram(
            signal=signal,
            unit=unit_of(signal),
            meaning=known.meaning if known else "",
            scale=scale,
            low=low,
            high=high,
            all=count(measured),
            kept=count(self.kept),
            only_this=count(here & ~elsewhere),
            unmeasured=int((~measured).sum()),
            rules=[
                RuleCount(
                    rule=rule.name, comparison=rule.comparison, threshold=rule.threshold, source=rule.source,
                    rejects=int(self._failures[rule.name].sum()), only_this=int((self._failures[rule.name] & ~elsewhere).sum()),
                )
                for rule in rules
            ],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one rule says of one clip; passed is null where the signal was not measured, which fails nothing."""

    rule: str
    signal: str
    value: float | None
    comparison: str
    threshold: float
    unit: str
    passed: bool | None


def verdicts(snapshot: Snapshot, clip: Mapping[str, Any]) -> list[Verdict]:
    """Every rule of the snapshot's recipe on one row of its clips."""
    told = []
    for rule in parse_recipe(snapshot.commit.recipe, "the recipe of this snapshot").all_rules:
        value = clip.get(rule.signal)
        passed = None if value is None else bool(COMPARE[rule.comparison](value, rule.threshold))
        told.append(
            Verdict(
                rule=rule.name, signal=rule.signal, value=value, comparison=rule.comparison, threshold=rule.threshold,
                unit=unit_of(rule.signal), passed=passed,
            )
        )  # fmt: skip
    return told


def unit_of(signal: str) -> str:
    """The unit of a signal or of another column that rules ask for."""
    known = signals().get(signal)
    return known.unit if known else UNITS.get(signal, "")


@dataclass(frozen=True, kw_only=True)
class WhatIf:
    """What a recipe with these thresholds would do to the clips that were measured.

    kept = was kept and stays + entering. Entering clips were never compared for copies and balance, so some may still leave.
    unmeasured: would be kept by what is known of them, but lack a score that a rule asks for. set_aside: by the content stage.
    """

    clips: int
    kept: int
    entering: int
    leaving: int
    unmeasured: int
    set_aside: int


@dataclass(frozen=True, kw_only=True)
class RuleCount:
    """One rule of the recipe, and how many clips it alone and not alone rejects."""

    rule: str
    comparison: str
    threshold: float
    source: str
    rejects: int
    only_this: int


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts in bins from `low` to `high`, equal in the scale; what lies outside is in the first or last bin."""

    signal: str
    unit: str
    meaning: str
    scale: Scale
    low: float
    high: float
    all: list[int]
    kept: list[int]
    only_this: list[int]
    unmeasured: int
    rules: list[RuleCount]


def _any(failures: Mapping[str, np.ndarray], names: list[str], length: int) -> np.ndarray:
    found = np.zeros(length, bool)
    for name in names:
        found |= failures[name]
    return found


def _along(values: np.ndarray, scale: Scale, low: float, high: float) -> np.ndarray:
    """0 at `low`, 1 at `high`."""
    if scale == "log":
        return np.log10(np.maximum(values, low) / low) / math.log10(high / low)
    return (values - low) / (high - low)


def _axis(values: np.ndarray, thresholds: list[float]) -> tuple[Scale, float, float]:
    """Scale and round ends that hold the thresholds and 99 % of the values: a few outliers would flatten everything else.

    Logarithmic where everything is positive and the largest is a hundred times the smallest.
    """
    ends = [*thresholds]
    if len(values):
        ends += np.percentile(values, [0.5, 99.5]).tolist() if len(values) > 200 else [values.min(), values.max()]
    low, high = (float(min(ends)), float(max(ends))) if ends else (0.0, 1.0)
    if low > 0 and high >= 100 * low:
        return "log", 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    if 0 < low < 0.5 * high:
        low = 0.0
    if high <= low:
        low, high = low - 0.5, high + 0.5
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(step * times for times in (1, 2, 2.5, 5, 10) if (high - low) / (step * times) <= 8)
    return "linear", float(math.floor(low / step) * step), float(math.ceil(high / step) * step)
