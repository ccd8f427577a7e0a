"""How bright a clip is; a black one shows nothing."""

from typing import final

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Brightness(Filter):
    """Mean luma over the clip. Black is 16, white 235."""

    stage = "visual"
    rung = "keyframes"
    signals = (Signal(name="brightness", unit="luma, 16..235", meaning="mean luma over all frames"),)

    def score(self, clip: ClipView) -> dict[str, Score]:
        return {"brightness": float(clip.strip.signals["brightness"].mean())}
