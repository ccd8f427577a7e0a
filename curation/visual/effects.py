"""Transition effects inside a clip: dissolves and fades that the shot detector let pass, and flashes."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal
from curation.shots.strip_detector import find_transitions

FLASH = 12.0  # luma; a frame brighter than the quarter second before and after it, both, by this
AROUND_SECONDS = 0.25


@final
class Effects(Filter):
    """Clips end where the shot detector finds a transition; this asks it again at half its thresholds."""

    stage = "visual"
    signals = (
        Signal(
            name="transition_share",
            unit="0..1",
            meaning="share of frames inside dissolves and fades, by a detector of half the threshold",
        ),
        Signal(
            name="flashes_per_second",
            unit="1/s",
            meaning="frames brighter by 12 luma than the quarter seconds before and after, flashes of one run counted once",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        strip = clip.strip
        seconds = strip.clock.duration_seconds
        if len(strip) < 2 or seconds <= 0:
            return self.unmeasured("it has only one frame")
        gradual = find_transitions(strip, sensitivity=2.0).gradual
        inside = sum(each.end_frame - each.start_frame for each in gradual)
        return {
            "transition_share": inside / len(strip),
            "flashes_per_second": _flashes(strip.signals["brightness"], strip.fps) / seconds,
        }


def _flashes(brightness: np.ndarray, fps: float) -> int:
    """A flash of any length up to a quarter second ends as it began."""
    reach = max(1, round(AROUND_SECONDS * fps))
    bright = np.zeros(len(brightness), bool)
    for frame in range(1, len(brightness) - 1):
        before = brightness[max(0, frame - reach) : frame].min()
        after = brightness[frame + 1 : frame + 1 + reach].min()
        bright[frame] = brightness[frame] > max(before, after) + FLASH
    return int(np.count_nonzero(np.diff(bright.astype(np.int8)) == 1))
