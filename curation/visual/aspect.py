"""The shape of the picture as displayed."""

from typing import final

from curation.contracts import ClipView, Filter, Score, Signal


@final
class Aspect(Filter):
    """Width over height. The paper mixes landscape and portrait 60/40 and 80/20; a rule can ask for one of them."""

    stage = "visual"
    rung = "container"
    signals = (Signal(name="aspect", unit="width / height", meaning="shape as displayed; above 1 is landscape"),)

    def score(self, clip: ClipView) -> dict[str, Score]:
        return {"aspect": clip.facts.width / clip.facts.height}
