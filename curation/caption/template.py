"""Captions from measured facts by a fixed template: the same clip always gets the same sentence. Language models come later."""

from collections.abc import Mapping
from typing import Any, final

from curation.contracts import Captioner

CERTAIN = 0.15  # mean probability below which a label is not said
MOVING = 0.04  # longer sides per second
SHAKY = 1.0  # % of the longer side


def camera_motion(facts: Mapping[str, Any]) -> str | None:
    """Camera motion in the paper's words (section 3.2.2), as far as a global shift can tell; None where it was not measured."""
    pan, tilt, jitter = facts.get("pan"), facts.get("tilt"), facts.get("jitter")
    if pan is None or tilt is None or jitter is None:
        return None
    if max(abs(pan), abs(tilt)) >= MOVING:
        if abs(pan) >= abs(tilt):
            return "pan right" if pan > 0 else "pan left"
        return "tilt up" if tilt > 0 else "tilt down"
    return "handheld" if jitter >= SHAKY else "static"


@final
class Template(Captioner):
    """What the classifier sees, the colours, the light, the amount of motion and the camera."""

    name = "template"
    version = 1

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
        motion = facts.get("vmaf_motion")
        if motion is None:
            return "Unknown"
        return "Little" if motion < 1.5 else "Some" if motion < 5 else "Strong"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
