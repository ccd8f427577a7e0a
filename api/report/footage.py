"""What the report says of a snapshot: sums, what each rule took, and a card for every clip and every unreadable video."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from api.report.credits import Credit, find_credits
from api.report.media import preview, stills
from curation.clips import Snapshot
from curation.ledger import FunnelStep, counts, funnel
from curation.recipes import Rule, parse_recipe
from curation.story import why_null

THREE_STILLS = (1 / 6, 1 / 2, 5 / 6)  # of a clip's length
SIGNS = {"<": "<", "<=": "≤", ">": ">", ">=": "≥"}


@dataclass(frozen=True, kw_only=True)
class ClipCard:
    """One clip of the ledger, with pictures. `video` plays where the clip was kept."""

    clip_id: str
    name: str
    span: str
    facts: str
    fate: str
    rule: str | None
    reason: str | None
    measured: str | None  # "16, asked ≥ 24"
    copy_of: str | None  # name of the clip that stays instead
    also: tuple[str, ...]  # further rules that it fails
    unmeasured: tuple[str, ...]  # "logo score could not be measured: ..."
    caption: str | None
    held_out: bool
    damaged: bool
    pictures: tuple[str, ...]
    video: str | None
    credit: Credit | None


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """One video of the ledger."""

    name: str
    fate: str
    reason: str | None
    facts: str
    credit: Credit | None


@dataclass(frozen=True, kw_only=True)
class Footage:
    """The curation half of a report."""

    sums: dict[str, dict[str, int]]  # videos, clips -> in and the four fates
    seconds_in: float
    seconds_kept: float
    steps: tuple[FunnelStep, ...]
    kept: tuple[ClipCard, ...]
    left: tuple[ClipCard, ...]
    videos: tuple[VideoRow, ...]
    credits: tuple[Credit, ...]

    @property
    def quarantined(self) -> list[VideoRow]:
        """Videos that could not be read."""
        return [video for video in self.videos if video.fate == "quarantined"]


def read_footage(snapshot: Snapshot, progress: Callable[[int, int], None] | None = None) -> Footage:
    """Everything the page shows of a snapshot; decodes a few frames of every clip."""
    ledger = snapshot.table("ledger").to_pylist()
    clips = {row["clip_id"]: row for row in snapshot.table("clips").to_pylist()}
    videos = {(row["uri"], row["video_id"]): row for row in snapshot.table("videos").to_pylist()}
    decisions = {row["clip_id"]: row for row in snapshot.table("decisions").to_pylist() if row["clip_id"]}
    captions = {row["clip_id"]: row["caption"] for row in snapshot.table("captions").to_pylist()}
    credits = find_credits(videos.values())
    rules = parse_recipe(snapshot.commit.recipe, f"the recipe of {snapshot.name}").all_rules

    names = {row["clip_id"]: short_name(row["uri"]) for row in ledger if row["clip_id"]}

    def card(row: dict[str, Any]) -> ClipCard:
        clip = clips[row["clip_id"]] | {"uri": row["uri"]}
        return _clip_card(
            row,
            clip,
            decisions[row["clip_id"]],
            rules,
            caption=captions.get(row["clip_id"]),
            credit=credits.get(row["uri"]),
            copy_of=names.get(row["duplicate_of"]),
        )

    rows, cards = [row for row in ledger if row["kind"] == "clip"], []
    for number, row in enumerate(rows):
        if progress:
            progress(number, len(rows))
        cards.append(card(row))
    steps = funnel(snapshot)
    order = {step.rule: place for place, step in enumerate(steps)}
    kept = [card for card in cards if card.fate == "kept"]
    left = [card for card in cards if card.fate != "kept"]
    left.sort(key=lambda card: order.get(card.rule or "", len(order)))
    return Footage(
        sums=counts(snapshot),
        seconds_in=sum(row["duration_seconds"] or 0.0 for row in videos.values()),
        seconds_kept=sum(clips[card.clip_id]["duration_seconds"] for card in kept),
        steps=tuple(steps),
        kept=tuple(kept),
        left=tuple(left),
        videos=tuple(_video_row(row, videos, credits) for row in ledger if row["kind"] == "video"),
        credits=tuple(sorted(credits.values(), key=lambda credit: credit.file)),
    )


def _clip_card(
    row: dict[str, Any],
    clip: dict[str, Any],
    decision: dict[str, Any],
    rules: Sequence[Rule],
    *,
    caption: str | None,
    credit: Credit | None,
    copy_of: str | None,
) -> ClipCard:
    kept = row["fate"] == "kept"
    pictures = stills(clip, THREE_STILLS[1:2] if kept else THREE_STILLS)
    return ClipCard(
        clip_id=row["clip_id"],
        name=short_name(row["uri"]),
        span=f"{row['start_seconds']:.1f}–{row['end_seconds']:.1f} s",
        facts=f"{clip['width']}×{clip['height']} · {clip['fps']:.3g} fps",
        fate=row["fate"],
        rule=row["rule"],
        reason=row["reason"],
        measured=_measured(row),
        copy_of=copy_of,
        also=tuple(name for name in decision["failed_rules"] or () if name != row["rule"]),
        unmeasured=tuple(
            f"{rule.signal.replace('_', ' ')} {why_null(clip, rule.signal)}"
            for rule in rules
            if clip.get(rule.signal) is None
        ),
        caption=caption,
        held_out=kept and decision["split"] != "train",
        damaged=bool(row["damaged"]),
        pictures=tuple(pictures),
        video=preview(clip) if kept else None,
        credit=credit,
    )


def _measured(row: dict[str, Any]) -> str | None:
    if row["value"] is None or row["threshold"] is None:
        return None
    return f"{number(row['value'])}, asked {SIGNS.get(row['comparison'], row['comparison'])} {number(row['threshold'])}"


def _video_row(row: dict[str, Any], videos: dict[Any, dict[str, Any]], credits: dict[str, Credit]) -> VideoRow:
    video = videos[row["uri"], row["video_id"]]
    facts = f"{video['bytes']:,} bytes" if video["bytes"] else ""
    if video["codec"] and video["duration_seconds"]:
        facts = f"{video['codec']}, {video['width']}×{video['height']}, {video['duration_seconds']:.1f} s"
    damaged = " (damaged: judged on what decodes)" if row["damaged"] and row["fate"] != "quarantined" else ""
    return VideoRow(
        name=short_name(row["uri"]),
        fate=row["fate"],
        reason=(row["reason"] or "") + damaged or None,
        facts=facts,
        credit=credits.get(row["uri"]),
    )


def number(value: float) -> str:
    """Three digits, or all of a large whole number: 0.0613, 1.72, 1,280."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def short_name(uri: str) -> str:
    """The last part of a path or URI."""
    return os.path.basename(uri.rstrip("/")) or uri


def idle(steps: Sequence[FunnelStep]) -> list[FunnelStep]:
    """The rules that took nothing."""
    return [step for step in steps if not step.rejected]
