"""The amount of motion on VMAF's scale."""

from typing import final

from curation.contracts import ClipView, Filter, Signal

# Own measure on 256-pixel luma -> FFmpeg's vmafmotion at native size: log-log fit over 83 real videos with published values,
# slope 1.01, R2 0.985, median error 12 % (LOG.md, 2026-11-21)
SLOPE, INTERCEPT = 1.0125, 0.2505


@final
class VmafMotion(Filter):
    """The paper keeps clips above 2.0 (section 3.2.1). Measured small and calibrated, because native size costs a second decode."""

    stage = "motion"
    signals = (
        Signal(
            name="vmaf_motion",
            unit="luma",
            meaning="mean VMAF motion, estimated from 256-pixel pictures (log-log calibration)",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, float | None]:
        steps = clip.strip.after_first("vmaf_motion")
        if not len(steps):
            return {"vmaf_motion": None}
        return {"vmaf_motion": float(2.718281828459045**INTERCEPT * steps.mean() ** SLOPE)}
