"""A video's or a clip's story in sentences: what was measured, what each rule said, what became of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation.clips import Lake, Snapshot, UnreadableVideo, WrongCall
from curation.clips.storage import normalise, sha256
from curation.contracts import signals
from curation.decide import COMPARE
from curation.recipes import Recipe

Row = dict[str, Any]


def tell(lake: Lake, what: str, dataset: str | None = None) -> Iterator[str]:
    """Lines about a file or a clip_id in every data set (or one) of a lake. Raises `WrongCall` where nothing is known of it."""
    found = False
    for name in [dataset] if dataset else lake.datasets():
        snapshot = lake.snapshot(name)
        ledger = snapshot.table("ledger").to_pylist()
        rows = _about(ledger, what)
        if rows:
            found = True
            yield f"In {snapshot.name}:"
            yield from _story(snapshot, rows)
    if not found:
        raise WrongCall(
            f"{what} is in no data set of {lake.uri}; name a file that was curated, or a clip_id of its ledger"
        )


def _about(ledger: list[Row], what: str) -> list[Row]:
    by_clip = [row for row in ledger if row["clip_id"] == what]
    if by_clip:
        return by_clip
    uri = normalise(what)
    by_uri = [row for row in ledger if row["uri"] == uri]
    if by_uri:
        return by_uri
    if Path(what).is_file():  # the same bytes under another name
        try:
            digest = sha256(what)[0][:32]
        except UnreadableVideo:
            return []
        return [row for row in ledger if row["video_id"] == digest]
    return []


def _story(snapshot: Snapshot, rows: list[Row]) -> Iterator[str]:
    recipe = Recipe.model_validate(snapshot.commit.recipe)
    clips = {row["clip_id"]: row for row in snapshot.table("clips").to_pylist()}
    decisions = {row["clip_id"]: row for row in snapshot.table("decisions").to_pylist() if row["clip_id"]}
    captions = {row["clip_id"]: row["caption"] for row in snapshot.table("captions").to_pylist()}
    for row in rows:
        if row["kind"] == "video":
            damaged = (
                " It is damaged, and was judged on what decodes."
                if row["damaged"] and row["fate"] != "quarantined"
                else ""
            )
            yield f"{row['uri']} was {_fate(row)}.{damaged}"
            continue
        yield f"  clip {row['clip_id']} ({row['start_seconds']:.2f}-{row['end_seconds']:.2f} s) was {_fate(row)}."
        if row["clip_id"] in captions:
            yield f'    caption: "{captions[row["clip_id"]]}"'
        yield from (f"    {line}" for line in _rules(recipe, clips[row["clip_id"]], decisions[row["clip_id"]]))


def _fate(row: Row) -> str:
    return row["fate"] if row["reason"] is None else f"{row['fate']} by {row['rule']}: {row['reason']}"


def _rules(recipe: Recipe, clip: Row, decision: Row) -> Iterator[str]:
    units = {name: signal.unit for name, signal in signals().items()}
    for rule in recipe.all_rules:
        value = clip.get(rule.signal)
        if value is None:
            why = why_null(clip, rule.signal)
            yield f"?  {rule.name}: {rule.signal} {why}; that fails no rule"
            continue
        passed = COMPARE[rule.comparison](value, rule.threshold)
        unit = f" ({units[rule.signal]})" if rule.signal in units else ""
        yield f"{'ok' if passed else 'NO'} {rule.name}: {rule.signal} {value:.4g}, asked {rule.comparison} {rule.threshold:.4g}{unit}"
    for name in decision["failed_rules"]:
        if name.startswith("content."):
            yield f"NO {name}: {decision['reason']}"


def why_null(clip: Row, signal: str) -> str:
    """Why a row of the clips table has no number for a signal, as the end of a sentence."""
    if signal in (clip.get("skipped_signals") or ()):
        return "spared, a cheaper rule had failed"
    return "could not be measured: " + json.loads(clip.get("unmeasured_signals") or "{}").get(
        signal, "no reason is on record"
    )
