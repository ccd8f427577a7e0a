"""Cheap first: container -> packets -> keyframes -> all frames -> models. A rung asks a rule before the next one is paid for.

A rung below "frames" knows no shots, so it may only say that *every* clip of a video would fail a rule: the picture is too small, the
whole video is shorter than a scene must be, every keyframe is black. Whether it was right is measured on the audit sample, which
climbs the whole ladder nevertheless (`ledger.ladder`).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import Scan, VideoFacts, packet_seconds
from curation.clips.signals import half_size, picture_signals
from curation.clips.strip import Strip
from curation.clips.time import Clock
from curation.contracts import ClipView, Score, Unmeasured, filters
from curation.decide import COMPARE
from curation.recipes import Recipe, Rule

_NO_STRIP = Strip(
    video_id="",
    clock=Clock(pts=np.empty(0, np.int64), end_pts=0, time_base=Fraction(1)),
    keyframes=np.empty(0, bool),
    signals={},
)
MIN_KEYFRAMES = 3  # fewer say too little of a video
MAX_KEYFRAME_GAP_SECONDS = 10.0  # between two keyframes; longer gaps may hide anything
MARGIN_SECONDS = 0.5  # time stamps of packets may miss the last frame's showing


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A rung's word that no clip of a video can pass `rule`. value: of the rule's signal."""

    rung: str
    rule: str
    value: float

    def as_columns(self) -> dict[str, Any]:
        """As columns of the videos table."""
        return {"early_rung": self.rung, "early_rule": self.rule, "early_value": self.value}


def ask_container(facts: VideoFacts, recipe: Recipe) -> Verdict | None:
    """Rules on the displayed size, which the container and the first frame tell."""
    view = ClipView(facts=facts, strip=_NO_STRIP)
    scores = {name: value for each in filters() if each.rung == "container" for name, value in each.score(view).items()}
    for rule in recipe.rules:
        value = scores.get(rule.signal)
        if isinstance(value, float) and _fails(rule, value):
            return Verdict(rung="container", rule=rule.name, value=value)
    return None


def ask_packets(path: str, recipe: Recipe) -> Verdict | None:
    """A shot is no longer than its video; packets tell how long that is at most, at a twentieth of the cost of decoding."""
    seconds = packet_seconds(path)
    if seconds is None:  # for the decode to say
        return None
    for rule in recipe.all_rules:
        lengths = ("shot_seconds", "duration_seconds", "clip_seconds", "video_seconds")
        at_least = rule.signal in lengths and rule.comparison in (">", ">=")
        if at_least and seconds + MARGIN_SECONDS < rule.threshold:
            return Verdict(rung="packets", rule=rule.name, value=seconds)
    return None


def ask_keyframes(path: str, recipe: Recipe) -> Verdict | None:
    """Rules on single pictures, asked of every keyframe: only where all of them fail the same rule it is a verdict.

    No further keyframe is decoded, and no filter asked, once no verdict can come of it.
    """
    rules = [rule for rule in recipe.rules if rule.signal in _picture_signals()]
    if not rules:
        return None
    scan = Scan(path, looks=False, keyframes_only=True)
    pts: list[np.ndarray] = []
    scores: list[dict[str, Score]] = []
    for batch in scan:
        assert scan.facts is not None
        clock = Clock(pts=batch.pts, end_pts=int(batch.pts[-1]), time_base=scan.facts.time_base)
        signals = picture_signals(batch, half_size(batch.luma))
        strip = Strip(video_id="", clock=clock, keyframes=batch.keyframes, signals=signals)
        for frame in range(len(strip)):
            view = ClipView(facts=scan.facts, strip=strip.span(frame, frame + 1), models=recipe.models)
            wanted = {rule.signal for rule in rules}
            asked = [each for each in filters() if wanted & {signal.name for signal in each.signals}]
            scores.append({signal: value for each in asked for signal, value in each.score(view).items()})
            rules = [rule for rule in rules if _fails(rule, scores[-1][rule.signal])]
            if not rules:
                return None  # one good picture is enough to go on
        pts.append(batch.pts)
    assert scan.facts is not None
    clock = Clock(pts=np.concatenate(pts), end_pts=scan.end.end_pts, time_base=scan.facts.time_base)
    end = max(scan.facts.claimed_seconds or 0.0, clock.duration_seconds)
    gaps = np.diff(clock.frame_seconds, append=end)
    if len(clock) < MIN_KEYFRAMES or gaps.max() > MAX_KEYFRAME_GAP_SECONDS:
        return None
    values = [score[rules[0].signal] for score in scores]
    return Verdict(rung="keyframes", rule=rules[0].name, value=float(np.median(np.array(values, np.float64))))


def _picture_signals() -> set[str]:
    return {signal.name for each in filters() if each.rung == "keyframes" for signal in each.signals}


def _fails(rule: Rule, value: Score) -> bool:
    return not isinstance(value, Unmeasured) and not COMPARE[rule.comparison](value, rule.threshold)


def stored_verdict(video: dict[str, Any] | None, recipe: Recipe) -> Verdict | None:
    """The verdict that an earlier run left in a videos row, if this recipe's rule of that name would speak it, too."""
    if video is None or video.get("early_rung") is None:
        return None
    for rule in recipe.all_rules:
        if rule.name == video["early_rule"] and _fails(rule, video["early_value"]):
            return Verdict(rung=video["early_rung"], rule=rule.name, value=video["early_value"])
    return None


def climb(path: str, recipe: Recipe) -> Verdict | None:
    """What the rungs below a full decode say of a video, packets first. Damage is for the full decode to judge."""
    try:
        return ask_packets(path, recipe) or ask_keyframes(path, recipe)
    except UnreadableVideo:
        return None
