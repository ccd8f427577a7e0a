"""A mark that stands still over a moving picture: a channel's logo, a watermark, a burned-in stamp."""

from typing import final

import cv2
import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal, Unmeasured
from curation.visual.persistence import Persistence, persistence, stability

GRAIN = 0.04  # of the shorter side: gradients are compared over squares of this size
LASTING = (0.5, 0.65)  # of a square's gradient: the lower finds faint marks, the higher parts them from what is beside
FAINTEST = 6.0  # mean lasting gradient of a mark, 8-bit steps per pixel; half-transparent white on mid-grey has 8 to 14
AREA = (0.0025, 0.2)  # of the picture: less is a glint or a spot on the lens, more is a scene that stands
FILL = 0.5  # of its box; a lasting contour of a scene is a thin line
CENTRE = 0.15  # of either side from the middle: what a camera follows stays there
STILL = 0.4  # of the rest of the picture's gradient lasts: the camera is locked, and everything stands still


@final
class Logo(Filter):
    """How surely something near the border lasts while the picture around it does not.

    Marks in colour count as well as bright ones. Where the camera is locked a mark cannot be told from the scene, and the clip
    is unmeasured. A spot on the lens or the sensor is a mark, too.
    """

    stage = "visual"
    rung = "models"
    cost = 1.5
    signals = (
        Signal(
            name="logo_score", unit="0..1", meaning="how much of the surest mark's gradient lasts; 0 without a mark"
        ),
        Signal(name="logo_share", unit="0..1", meaning="share of the picture's area that this mark's box covers"),
    )

    def score(self, clip: ClipView) -> dict[str, Score]:
        lasting = persistence(clip)
        if isinstance(lasting, Unmeasured):
            return self.unmeasured(lasting)
        if float(lasting.lasting.max()) < FAINTEST and float(lasting.passing.max()) < FAINTEST:
            return self.unmeasured("its pictures show nothing")
        marks = find_marks(lasting)
        if not marks and lasting.standstill > STILL:
            return self.unmeasured("most of the picture stands still, a mark as much as the rest")
        score, share = max(marks, default=(0.0, 0.0))
        return {"logo_score": score, "logo_share": share}


def find_marks(lasting: Persistence) -> list[tuple[float, float]]:
    """Marks whose surroundings move: [(stability 0..1, share of the picture's area)]."""
    height, width = lasting.lasting.shape
    side = max(3, round(GRAIN * min(height, width)) | 1)
    stays, goes = (cv2.blur(each, (side, side)) for each in (lasting.lasting, lasting.passing))
    found = []
    for level in LASTING:
        candidates = (stays > level * (stays + goes + 0.5)) & (stays > FAINTEST / 3)
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(candidates.astype(np.uint8))
        for label, (left, top, columns, rows, area) in enumerate(boxes.tolist()[1:], start=1):
            share = columns * rows / (width * height)
            across, down = (left + columns / 2) / width - 0.5, (top + rows / 2) / height - 0.5
            if area < FILL * columns * rows or not AREA[0] < share < AREA[1] or max(abs(across), abs(down)) < CENTRE:
                continue
            here = labels == label
            if float(lasting.lasting[here].mean()) < FAINTEST or not _floats(lasting.lasting * here):
                continue
            around = np.ones_like(here)
            around[max(0, top - side) : top + rows + side, max(0, left - side) : left + columns + side] = False
            if stability(lasting.lasting[around], lasting.passing[around]) <= STILL:
                found.append((stability(lasting.lasting[here], lasting.passing[here]), share))
    return found


def _floats(mark: np.ndarray) -> bool:
    """Whether a mark (its lasting gradient [H, W], 0 elsewhere) keeps clear of the picture's edge, as what stands in the scene may not."""
    strong = mark > mark.max() / 4
    return not (strong[0].any() or strong[-1].any() or strong[:, 0].any() or strong[:, -1].any())
