"""What a run's page says beside its curves: data, kernels, memory, checkpoints, and how its recipe differs from the named one."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.checkpoints import list_checkpoints
from training.recipes import TAE_RECIPES, VIDEO_RECIPES
from training.runs import load_run

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Clips that no bucket takes for one kind of reason, with one of them as an example."""

    num_clips: int
    clip_id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A checkpoint that is still there."""

    step: int
    size: str
    seconds: float  # from the order to the commit
    blocked_seconds: float  # of these, how long training stood still
    written: datetime


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A field of the recipe that the named one has otherwise; JSON, or None where it has no such field."""

    field: str
    named: str | None
    here: str | None


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All fields in which a recipe differs from the named one it was built on, or is."""

    named: str
    rows: tuple[Difference, ...]


def left_out(excluded: Mapping[str, str]) -> list[LeftOut]:
    """Reasons that differ by their first number alone are one kind; the most frequent first."""
    kinds: dict[str, list[str]] = {}
    for clip_id, why in excluded.items():
        kinds.setdefault(re.sub(r"\d+(\.\d+)?", "", why, count=1), []).append(clip_id)
    found = [LeftOut(num_clips=len(clips), clip_id=clips[0], why=excluded[clips[0]]) for clips in kinds.values()]
    return sorted(found, key=lambda kind: -kind.num_clips)


def kernels(lines: Lines) -> dict[str, dict[str, int]]:
    """Calls by kernel of each shape's first forward pass, as logged last."""
    return {line["bucket"]: line["calls"] for line in lines if line["event"] == "kernels"}


def checkpoints(folder: Path, lines: Lines) -> list[Kept]:
    """Those still there, oldest first, as the log told of them."""
    told = {line["at_step"]: line for line in lines if line["event"] == "checkpoint"}
    return [
        Kept(
            step=checkpoint.step,
            size=spoken_bytes(told[checkpoint.step]["bytes"]),
            seconds=told[checkpoint.step]["seconds"],
            blocked_seconds=told[checkpoint.step]["blocked_seconds"],
            written=datetime.fromtimestamp(told[checkpoint.step]["time"], UTC),
        )
        for checkpoint in list_checkpoints(load_run(folder).storage)
        if checkpoint.step in told
    ]


def differences(recipe: Mapping[str, Any]) -> Differences | None:
    """Against the named recipe as this version has it; None where a recipe was built on none."""
    known: dict[str, Callable[[], Any]] = {**TAE_RECIPES, **VIDEO_RECIPES}
    named = recipe.get("base") or recipe["name"]
    if named not in known:
        return None
    theirs = dict(_flat(json.loads(json.dumps(asdict(known[named]())))))
    ours = dict(_flat(recipe))
    rows = [
        Difference(field=name, named=_json(theirs, name), here=_json(ours, name))
        for name in sorted(theirs.keys() | ours.keys())
        if name not in ("name", "base") and _json(theirs, name) != _json(ours, name)
    ]
    return Differences(named=named, rows=tuple(rows))


def spoken_batch(batch: Mapping[str, int]) -> str:
    """What one step reads: 10 videos of one bucket and 1 image."""
    counts = {"video": batch["videos"], "image": batch["images"]}
    words = {kind: f"{count:,} {kind}{'s' * (count != 1)}" for kind, count in counts.items() if count}
    if "video" in words:
        words["video"] += " of one bucket"
    if "image" in words:
        words["image"] += ", single frames of clips" if counts["image"] > 1 else ", a single frame of a clip"
    return " and ".join(words.values())


def spoken_bytes(count: float) -> str:
    """Decimal, three digits: 812 MB, 1.25 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def spoken_hours(hours: float) -> str:
    """In the unit that reads best."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{60 * hours:.1f} minutes" if 60 * hours >= 1 else f"{3600 * hours:.1f} seconds"


def _flat(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of the innermost values; lists stay whole."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


def _json(values: Mapping[str, Any], name: str) -> str | None:
    return json.dumps(values[name]) if name in values else None
