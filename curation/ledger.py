"""The ledger's arithmetic: in = kept + rejected + duplicate + quarantined, and what each rule took."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from curation.clips.manifest import Snapshot
from curation.recipes import parse_recipe

FATES = ("kept", "rejected", "duplicate", "quarantined")


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """One rule, in recipe order. rejected: clips whose first failure it is; only_this_rule: clips that fail no other."""

    stage: str
    rule: str
    signal: str | None
    comparison: str | None
    threshold: float | None
    entered: int
    rejected: int
    left: int
    only_this_rule: int


def counts_of(decisions: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """videos_in, videos_kept, ..., clips_in, clips_kept, ...: the sum that every commit is checked against."""
    tally = Counter((row["kind"], row["fate"]) for row in decisions)
    result = {}
    for kind in ("video", "clip"):
        for fate in FATES:
            result[f"{kind}s_{fate}"] = tally[kind, fate]
        result[f"{kind}s_in"] = sum(n for (k, _), n in tally.items() if k == kind)
    return result


def check(counts: Mapping[str, int], videos_in: int, clips_in: int) -> None:
    """Raises AssertionError when a row was lost or invented; nothing is committed then."""
    for kind, entered in (("videos", videos_in), ("clips", clips_in)):
        fates = {fate: counts[f"{kind}_{fate}"] for fate in FATES}
        assert sum(fates.values()) == counts[f"{kind}_in"] == entered, (
            f"{entered} {kind} entered, the ledger has {fates}"
        )


def counts(snapshot: Snapshot) -> dict[str, dict[str, int]]:
    """{"videos": {"in", "kept", "rejected", "duplicate", "quarantined"}, "clips": the same}."""
    flat = snapshot.commit.counts
    return {kind: {fate: flat[f"{kind}_{fate}"] for fate in ("in", *FATES)} for kind in ("videos", "clips")}


def funnel(snapshot: Snapshot) -> list[FunnelStep]:
    """What each rule of the snapshot's recipe took, in recipe order, from the decisions alone."""
    recipe = parse_recipe(snapshot.commit.recipe, f"the recipe of {snapshot.name}")
    rules: list[tuple[str, str | None, str | None, float | None]] = [
        (rule.name, rule.signal, rule.comparison, rule.threshold) for rule in recipe.all_rules
    ]
    if recipe.near_duplicate_similarity is not None:
        rules.append(("content.near_duplicates", None, "<", recipe.near_duplicate_similarity))
    if recipe.balance:
        rules.append(("content.balance", None, None, None))
    rows = [r for r in snapshot.table("decisions", ["kind", "rule", "failed_rules"]).to_pylist() if r["kind"] == "clip"]
    first = Counter(row["rule"] for row in rows)
    alone = Counter(row["failed_rules"][0] for row in rows if len(row["failed_rules"]) == 1)
    steps, entered = [], len(rows)
    for name, signal, comparison, threshold in rules:
        left = entered - first[name]
        steps.append(
            FunnelStep(
                stage=name.partition(".")[0],
                rule=name,
                signal=signal,
                comparison=comparison,
                threshold=threshold,
                entered=entered,
                rejected=first[name],
                left=left,
                only_this_rule=alone[name],
            )
        )
        entered = left
    return steps
