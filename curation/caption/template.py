"""Captions from measured facts by a fixed template: the same clip always gets the same sentence. Language models come later."""

import math
from collections.abc import Mapping
from typing import Any, final

from curation.contracts import Captioner

CERTAIN = 0.15  # mean probability below which a label is not said
# what counts as a move, and how shaky a hand is: set on 60 labelled single-shot videos (docs/filters.md)
MOVES = {
    "pan": 0.015,
    "tilt": 0.015,
    "zoom": 0.0125,
    "roll": 3.0,
}  # per second: longer sides, longer sides, ln, degrees
WORDS = {
    "pan": ("right", "left"),
    "tilt": ("up", "down"),
    "zoom": ("in", "out"),
    "roll": ("clockwise", "anticlockwise"),
}
SHAKY = 0.55  # % of the longer side
STANDS = 0.5  # of the time
NOWHERE = 0.5  # of the camera's speed; less net speed than this and it goes back and forth


def camera_motion(facts: Mapping[str, Any]) -> str | None:
    """Camera motion in the paper's words (section 3.2.2), as far as shift, zoom and roll tell; None where it was not measured.

    A push in and a zoom in, a truck and a pan look alike to them; the commoner word is taken.
    """
    measured = [facts.get(name) for name in (*MOVES, "camera_speed", "camera_stands", "jitter")]
    if any(value is None for value in measured):
        return None
    if facts["camera_stands"] >= STANDS:
        return "static"
    net = math.hypot(facts["pan"], facts["tilt"]) + abs(facts["zoom"]) / 2 + math.radians(abs(facts["roll"])) / 2
    shaky = facts["jitter"] >= SHAKY
    strength, move = max((abs(facts[name]) / least, name) for name, least in MOVES.items())
    if strength >= 1 and not (shaky and net < NOWHERE * facts["camera_speed"]):
        return f"{move} {WORDS[move][facts[move] < 0]}"
    return "handheld" if shaky else "static"


@final
class Template(Captioner):
    """What the classifier sees, the colours, the light, the amount of motion and the camera."""

    name = "template"
    version = 2

    def caption(self, facts: Mapping[str, Any]) -> str:
        labels = [
            name.replace("_", " ")
            for name, score in zip(facts.get("labels") or (), facts.get("label_scores") or (), strict=True)
            if score >= CERTAIN
        ]
        colours = facts.get("colours") or []
        subject = f"that may show {_article(labels[0])}" if labels else "of a scene that the classifier has no name for"
        if len(labels) > 1:
            subject += f" or {_article(labels[1])}"
        camera = camera_motion(facts)
        orientation = "portrait" if facts["width"] < facts["height"] else "landscape"
        sentences = [f"{_article(self._light(facts))} {orientation} clip {subject}".capitalize()]
        if colours:
            sentences[0] += f", mostly {' and '.join(colours[:2])}"
        sentences.append(f"{self._amount(facts)} motion" + (f", {camera} camera" if camera else ""))
        return ". ".join(sentences) + "."

    @staticmethod
    def _light(facts: Mapping[str, Any]) -> str:
        brightness = facts.get("brightness")
        if brightness is None:
            return "plain"
        return "dark" if brightness < 70 else "bright" if brightness > 150 else "evenly lit"

    @staticmethod
    def _amount(facts: Mapping[str, Any]) -> str:
        motion = facts.get("vmaf_motion_native")
        if motion is None:
            return "Unknown"
        return "Little" if motion < 1.5 else "Some" if motion < 5 else "Strong"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
