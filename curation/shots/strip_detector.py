"""Hard cuts from the strip: a frame that differs from the one before far more than its neighbourhood does."""

from dataclasses import dataclass

import numpy as np

from curation.clips.strip import Strip

DETECTOR_VERSION = 1
WINDOW = 12  # frames on either side
# change x prominence; over the 37 labelled cuts of 85 real videos the weakest scores 105, the strongest false one (a hand-held
# camera hitting a stop) 86 (LOG.md, 2026-11-21)
THRESHOLD = 95.0


@dataclass(frozen=True, kw_only=True)
class Cut:
    """`frame` is the first of the new shot; `score` is how far above the threshold it is (1 is just at it)."""

    frame: int
    seconds: float
    score: float


def find_cuts(strip: Strip, sensitivity: float = 1.0) -> list[Cut]:
    """Hard cuts in time order. A sensitivity of 2 halves the threshold."""
    change = np.nan_to_num(strip.signals["luma_change"].astype(np.float64))
    change[:1] = 0  # the first frame of a span has its predecessor elsewhere
    seconds = strip.clock.frame_seconds
    cuts = []
    for frame in np.flatnonzero(change * change >= THRESHOLD / sensitivity):
        around = np.concatenate([change[max(1, frame - WINDOW) : frame], change[frame + 1 : frame + 1 + WINDOW]])
        if len(around) < 3:
            continue
        prominence = change[frame] / (np.sort(around)[-2:].mean() + 1.0)
        score = change[frame] * prominence * sensitivity / THRESHOLD
        if score >= 1:
            cuts.append(Cut(frame=int(frame), seconds=float(seconds[frame]), score=float(score)))
    return cuts
