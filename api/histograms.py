"""One signal in 64 bins or fewer: from the bins that the commit wrote, from its sample, or from all scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from api.scores import Scores, unit_of
from curation.clips.statistics import Bins, Statistics
from curation.contracts import signals
from curation.recipes import Rule

NUM_BINS = 64
FEWEST = 16  # of the commit's bins on an axis; where outliers have made them wider than that, the sample shows more
Scale = Literal["linear", "log"]


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
    """Counts in bins from `low` to `high`, equal in the scale; what lies outside is in the first or last bin.

    exact: false where the bins of this signal are counted in the commit's sample and scaled to all clips; the rules' counts are exact.
    """

    signal: str
    unit: str
    meaning: str
    scale: Scale
    low: float
    high: float
    exact: bool
    all: list[int]
    kept: list[int]
    only_this: list[int]
    unmeasured: int
    rules: list[RuleCount]


def of_commit(found: Statistics, rules: Sequence[Rule]) -> list[Histogram]:
    """Of every signal that rules ask for, in recipe order, without reading a row."""
    sample = Scores.sampled(found, rules)
    if sample.clips.num_rows == found.clips:
        return of_scores(sample)
    counted = []
    for shown in of_scores(sample):
        exact = _of_bins(found, shown)
        if exact is None:
            exact = _scaled(shown, found)
        counted.append(replace(exact, rules=[_counted(found, rule, shown.rules) for rule in shown.rules]))
    return counted


def _scaled(shown: Histogram, found: Statistics) -> Histogram:
    """Bins of the sample, in clips of the snapshot."""
    factor = found.clips / found.sample.num_rows
    return replace(
        shown,
        exact=False,
        all=[round(clips * factor) for clips in shown.all],
        kept=[round(clips * factor) for clips in shown.kept],
        only_this=[round(clips * factor) for clips in shown.only_this],
        unmeasured=found.histograms.get(shown.signal, Bins.empty(found.clips)).unmeasured,
    )


def _counted(found: Statistics, rule: RuleCount, here: Sequence[RuleCount]) -> RuleCount:
    own = {each.rule for each in here}
    failed = [mask for mask in found.masks if rule.rule in mask.failed_rules]
    return replace(
        rule,
        rejects=sum(mask.clips for mask in failed),
        only_this=sum(mask.clips for mask in failed if own.issuperset(mask.failed_rules)),
    )


def _of_bins(found: Statistics, shown: Histogram) -> Histogram | None:
    """The same axis, widened to edges of the commit's bins, and its counts of all clips; None where these bins are too coarse."""
    linear = found.histograms.get(shown.signal)
    if linear is None or not linear.counts:
        return None
    bins = linear if shown.scale == "linear" else found.octaves[shown.signal]
    if not bins.counts:
        return None
    ends = (shown.low, shown.high) if shown.scale == "linear" else (math.log2(shown.low), math.log2(shown.high))
    first, past = math.floor(math.ldexp(ends[0], -bins.exponent)), math.ceil(math.ldexp(ends[1], -bins.exponent))
    if past - first < FEWEST:
        return None
    together = math.ceil((past - first) / NUM_BINS)
    count = math.ceil((past - first) / together)
    places = np.clip((np.arange(len(bins.counts)) + bins.first - first) // together, 0, count - 1)

    def regrouped(name: Literal["counts", "kept", "alone"]) -> list[int]:
        sums = np.zeros(count, np.int64)
        np.add.at(sums, places, np.array(getattr(bins, name), np.int64))
        sums[0] += sum(getattr(linear, name)) - sum(getattr(bins, name))  # of octaves: what is 0 or below
        return sums.tolist()

    low, high = (math.ldexp(place, bins.exponent) for place in (first, first + count * together))
    return replace(
        shown,
        low=low if shown.scale == "linear" else 2.0**low,
        high=high if shown.scale == "linear" else 2.0**high,
        all=regrouped("counts"),
        kept=regrouped("kept"),
        only_this=regrouped("alone"),
        unmeasured=linear.unmeasured,
    )


def of_scores(scores: Scores) -> list[Histogram]:
    """Of every signal that rules ask for, in recipe order: all clips, those kept, those that only the rules on it reject."""
    return [_of_signal(scores, name) for name in dict.fromkeys(rule.signal for rule in scores.rules)]


def _of_signal(scores: Scores, signal: str) -> Histogram:
    values = scores.values(signal)
    measured = ~np.isnan(values)
    rules = [rule for rule in scores.rules if rule.signal == signal]
    scale, low, high = _axis(values[measured], [rule.threshold for rule in rules])
    here = _any(scores.failures, [rule.name for rule in rules], len(values))
    elsewhere = _any(scores.failures, [rule.name for rule in scores.rules if rule.signal != signal], len(values))
    elsewhere |= scores.set_aside
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
        exact=True,
        all=count(measured),
        kept=count(scores.kept),
        only_this=count(here & ~elsewhere),
        unmeasured=int((~measured).sum()),
        rules=[
            RuleCount(
                rule=rule.name, comparison=rule.comparison, threshold=rule.threshold, source=rule.source,
                rejects=int(scores.failures[rule.name].sum()),
                only_this=int((scores.failures[rule.name] & ~elsewhere).sum()),
            )
            for rule in rules
        ],
    )  # fmt: skip


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
