"""A recipe decides: scores and thresholds in, one fate per clip out. Pure: no pixels, no files, no Ray."""

import hashlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from curation.content.concept_balance import clusters, draws, keep_probability
from curation.content.near_duplicates import duplicate_groups
from curation.content.orientation import surplus
from curation.recipes import Recipe, Rule

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
SAID = {"<": "not below", "<=": "above", ">": "not above", ">=": "below"}  # how a rule that failed reads
EARLY_RUNGS = ("container", "packets", "keyframes")  # of the ladder: no clips were cut
VALIDATION_SHARE = 0.1

Row = dict[str, Any]


def decide_clips(clips: Sequence[Mapping[str, Any]], embeddings: Mapping[str, np.ndarray], recipe: Recipe) -> list[Row]:
    """One decision row per clip, in the order given: fate, first failed rule, reason, and the content stage's verdicts.

    clips: rows of the clips table with `uri`. embeddings: clip_id -> unit float32 [D]; clips without one are compared with none.
    """
    rows = [_judge(clip, recipe.all_rules) for clip in clips]
    alive = [i for i, row in enumerate(rows) if row["fate"] == "kept" and clips[i]["clip_id"] in embeddings]
    if alive:
        _compare(rows, clips, np.stack([embeddings[clips[i]["clip_id"]] for i in alive]), alive, recipe)
    if recipe.landscape_share is not None:
        _mix(rows, clips, recipe.landscape_share)
    _split(rows)
    return rows


def _judge(clip: Mapping[str, Any], rules: Sequence[Rule]) -> Row:
    row: Row = {
        "kind": "clip",
        "uri": clip["uri"],
        "video_id": clip["video_id"],
        "clip_id": clip["clip_id"],
        "fate": "kept",
        "stage": None,
        "rule": None,
        "value": None,
        "comparison": None,
        "threshold": None,
        "reason": None,
        "duplicate_of": None,
        "failed_rules": [],
        "unmeasured": [],
        "cluster": None,
        "duplicate_group": clip["clip_id"],
        "split": None,
    }
    for rule in rules:
        value = clip.get(rule.signal)
        if value is None:
            row["unmeasured"].append(rule.name)
        elif not COMPARE[rule.comparison](value, rule.threshold):
            if not row["failed_rules"]:
                _leave(
                    row,
                    rule.name,
                    value,
                    rule.comparison,
                    rule.threshold,
                    _sentence(rule.signal, value, rule.comparison, rule.threshold),
                )
            row["failed_rules"].append(rule.name)
    return row


def _sentence(signal: str, value: float, comparison: str, threshold: float) -> str:
    return f"{signal.replace('_', ' ')} {value:.4g} is {SAID[comparison]} {threshold:.4g}"


def _leave(
    row: Row, rule: str, value: float | None, comparison: str, threshold: float, reason: str, fate: str = "rejected"
) -> None:
    row |= {
        "fate": fate,
        "stage": rule.partition(".")[0],
        "rule": rule,
        "value": None if value is None else float(value),
        "comparison": comparison,
        "threshold": float(threshold),
        "reason": reason,
    }


def _compare(
    rows: list[Row], clips: Sequence[Mapping[str, Any]], vectors: np.ndarray, alive: list[int], recipe: Recipe
) -> None:
    """The content stage: copies first, then the balance of what is left."""
    ids = [clips[i]["clip_id"] for i in alive]
    if recipe.near_duplicate_similarity is not None:
        threshold = recipe.near_duplicate_similarity
        groups, _ = duplicate_groups(vectors, threshold)
        for group in np.unique(groups):
            members = [k for k in range(len(alive)) if groups[k] == group]
            best = max(members, key=lambda k: _quality(clips[alive[k]]))
            for k in members:
                rows[alive[k]]["duplicate_group"] = ids[best]
                if k == best:
                    continue
                cosine = float(vectors[k] @ vectors[best])
                row = rows[alive[k]]
                reason = (
                    f"a copy of clip {ids[best]} (cosine {cosine:.3f}), which has more pixels, or is longer or sharper"
                )
                _leave(row, "content.near_duplicates", cosine, "<", threshold, reason, fate="duplicate")
                row["duplicate_of"] = ids[best]
                row["failed_rules"].append("content.near_duplicates")
    left = [k for k in range(len(alive)) if rows[alive[k]]["fate"] == "kept"]
    if not left:
        return
    cluster = clusters(vectors[left])
    share = keep_probability(cluster, recipe.balance_keep_below)
    drawn = draws([ids[k] for k in left])
    for position, k in enumerate(left):
        row = rows[alive[k]]
        row["cluster"] = int(cluster[position])
        if recipe.balance and drawn[position] >= share[position]:
            size = int((cluster == cluster[position]).sum())
            reason = f"one of {size} clips of one concept, of which {share[position]:.0%} are kept; its draw was {drawn[position]:.3f}"
            _leave(row, "content.balance", drawn[position], "<", share[position], reason)
            row["failed_rules"].append("content.balance")


