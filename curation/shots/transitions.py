"""What a shot detector answers: cuts, gradual transitions, and where it would rather be asked again."""

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["dissolve", "fade"]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A hard cut. `frame` is the first of the new shot; `score` is how far above the threshold it is (1 is just at it)."""

    frame: int
    seconds: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Gradual:
    """A gradual transition: the frames start_frame..end_frame (half-open) belong to no shot.

    A dissolve, and a fade inside the video, lie between two shots. A fade that touches the video's first or last frame opens or
    closes one shot. Seconds are those of the frames' presentation, the end that of `end_frame`.
    """

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Window:
    """Frames (half-open) about which the detector is unsure. closeness: 0..1, 1 where its score is just at the threshold."""

    start_frame: int
    end_frame: int
    closeness: float


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """All transitions of a video in time order, and the windows a referee may be asked about; these hold at most one each."""

    cuts: list[Cut]
    gradual: list[Gradual]
    unsure: list[Window]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a referee says of a window: the transition it sees there, and how sure it is, 0..1. A transition may be none."""

    window: Window
    seen: Cut | Gradual | None
    probability: float  # that there is a transition


OVERTURN = 0.8  # a referee that is less sure than this leaves the detector's answer; TransNet gives a swung camera 0.67


def settle(found: Transitions, verdicts: list[Verdict]) -> Transitions:
    """The detector's answer with the referee's verdicts in it: a sure "none" removes, a sure transition adds or replaces."""
    cuts, gradual, unsure = list(found.cuts), list(found.gradual), list(found.unsure)
    for verdict in verdicts:
        start, end = verdict.window.start_frame, verdict.window.end_frame
        unsure = [window for window in unsure if window != verdict.window]
        if 1 - OVERTURN < verdict.probability < OVERTURN:
            continue
        had_cuts = [cut for cut in cuts if start <= cut.frame < end]
        had_gradual = [each for each in gradual if each.start_frame < end and each.end_frame > start]
        if verdict.seen is not None and (had_gradual or (had_cuts and isinstance(verdict.seen, Cut))):
            continue  # the two agree; the detector's frames are the finer ones
        cuts = [cut for cut in cuts if cut not in had_cuts]
        gradual = [each for each in gradual if each not in had_gradual]
        if isinstance(verdict.seen, Cut):
            cuts.append(verdict.seen)
        elif verdict.seen is not None:
            gradual.append(verdict.seen)
    return replace(
        found,
        cuts=sorted(cuts, key=lambda cut: cut.frame),
        gradual=sorted(gradual, key=lambda each: each.start_frame),
        unsure=unsure,
    )
