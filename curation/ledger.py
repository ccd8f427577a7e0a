"""The ledger's arithmetic: in = kept + rejected + duplicate + quarantined, what each rule took, what each rung of the ladder spared."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from curation.clips.snapshot import Snapshot
from curation.decide import EARLY_RUNGS
from curation.measure import claimed_seconds
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
    """What each rule of the snapshot's recipe took, in recipe order: as the commit counted it, or from the decisions."""
    recipe = parse_recipe(snapshot.commit.recipe, f"the recipe of {snapshot.name}")
    rules: list[tuple[str, str | None, str | None, float | None]] = [
        (rule.name, rule.signal, rule.comparison, rule.threshold) for rule in recipe.all_rules
    ]
    if recipe.near_duplicate_similarity is not None:
        rules.append(("content.near_duplicates", None, "<", recipe.near_duplicate_similarity))
    if recipe.balance:
        rules.append(("content.balance", None, None, None))
    if recipe.landscape_share is not None:
        rules.append(("content.orientation", None, None, None))
    first: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    sets = failures(snapshot)
    for failed, clips in sets:
        if failed:  # in recipe order, so the first one decided
            first[failed[0]] += clips
        if len(failed) == 1:
            alone[failed[0]] += clips
    steps, entered = [], sum(clips for _, clips in sets)
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


def failures(snapshot: Snapshot) -> list[tuple[tuple[str, ...], int]]:
    """Sets of rules that clips fail, in recipe order, and how many clips do; a set may come more than once."""
    written = snapshot.written_statistics()
    if written is not None:
        return [(mask.failed_rules, mask.clips) for mask in written.masks]
    with duckdb.connect() as db:
        db.register("decisions", snapshot.arrow("decisions"))
        found = db.execute(
            "SELECT coalesce(failed_rules, []), count(*) FROM decisions WHERE dataset = ? AND kind = 'clip' GROUP BY 1",
            [snapshot.dataset],
        ).fetchall()
    return [(tuple(failed), clips) for failed, clips in found]


@dataclass(frozen=True, kw_only=True)
class LadderStep:
    """One rung of a run with a ladder. stopped: videos (clips, on the rung of models) that paid for nothing above it.

    spent, saved: CPU seconds; saved is estimated from what the others cost per second and megapixel. audited: videos that the rung
    would have stopped and that climbed on for the audit; wrong: those of them that have a clip kept.
    """

    rung: str
    stopped: int
    spent: float
    saved: float
    audited: int
    wrong: int


def ladder(snapshot: Snapshot) -> list[LadderStep]:
    """What each rung stopped and saved. Empty where no rung stopped or audited anything."""
    by_bytes = {row["video_id"]: row for row in snapshot.table("videos").to_pylist()}
    videos = [row for row in by_bytes.values() if row.get("rung") is not None]
    decided = snapshot.table("decisions", ["kind", "video_id", "fate"]).to_pylist()
    kept = {row["video_id"] for row in decided if row["kind"] == "clip" and row["fate"] == "kept"}
    full = [row for row in videos if row["rung"] not in EARLY_RUNGS]
    seconds = sum(row["duration_seconds"] for row in full)
    per_megapixel = _share(
        sum(row["decode_seconds"] for row in full),
        sum(row["duration_seconds"] * row["width"] * row["height"] for row in full),
    )
    per_second = _share(sum(row["model_seconds"] for row in full), seconds)
    steps = []
    for rung in EARLY_RUNGS:
        stopped = [row for row in videos if row["rung"] == rung]
        audit = [row for row in full if row["early_rung"] == rung]
        spared = [(claimed_seconds(row), row["width"] * row["height"]) for row in stopped]
        steps.append(
            LadderStep(
                rung=rung,
                stopped=len(stopped),
                spent=sum(row["early_seconds"] or 0.0 for row in stopped),
                saved=sum(length * (pixels * per_megapixel + per_second) for length, pixels in spared),
                audited=len(audit),
                wrong=sum(row["video_id"] in kept for row in audit),
            )
        )
    clips = snapshot.table("clips", ["duration_seconds", "skipped_signals"]).to_pylist()
    skipped = [clip["duration_seconds"] for clip in clips if clip["skipped_signals"]]
    seen = sum(clip["duration_seconds"] for clip in clips) - sum(skipped)
    models = sum(row["model_seconds"] for row in full)
    saved = sum(skipped) * _share(models, seen)
    steps.append(LadderStep(rung="models", stopped=len(skipped), spent=models, saved=saved, audited=0, wrong=0))
    return steps if any(step.stopped or step.audited for step in steps) else []


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
