"""What gradual transitions are found by: how far a picture is from the one half a second later, and from a blend of the two around it."""

import numpy as np


def transition_lag(fps: float) -> int:
    """Frames to either side that a frame is compared with: about a quarter second, at least 2 and at most 15."""
    return int(min(15, max(2, round(fps / 4))))


class Blends:
    """long_change and blend_residual of a video, fed in batches.

    With k = lag frames: long_change[t] = mean |x[t+k] - x[t-k]| and blend_residual[t] = mean |x[t] - (x[t-k] + x[t+k]) / 2|, in
    luma. In a linear dissolve the middle picture is the mean of its neighbours, so the residual vanishes against the change;
    motion, and a hard cut, leave a half of it or more.
    """

    def __init__(self, lag: int):
        self.lag = lag
        self._held: np.ndarray | None = None  # the last 2 x lag pictures, or all so far
        self._frames = 0
        self._long_change: list[np.ndarray] = []
        self._residual: list[np.ndarray] = []

    def add(self, pictures: np.ndarray) -> None:
        """The next frames, uint8 luma [F, h, w], the longer side 64 pixels."""
        self._frames += len(pictures)
        x = pictures if self._held is None else np.concatenate([self._held, pictures])
        span = 2 * self.lag
        self._held = x[-span:].copy()
        if len(x) <= span:
            return
        x = x.astype(np.int16)
        before, here, after = x[:-span], x[self.lag : -self.lag], x[span:]
        self._long_change.append(np.abs(after - before).mean((1, 2)))
        self._residual.append(np.abs(2 * here - before - after).mean((1, 2)) / 2)

    def result(self) -> dict[str, np.ndarray]:
        """long_change and blend_residual, float32 [F], NaN in the first and last `lag` frames."""
        result = {}
        for name, parts in (("long_change", self._long_change), ("blend_residual", self._residual)):
            result[name] = np.full(self._frames, np.nan, np.float32)
            if parts:
                result[name][self.lag : self._frames - self.lag] = np.concatenate(parts)
        return result
