"""Balance of concepts: clusters are kept in proportion to the inverse square root of their size (Movie Gen section 3.2.1)."""

import hashlib
from collections.abc import Sequence

import faiss
import numpy as np


def clusters(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Concept cluster of every unit vector float32 [N, D], int64 [N]: spherical k-means with sqrt(N) centres, 1 to 65,536."""
    count, width = embeddings.shape
    if count == 0:
        return np.empty(0, np.int64)
    centres = int(np.clip(round(np.sqrt(count)), 1, 65_536))
    kmeans = faiss.Kmeans(width, centres, niter=20, seed=seed, spherical=True, min_points_per_centroid=1, verbose=False)
    kmeans.train(embeddings)
    return kmeans.index.search(embeddings, 1)[1][:, 0].astype(np.int64)


def keep_probability(cluster: np.ndarray, keep_below: int) -> np.ndarray:
    """Share of its cluster that stays, float64 [N]: 1 up to `keep_below` members, sqrt(keep_below / size) beyond."""
    sizes = np.bincount(cluster, minlength=int(cluster.max()) + 1 if len(cluster) else 1)[cluster]
    return np.minimum(1.0, np.sqrt(keep_below / np.maximum(sizes, 1)))


def draws(clip_ids: Sequence[str]) -> np.ndarray:
    """A number in [0, 1) per clip, from its identity alone: the same clip draws the same number in every run."""
    return np.array([int.from_bytes(hashlib.sha256(f"balance/{c}".encode()).digest()[:8]) / 2**64 for c in clip_ids])
