"""Everything pluggable on one page: a filter that scores, a detector that finds cuts, a captioner that describes.

A filter scores and knows no threshold; a recipe decides and sees no pixels. A new one is a new file beside its siblings:
`filters()` walks the packages and finds it, and the contract tests with it.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np

from curation.clips.frames import VideoFacts, decode_look
from curation.clips.strip import Strip

Rung = Literal["container", "keyframes", "frames", "models"]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One number about a clip. A change of how it is measured is a new version; rows of older versions are measured again."""

    name: str
    unit: str
    meaning: str
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """What a filter may look at: the facts of the video, the clip's slice of the strip, and, if it asks, pictures.

    looks: [(seconds from the clip's start, JPEG)], about one a second, long side at most 640 pixels.
    """

    facts: VideoFacts
    strip: Strip
    looks: Sequence[tuple[float, bytes]] = field(default=())

    def pictures(self, count: int) -> list[np.ndarray]:
        """At most `count` pictures spread evenly over the clip, RGB uint8 [H, W, 3]; fewer where the clip is short."""
        if not self.looks:
            return []
        spread = np.linspace(0, len(self.looks) - 1, min(count, len(self.looks)))
        return [decode_look(self.looks[round(i)][1]) for i in spread]


class Filter(ABC):
    """Measures clips. Final classes only; the name of the file is the name of the rule."""

    stage: ClassVar[str]  # visual or motion
    signals: ClassVar[tuple[Signal, ...]]
    rung: ClassVar[Rung] = (
        "frames"  # the cheapest rung of the ladder (curation.ladder) that can tell; "models" sees pictures
    )

    @abstractmethod
    def score(self, clip: ClipView) -> Mapping[str, float | None]:
        """Every declared signal; None where it could not be measured, never an invented number."""


@cache
def filters() -> tuple[Filter, ...]:
    """One instance of every filter in curation.visual and curation.motion, those on the strip first."""
    found: list[Filter] = []
    for package in ("curation.visual", "curation.motion"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            members = vars(importlib.import_module(module.name)).values()
            found += [
                m() for m in members if isinstance(m, type) and issubclass(m, Filter) and m.__module__ == module.name
            ]
    return tuple(sorted(found, key=lambda f: (f.rung == "models", f.stage != "visual", type(f).__name__)))


def signals() -> dict[str, Signal]:
    """Every signal that any filter measures, by name."""
    return {signal.name: signal for each in filters() for signal in each.signals}


class Captioner(ABC):
    """Turns what was measured of a clip, and what can be seen in it, into the sentence a model trains on."""

    name: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def caption(self, facts: Mapping[str, Any]) -> str:
        """One caption. `facts`: a row of the clips table, with `labels`, `label_scores` and `colours` of its pictures."""
