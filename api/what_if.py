"""What other thresholds would keep: exactly, by what the commit counted or by one scan; or estimated from the commit's sample."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from api.query import name_of, text
from api.scores import COUNTED, Scores, WhatIf
from api.tables import TableCache, View, Views
from curation.clips import Snapshot
from curation.clips.statistics import Bins, Statistics
from curation.decide import COMPARE
from curation.recipes import Rule, parse_recipe

CONTENT = "content."
Z = 1.959964  # of a normal distribution: 95 % lie within so many deviations


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Between which two numbers of clips the exact count lies, 95 times of 100."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """sampled: how many clips were looked at where the counts are estimated; intervals: of each estimated count."""

    exact: bool
    counts: WhatIf
    sampled: int | None = None
    intervals: dict[str, Interval] | None = None


class Asking:
    """One snapshot, asked about thresholds. Rules not named keep theirs. Raises ValueError for a recipe that cannot be read."""

    def __init__(self, snapshot: Snapshot, views: Views, tables: TableCache):
        self.snapshot = snapshot
        self.rules = parse_recipe(snapshot.commit.recipe, "the recipe of this snapshot").all_rules
        self._views = views
        self._tables = tables
        self._statistics = snapshot.written_statistics()

    def exactly(self, thresholds: Mapping[str, float]) -> Answer:
        """By the commit's counts where they suffice, else by one scan of the columns that rules ask for."""
        return self._at_once(thresholds) or Answer(exact=True, counts=self._scanned(thresholds))

    def at_once(self, thresholds: Mapping[str, float]) -> Answer:
        """The same where no row need be read, else an estimate from the commit's sample. Lakes of before have none: exact."""
        found = self._statistics
        if found is None:
            return self.exactly(thresholds)
        if answer := self._at_once(thresholds):
            return answer
        counted = asdict(Scores.sampled(found, self.rules).what_if(thresholds))
        size = counted.pop("clips")
        return Answer(
            exact=False,
            counts=WhatIf(clips=found.clips, **{k: round(n / size * found.clips) for k, n in counted.items()}),
            sampled=size,
            intervals={name: wilson(number, size, found.clips) for name, number in counted.items()},
        )

    def _at_once(self, thresholds: Mapping[str, float]) -> Answer | None:
        """Exactly, where no row need be read; None where one must be."""
        found = self._statistics
        if found is None:
            return None
        counts = by_masks(found, self.rules, thresholds)
        if counts is None and found.sample.num_rows == found.clips:
            counts = Scores.sampled(found, self.rules).what_if(thresholds)
        return None if counts is None else Answer(exact=True, counts=counts)

    def _scanned(self, thresholds: Mapping[str, float]) -> WhatIf:
        view = self._views.open(self.snapshot, "clips")
        found = self._statistics
        if found is None or not all(_bounds(found, rule) for rule in self.rules if rule.signal in found.histograms):
            return Scores.of(self.snapshot, self._views, self._tables).what_if(thresholds)
        return scanned(view, self._views, found, self.rules, thresholds)


def by_masks(found: Statistics, rules: Sequence[Rule], thresholds: Mapping[str, float]) -> WhatIf | None:
    """Exact where every rule keeps its threshold, or rejects all or nothing that was measured; None where it does not."""
    rejects_all: dict[str, bool] = {}
    for rule in rules:
        if thresholds.get(rule.name, rule.threshold) != rule.threshold:
            passes = _passes(found, rule, thresholds[rule.name])
            if passes is None:
                return None
            rejects_all[rule.name] = not passes
    counts = dict.fromkeys(COUNTED, 0)
    for mask in found.masks:
        failed = set(mask.failed_rules) - rejects_all.keys()
        failed |= {name for name, everything in rejects_all.items() if everything and name not in mask.unmeasured}
        kept, aside = mask.fate == "kept", any(name.startswith(CONTENT) for name in failed)
        rejected = any(not name.startswith(CONTENT) for name in failed)
        certain = not rejected and not aside and (kept or not mask.unmeasured)
        for name, counts_here in (
            ("kept", certain),
            ("entering", certain and not kept),
            ("leaving", kept and not certain),
            ("unmeasured", not rejected and not aside and not certain),
            ("set_aside", aside and not rejected),
        ):
            counts[name] += mask.clips * counts_here
    return WhatIf(clips=found.clips, **counts)


def _passes(found: Statistics, rule: Rule, threshold: float) -> bool | None:
    """Whether all that was measured passes at this threshold (True) or none of it (False); None where some does."""
    bins = _bounds(found, rule)
    if bins is None:
        return None
    if bins.low is None or bins.high is None:
        return True
    low, high = (COMPARE[rule.comparison](value, threshold) for value in (bins.low, bins.high))
    return bool(low) if low == high else None