def _mix(rows: list[Row], clips: Sequence[Mapping[str, Any]], landscape_share: float) -> None:
    """The set's mix of orientations, last, so that it is what the data set has."""
    left = [i for i, row in enumerate(rows) if row["fate"] == "kept"]
    wide = [clips[i]["width"] >= clips[i]["height"] for i in left]
    gone, drawn = surplus(wide, [clips[i]["clip_id"] for i in left], landscape_share)
    last = {
        side: max((d for d, w, g in zip(drawn, wide, gone, strict=True) if w == side and not g), default=0.0)
        for side in (True, False)
    }
    for i, is_wide, goes, draw in zip(left, wide, gone, drawn, strict=True):
        if goes:
            name = "landscape" if is_wide else "portrait"
            words = f"more {name} clips than a set with {landscape_share:.0%} landscape has room for; its draw was {draw:.3f}"
            _leave(rows[i], "content.orientation", draw, "<=", last[is_wide], words)
            rows[i]["failed_rules"].append("content.orientation")


def _quality(clip: Mapping[str, Any]) -> tuple[float, float, float, str]:
    """Which copy stays: more pixels, then longer, then sharper; the identity breaks ties the same way every time."""
    return (clip["width"] * clip["height"], clip["duration_seconds"], clip.get("sharpness") or 0.0, clip["clip_id"])


def _split(rows: list[Row]) -> None:
    """Held-out split: clips of one video, and copies of one another, always fall on the same side."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for row in rows:
        a, b = root("v" + row["video_id"]), root("g" + row["duplicate_group"])
        parent[max(a, b)] = min(a, b)
    for row in rows:
        digest = hashlib.sha256(root("v" + row["video_id"]).encode()).digest()
        row["split"] = "validation" if digest[0] < 256 * VALIDATION_SHARE else "train"


def decide_video(video: Mapping[str, Any], clip_rows: Sequence[Row], original: str | None, recipe: Recipe) -> Row:
    """The fate of one video. original: the URI that entered first with the same bytes, if this is the second."""
    row: Row = {
        "kind": "video",
        "uri": video["uri"],
        "video_id": video["video_id"],
        "clip_id": None,
        "fate": "kept",
        "failed_rules": [],
        "unmeasured": [],
    } | dict.fromkeys(
        (
            "stage",
            "rule",
            "value",
            "comparison",
            "threshold",
            "reason",
            "duplicate_of",
            "cluster",
            "duplicate_group",
            "split",
        )
    )
    if original is not None:
        return row | {
            "fate": "duplicate", "stage": "source", "rule": "source.same_bytes", "duplicate_of": original,
            "reason": f"the same bytes as {original}", "failed_rules": ["source.same_bytes"],
        }  # fmt: skip
    if video["cause"] is not None:
        rule = f"source.{video['cause']}"
        return row | {
            "fate": "quarantined",
            "stage": "source",
            "rule": rule,
            "reason": video["error"],
            "failed_rules": [rule],
        }
    if any(clip["fate"] == "kept" for clip in clip_rows):
        return row
    if video.get("rung") in EARLY_RUNGS:
        [early] = [each for each in recipe.all_rules if each.name == video["early_rule"]]
        said = _sentence(early.signal, video["early_value"], early.comparison, early.threshold)
        reason = f"{said}, by its {video['rung']} alone (no more was read)"
        _leave(row, early.name, video["early_value"], early.comparison, early.threshold, reason)
        return row | {"failed_rules": [early.name]}
    tally: dict[str, int] = {}
    for clip in clip_rows:
        tally[clip["rule"]] = tally.get(clip["rule"], 0) + 1
    summary = ", ".join(f"{n} x {rule}" for rule, n in sorted(tally.items(), key=lambda item: (-item[1], item[0])))
    most = max(tally, key=lambda rule: tally[rule]) if tally else "shots.none"
    return row | {
        "fate": "rejected", "stage": most.partition(".")[0], "rule": most,
        "reason": f"no clip survived: {summary}" if summary else "no shot was found", "failed_rules": sorted(tally),
    }  # fmt: skip
