"""The contact sheet: for every rule the clips nearest to its threshold, on both sides of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.report.footage import SIGNS, ClipCard, Footage, number
from api.report.media import thumbnail
from api.scores import unit_of
from curation.clips import Snapshot
from curation.contracts import signals
from curation.decide import COMPARE
from curation.recipes import Rule, parse_recipe
from curation.story import why_null

NEAREST = 3  # clips shown on either side of a threshold


@dataclass(frozen=True, kw_only=True)
class NearClip:
    """A clip beside a threshold."""

    name: str
    span: str
    value: str
    unit: str
    picture: str | None


@dataclass(frozen=True, kw_only=True)
class ContactRow:
    """One rule. below, above: clips left and right of the threshold, in order of their values; one of the two is inside.

    left_out: why clips have no value, with how many it holds for.
    """

    rule: str
    meaning: str
    asked: str
    source: str
    below: tuple[NearClip, ...]
    above: tuple[NearClip, ...]
    inside_is_below: bool
    num_inside: int
    num_outside: int
    left_out: tuple[tuple[str, int], ...]


def contact_sheet(snapshot: Snapshot, footage: Footage) -> list[ContactRow]:
    """A row for every rule on single clips, in recipe order. All clips with a value count, whatever became of them."""
    clips = snapshot.table("clips").to_pylist()
    cards = {card.clip_id: card for card in (*footage.kept, *footage.left)}
    small: dict[str, str | None] = {}
    rules = parse_recipe(snapshot.commit.recipe, f"the recipe of {snapshot.name}").all_rules
    return [_row(rule, [clip for clip in clips if clip["clip_id"] in cards], cards, small) for rule in rules]


def _row(
    rule: Rule, clips: Sequence[dict[str, Any]], cards: dict[str, ClipCard], small: dict[str, str | None]
) -> ContactRow:
    measured = [clip for clip in clips if clip.get(rule.signal) is not None]
    measured.sort(key=lambda clip: (clip[rule.signal], clip["clip_id"]))
    sides: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for clip in measured:
        sides[bool(COMPARE[rule.comparison](clip[rule.signal], rule.threshold))].append(clip)
    inside_is_below = rule.comparison in ("<", "<=")
    unit = _shown_unit(rule.signal)

    def near(clip: dict[str, Any]) -> NearClip:
        card = cards[clip["clip_id"]]
        if card.clip_id not in small:
            small[card.clip_id] = thumbnail(card.pictures[len(card.pictures) // 2]) if card.pictures else None
        return NearClip(
            name=card.name,
            span=card.span,
            value=number(clip[rule.signal]),
            unit=unit,
            picture=small[card.clip_id],
        )

    known = signals().get(rule.signal)
    reasons = Counter(why_null(clip, rule.signal) for clip in clips if clip.get(rule.signal) is None)
    return ContactRow(
        rule=rule.name,
        meaning=known.meaning if known else rule.signal.replace("_", " "),
        asked=f"{SIGNS[rule.comparison]} {number(rule.threshold)}{unit}",
        source=rule.source,
        below=tuple(near(clip) for clip in sides[inside_is_below][-NEAREST:]),
        above=tuple(near(clip) for clip in sides[not inside_is_below][:NEAREST]),
        inside_is_below=inside_is_below,
        num_inside=len(sides[True]),
        num_outside=len(sides[False]),
        left_out=tuple(reasons.most_common()),
    )


def _shown_unit(signal: str) -> str:
    """A unit as it follows a number; a range like 0..1 says nothing there."""
    unit = unit_of(signal)
    return "" if not unit or ".." in unit else f" {unit}"
