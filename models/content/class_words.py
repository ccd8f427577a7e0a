"""Texts as directions among the image classifier's features, by way of its class names: without a network of its own.

The converse of ConSE (Norouzi et al. 2014, arXiv:1312.5650), which takes pictures to words: a sentence encoder says which class names
a text is close to, and the classifier's own weights say where in its feature space these classes lie.
"""

import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from models.content.classifier import class_names, packaged_weights
from models.text.minilm import MiniLM

TEMPERATURE = 0.1  # of cosines; 0.02 takes one class by its name, 0.2 all of them (docs/models.md has the figures)
CHUNK = 100  # class names encoded at a time


@dataclass(frozen=True)
class Reading:
    """What became of a text. direction: unit float32 [1280]. nearest: class names with their cosine to the text, best first."""

    direction: np.ndarray
    nearest: tuple[tuple[str, float], ...]


class ClassWords:
    """Texts to unit vectors that are compared with features of EfficientNet-Lite0 by their dot product.

    Safe to call from several threads, one at a time inside. The encoder (90 MB) and the class weights (5 MB) load on first use;
    ValueError where their packages are not installed.
    """

    name = "all-MiniLM-L6-v2 through the 1,000 ImageNet class names"

    def __init__(self, device: str = "cpu"):
        self.encoder = MiniLM(device=device)
        self._lock = threading.Lock()

    def read(self, text: str, nearest: int = 5) -> Reading:
        """The direction of a text, and the `nearest` class names it was taken by."""
        with self._lock:
            cosines = self._names @ self._embed([text])[0]
            weights = np.exp((cosines - cosines.max()) / TEMPERATURE)
            direction = weights @ self._classes
        order = np.argsort(-cosines, kind="stable")[:nearest]
        return Reading(
            direction=(direction / np.linalg.norm(direction)).astype(np.float32),
            nearest=tuple((class_names()[i], float(cosines[i])) for i in order),
        )

    def _embed(self, texts: list[str]) -> np.ndarray:
        return self.encoder.embed(texts).cpu().numpy()

    @cached_property
    def _names(self) -> np.ndarray:
        """Unit float32 [1000, 384]."""
        names = list(class_names())
        return np.concatenate([self._embed(names[at : at + CHUNK]) for at in range(0, len(names), CHUNK)])

    @cached_property
    def _classes(self) -> np.ndarray:
        """Unit float32 [1000, 1280]: each class's weights beyond what all classes share."""
        state = torch.load(packaged_weights(), map_location="cpu", weights_only=True)
        weights = state["_fc.weight"].float().numpy()
        weights = weights - weights.mean(axis=0)
        return weights / np.linalg.norm(weights, axis=1, keepdims=True)
