"""The amount of motion on VMAF's scale."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

# fine_change, of 128-pixel pictures scaled down by fast-bilinear -> FFmpeg's vmafmotion at native size:
# log-log fit over 82 real videos with published values, R2 0.998, median error 4 % (LOG.md, 2026-11-21)
SLOPE, INTERCEPT = 1.027, -0.146


@final
class VmafMotion(Filter):
    """The paper keeps clips above 2.0 (section 3.2.1). Measured small and calibrated, because native size costs a second decode."""

    stage = "motion"
    signals = (
        Signal(
            name="vmaf_motion",
            unit="luma",
            meaning="mean VMAF motion, estimated from 128-pixel pictures (log-log calibration)",
            version=2,
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        steps = clip.strip.after_first("fine_change")
        if not len(steps):
            return self.unmeasured("it has only one frame")
        return {"vmaf_motion": float(np.exp(INTERCEPT) * steps.mean() ** SLOPE)}
