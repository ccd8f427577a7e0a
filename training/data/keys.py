"""Counter-based randomness: the same (seed, purpose, step, slot) gives the same numbers on any number of workers."""

from dataclasses import dataclass

import numpy as np

PURPOSES = ("order", "image order", "timestep", "noise", "drop", "window", "posterior")


@dataclass(frozen=True, kw_only=True)
class Key:
    """Names one stream of random numbers. A Philox counter has 256 bits, so no two keys ever share a number."""

    seed: int
    purpose: str
    step: int
    slot: int = 0

    def generator(self) -> np.random.Generator:
        """A fresh generator at the start of this key's stream."""
        words = [self.seed % 2**64, PURPOSES.index(self.purpose)]
        return np.random.Generator(np.random.Philox(key=words, counter=[0, 0, self.slot, self.step]))

    def uniform(self) -> float:
        """One number in [0, 1)."""
        return float(self.generator().random())

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers, float32 [*shape]."""
        return self.generator().standard_normal(shape, dtype=np.float32)
