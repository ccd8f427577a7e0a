"""Scores against rules: what each clip fails, and what would be kept at other thresholds. A query, never a decode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from api.query import name_of
from api.tables import TableCache, Views
from curation.clips import Snapshot
from curation.clips.statistics import Statistics
from curation.contracts import signals
from curation.decide import COMPARE
from curation.recipes import Rule, parse_recipe

UNITS = {"shot_seconds": "s", "duration_seconds": "s"}


@dataclass(frozen=True)
class Scores:
    """What was measured of the N clips of a snapshot, and what was decided. A null score is nan.

    clips: kept, set_aside and one float64 column for each signal that a rule asks for."""

    rules: tuple[Rule, ...]
    clips: pa.Table

    @staticmethod
    def sampled(found: Statistics, rules: Sequence[Rule]) -> "Scores":
        """Of the clips in a commit's sample, which are all clips where there are 50,000 or fewer."""
        sample = found.sample
        columns = {
            "kept": pc.equal(sample["fate"], "kept"),
            "set_aside": pc.fill_null(pc.starts_with(sample["rule"], "content."), False),
        }
        for name in sorted({rule.signal for rule in rules if rule.signal in sample.column_names}):
            columns[name] = sample[name].cast(pa.float64())
        return Scores(rules=tuple(rules), clips=pa.table(columns))

    @staticmethod
    def at_hand(snapshot: Snapshot, views: Views, tables: TableCache) -> "Scores":
        """Of the commit's sample, so that nothing is scanned; of all clips where the commit wrote none."""
        written = snapshot.written_statistics()
        if written is None:
            return Scores.of(snapshot, views, tables)
        return Scores.sampled(written, parse_recipe(snapshot.commit.recipe, "the recipe of this snapshot").all_rules)

    @staticmethod
    def of(snapshot: Snapshot, views: Views, tables: TableCache) -> "Scores":
        """Of all clips of a snapshot, against the rules of its recipe; only the columns they ask for are read."""
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
    def failures(self) -> dict[str, np.ndarray]:
        """Rule -> bool [N]: the clips that fail it."""
        return {rule.name: self.fails(rule) for rule in self.rules}


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


COUNTED = tuple(field.name for field in fields(WhatIf) if field.name != "clips")
