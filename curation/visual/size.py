"""How large the picture is as displayed."""

from typing import final

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Size(Filter):
    """The shorter side decides what a clip can be trained at: 720 or 768 pixels in the paper (section 3.2.1)."""

    stage = "visual"
    rung = "container"
    signals = (
        Signal(
            name="short_side",
            unit="pixels",
            meaning="shorter side as displayed, after rotation and sample aspect ratio",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        return {"short_side": float(min(clip.facts.width, clip.facts.height))}
