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
from pydantic import BaseModel, ConfigDict, Field

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


class Unmeasured(str):
    """Why a clip has no number for a signal, one clause. Stored as a null with this reason beside it; it fails no rule."""


Score = float | Unmeasured


class Models(BaseModel):
    """Which learned scorers look at pictures, and where weights lie that no package ships. Part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text_reader: Literal["rapidocr", "easyocr"] = Field(default="rapidocr", description="what reads overlaid text")
    easyocr_weights: str | None = Field(
        default=None, description="folder with craft_mlt_25k.pth and english_g2.pth; null for EasyOCR's own folder"
    )
    aesthetic_clip: str | None = Field(
        default=None, description="OpenAI's CLIP ViT-L/14 as open_clip loads it; without it `aesthetic` is unmeasured"
    )
    aesthetic_head: str | None = Field(
        default=None,
        description="LAION's aesthetic head for ViT-L/14 (the linear one, or the improved predictor's MLP)",
    )


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """What a filter may look at: the facts of the video, the clip's slice of the strip, and, if it asks, pictures.

    looks: [(seconds from the clip's start, JPEG)], about one a second, long side at most 640 pixels. video_seconds: length of the
    whole video, as decoded; None before it is.
    """

    facts: VideoFacts
    strip: Strip
    looks: Sequence[tuple[float, bytes]] = field(default=())
    models: Models = field(default_factory=Models)
    video_seconds: float | None = None

    def pictures(self, count: int) -> list[np.ndarray]:
        """At most `count` pictures spread evenly over the clip, a single one from its middle; RGB uint8 [H, W, 3]."""
        if not self.looks:
            return []
        last = len(self.looks) - 1
        spread = np.linspace(0, last, min(count, last + 1)) if count > 1 else [last / 2]
        return [decode_look(self.looks[round(i)][1]) for i in spread]


class Filter(ABC):
    """Measures clips. Final classes only; the name of the file is the name of the rule."""

    stage: ClassVar[str]  # visual or motion
    signals: ClassVar[tuple[Signal, ...]]
    rung: ClassVar[Rung] = (
        "frames"  # the cheapest rung of the ladder (curation.ladder) that can tell; "models" sees pictures
    )
    cost: ClassVar[float] = (
        0.0  # CPU milliseconds per second of video, about as docs/filters.md has it; 0 for less than 1
    )

    @property
    def name(self) -> str:
        """visual.text, motion.static: its file."""
        return type(self).__module__.removeprefix("curation.")

    @abstractmethod
    def score(self, clip: ClipView) -> Mapping[str, Score]:
        """Every declared signal; `Unmeasured` with the reason where it could not be measured, never an invented number."""

    def measured_with(self, models: Models) -> str:
        """What else than the code decides the numbers: the reader, the weights. Another word here is another version."""
        return ""

    def require(self, models: Models) -> None:
        """Raise `WrongCall` where these models name weights that are not there. Asked before any work starts."""
        return

    def unmeasured(self, why: str) -> dict[str, Score]:
        """All signals, for one reason."""
        return {signal.name: Unmeasured(why) for signal in self.signals}


@cache
def filters() -> tuple[Filter, ...]:
    """One instance of every filter in curation.visual and curation.motion: those on the strip first, then the cheapest."""
    found: list[Filter] = []
    for package in ("curation.visual", "curation.motion"):
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            members = vars(importlib.import_module(module.name)).values()
            found += [
                m() for m in members if isinstance(m, type) and issubclass(m, Filter) and m.__module__ == module.name
            ]
    return tuple(sorted(found, key=lambda f: (f.rung == "models", f.cost, f.stage != "visual", type(f).__name__)))


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
