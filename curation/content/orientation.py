"""The mix of landscape and portrait: 60/40 in Movie Gen's low-resolution set, 80/20 in the high-resolution one (section 3.2.1)."""

import hashlib
from collections.abc import Sequence

import numpy as np

MOST_LOST = 0.75  # of the set


def surplus(
    landscape: Sequence[bool], clip_ids: Sequence[str], landscape_share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which clips are too many of their orientation: (bool [N], draw float64 [N]).

    As many clips stay as the share allows; of the orientation there is too much of, those with the highest draws go. A draw
    depends on the clip's identity alone. Nothing goes where the mix would cost more than three quarters of the set: one portrait
    among a hundred landscapes is no reason to drop ninety-nine.
    """
    wide = np.array(landscape, bool)
    drawn = np.array(
        [int.from_bytes(hashlib.sha256(f"orientation/{c}".encode()).digest()[:8]) / 2**64 for c in clip_ids]
    )
    gone = np.zeros(len(wide), bool)
    for one, share in ((wide, landscape_share), (~wide, 1 - landscape_share)):
        own, other = int(one.sum()), int((~one).sum())
        most = round(other * share / (1 - share)) if share < 1 else own
        if other and own > most:
            by_draw = np.flatnonzero(one)[np.argsort(drawn[one])]
            gone[by_draw[max(1, most) :]] = True
    return gone & (gone.mean() <= MOST_LOST if len(gone) else False), drawn
