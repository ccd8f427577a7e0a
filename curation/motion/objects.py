"""What moves in the picture beyond the camera."""

from typing import final

from curation.contracts import ClipView, Filter, Score, Signal
from curation.motion.path import NO_PATH


@final
class Objects(Filter):
    """Camera against object motion: of the blocks with something to follow, how many go ways of their own, and how fast.

    The flow is coarse: a ball that covers 6 % of the picture carries a quarter of the blocks with it. The share ranks clips; it is
    no area.
    """

    stage = "motion"
    signals = (
        Signal(
            name="object_motion",
            unit="longer sides / s",
            meaning="mean speed of the picture's blocks beyond what the camera moves all of them",
        ),
        Signal(
            name="object_share", unit="0..1", meaning="mean share of the picture's blocks that move beyond the camera"
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        found = {}
        for signal in self.signals:
            values = clip.strip.steps(signal.name)
            if len(values) < 2:
                return self.unmeasured(NO_PATH)
            found[signal.name] = float(values.mean())
        return dict(found)
