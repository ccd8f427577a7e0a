"""Black bars around the picture: letterbox, pillarbox, or both."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

SIDES = ("left", "right", "top", "bottom")


@final
class Borders(Filter):
    """A border is dark and ends in a straight edge in most samples of the clip; the crop box is what remains.

    Samples that are dark as a whole say nothing, and a clip with no other samples is unmeasured.
    """

    stage = "visual"
    rung = "keyframes"
    signals = (
        Signal(name="border_share", unit="0..1", meaning="share of the picture's area that is dark border"),
        Signal(name="crop_left", unit="pixels", meaning="left edge of the picture inside its borders"),
        Signal(name="crop_top", unit="pixels", meaning="top edge of the picture inside its borders"),
        Signal(name="crop_width", unit="pixels", meaning="width of the picture inside its borders"),
        Signal(name="crop_height", unit="pixels", meaning="height of the picture inside its borders"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        samples = {side: clip.strip.sampled(f"border_{side}") for side in SIDES}
        if not len(samples["left"]):
            return self.unmeasured("its pictures are nearly all dark")
        left, right, top, bottom = (float(np.median(samples[side])) for side in SIDES)
        width, height = clip.facts.width, clip.facts.height
        return {
            "border_share": 1 - (1 - left - right) * (1 - top - bottom),
            "crop_left": float(round(left * width)),
            "crop_top": float(round(top * height)),
            "crop_width": float(round((1 - left - right) * width)),
            "crop_height": float(round((1 - top - bottom) * height)),
        }
