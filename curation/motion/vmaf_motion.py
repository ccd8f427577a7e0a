"""The amount of motion on VMAF's scale."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured

# fine_change, of 128-pixel pictures scaled down by fast-bilinear -> FFmpeg's vmafmotion at native size:
# log-log fit over 82 real videos with published values, R2 0.998, median error 4 % (LOG.md, 2026-11-21)
SLOPE, INTERCEPT = 1.027, -0.146


@final
class VmafMotion(Filter):
    """The paper keeps clips above 2.0 (section 3.2.1): the mean difference of neighbouring frames, blurred a little.

    Measured twice. `vmaf_motion`: of every frame, small, and calibrated. `vmaf_motion_native`: VMAF's own number at native size for
    one pair of frames a second, carried to all frames by how much these change when small (a ratio estimate).
    """

    stage = "motion"
    signals = (
        Signal(
            name="vmaf_motion",
            unit="luma",
            meaning="mean VMAF motion, estimated from 128-pixel pictures (log-log calibration)",
            version=2,
        ),
        Signal(
            name="vmaf_motion_native",
            unit="luma",
            meaning="mean VMAF motion, from one pair of frames a second at native size",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        steps = clip.strip.after_first("fine_change")
        if not len(steps):
            return self.unmeasured("it has only one frame")
        return {
            "vmaf_motion": float(np.exp(INTERCEPT) * steps.mean() ** SLOPE),
            "vmaf_motion_native": _native(clip, float(steps.mean())),
        }


def _native(clip: ClipView, mean_change: float) -> Score:
    native, change = clip.strip.signals["native_motion"][1:], clip.strip.signals["fine_change"][1:]
    pairs = np.isfinite(native) & np.isfinite(change)
    if not pairs.any():
        return Unmeasured("no two neighbouring frames of it were compared at native size")
    sampled = float(change[pairs].sum())
    ratio = float(native[pairs].sum()) / sampled if sampled > 0 else 1.0
    return mean_change * ratio