def _bounds(found: Statistics, rule: Rule) -> Bins | None:
    """The bins of a rule's score, where all that was measured of it is in them: what is not finite is in none."""
    bins = found.histograms.get(rule.signal)
    unmeasured = sum(mask.clips for mask in found.masks if rule.name in mask.unmeasured)
    return bins if bins is not None and bins.unmeasured == unmeasured else None


def scanned(
    view: View, views: Views, found: Statistics, rules: Sequence[Rule], thresholds: Mapping[str, float]
) -> WhatIf:
    """One scan of the clips alone: which of them the recipe itself lets pass follows from the same columns.

    Decisions are joined only to tell which clips of a lake are of this data set, where it holds others, and which of the clips that
    pass are copies or too many of their kind, where rules are stricter than they were.
    """
    changed = [rule for rule in rules if thresholds.get(rule.name, rule.threshold) != rule.threshold]
    aside = sum(mask.clips for mask in found.masks if any(name.startswith(CONTENT) for name in mask.failed_rules))
    kept = found.kept()
    after = [_condition(found, rule, thresholds.get(rule.name, rule.threshold)) for rule in rules]
    before = " AND ".join(filter(None, (_condition(found, rule, rule.threshold) for rule in changed))) or "true"
    measured = _measured(found, rules)
    stricter = any(_is_stricter(rule, thresholds[rule.name]) for rule in changed)
    with views.engine.cursor() as reader:
        clips, decisions = (view.sources[alias].between(reader, "clip_id", None) for alias in "cd")
        decided = f"{decisions} WHERE dataset = {text(view.snapshot.dataset)} AND kind = 'clip'"
        where = list(filter(None, after))
        if not view.owns_clips:
            where.append(f"c.clip_id IN (SELECT clip_id FROM {decided})")
        joined, left_aside = "", str(aside if not stricter else 0)
        if aside and stricter:
            copies = f"SELECT clip_id AS copy FROM {decided} AND rule LIKE '{CONTENT}%'"
            joined = f" LEFT JOIN ({copies}) ON copy = c.clip_id"
            left_aside = "count(copy)"
        stay, entering, unmeasured, set_aside = reader.rows(
            f"SELECT count(*) FILTER ({before}), count(*) FILTER (NOT ({before}) AND {measured}), "
            f"count(*) FILTER (NOT ({before}) AND NOT ({measured})), {left_aside} "
            f"FROM {clips} c{joined} WHERE {' AND '.join(where) or 'true'}"
        )[0]
    stay -= set_aside
    return WhatIf(
        clips=found.clips, kept=stay + entering, entering=entering, leaving=kept - stay, unmeasured=unmeasured,
        set_aside=set_aside,
    )  # fmt: skip


def _condition(found: Statistics, rule: Rule, threshold: float) -> str:
    """SQL of passing a rule; empty where everything does, so that its column is not read."""
    if rule.signal not in found.histograms or _passes(found, rule, threshold):
        return ""
    column = f"c.{name_of(rule.signal)}"
    compared = f"{column} {rule.comparison} {threshold!r}::DOUBLE"
    return f"({column} IS NULL OR {compared})" if found.histograms[rule.signal].unmeasured else compared


def _measured(found: Statistics, rules: Sequence[Rule]) -> str:
    """SQL of having every score that a rule asks for."""
    signals = dict.fromkeys(rule.signal for rule in rules)
    if any(signal not in found.histograms for signal in signals):
        return "false"
    return " AND ".join(f"c.{name_of(s)} IS NOT NULL" for s in signals if found.histograms[s].unmeasured) or "true"


def _is_stricter(rule: Rule, threshold: float) -> bool:
    return threshold > rule.threshold if rule.comparison in (">", ">=") else threshold < rule.threshold


def wilson(number: int, size: int, total: int) -> Interval:
    """Wilson's score interval (1927) of a count of `total`, of whose `size`, drawn without replacement, `number` were counted.

    The finite population correction makes the sample worth size (total - 1) / (total - size) draws: of all, it is exact.
    """
    if size >= total:
        return Interval(low=number, high=number)
    draws = size * (total - 1) / (total - size)
    share = number / size
    middle = (share + Z**2 / (2 * draws)) / (1 + Z**2 / draws)
    half = Z * math.sqrt(share * (1 - share) / draws + Z**2 / (4 * draws**2)) / (1 + Z**2 / draws)
    low, high = math.floor(total * (middle - half)), math.ceil(total * (middle + half))
    return Interval(low=max(low, number), high=min(high, total - size + number))
