"""The paper's second measure of motion: the mean length of the codec's motion vectors."""

from typing import final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured

REFERENCE_SIDE = 1280  # pixels


@final
class MotionVectors(Filter):
    """The paper keeps clips whose mean motion vector is above 0.5 and below 7 (appendix J.1), in pixels, of videos of 720 lines or more.

    A pixel of a large picture is less motion than one of a small picture, so lengths are given for a longer side of 1,280 pixels.
    FFmpeg says of a vector only whether it points to the past; its length is divided by the frames since the last I or P frame.
    Codecs without vectors (VP9, AV1, HEVC, ...) get optical flow fitted to the vectors of those that have them. Vectors follow what is
    cheap to code: re-encoding moves them (docs/filters.md says how far), optical flow hardly.
    """

    stage = "motion"
    signals = (
        Signal(
            name="motion_vector",
            unit="pixels of 1280 per frame",
            meaning="mean length of the codec's motion vectors, or of optical flow fitted to them",
        ),
        Signal(
            name="flow_motion",
            unit="pixels of 1280 per frame",
            meaning="mean length of optical flow, measured the same way for every codec",
        ),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        return {
            "motion_vector": _mean(clip.strip.steps("block_motion")),
            "flow_motion": _mean(clip.strip.steps("flow_motion")),
        }


def _mean(percent: np.ndarray) -> Score:
    if not len(percent):
        return Unmeasured("no two pictures a tenth of a second apart lie inside it")
    return float(percent.mean()) * REFERENCE_SIDE / 100
