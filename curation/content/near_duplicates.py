"""Copies: clips whose embeddings are nearly the same. The best of each group stays."""

import faiss
import numpy as np


def duplicate_groups(embeddings: np.ndarray, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Connected groups of near-duplicates among unit vectors float32 [N, D].

    Returns (group int64 [N]: the lowest index in the group, nearest float32 [N]: cosine to the most similar other vector,
    NaN for a single one). Two vectors are linked when their cosine is at least `similarity`.
    """
    count, width = embeddings.shape
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    index = faiss.IndexFlatIP(width)
    index.add(embeddings)
    group = np.arange(count)
    limits, _, neighbours = index.range_search(embeddings, similarity - 1e-6)
    for i in range(count):
        for j in neighbours[limits[i] : limits[i + 1]]:
            a, b = _root(group, i), _root(group, int(j))
            group[max(a, b)] = min(a, b)
    roots = np.array([_root(group, i) for i in range(count)], np.int64)
    if count == 1:
        return roots, np.full(1, np.nan, np.float32)
    scores, found = index.search(embeddings, 2)
    own = found[:, 0] == np.arange(count)  # exact copies may come back in either order
    return roots, np.where(own, scores[:, 1], scores[:, 0]).astype(np.float32)


def _root(group: np.ndarray, i: int) -> int:
    while group[i] != i:
        group[i] = group[group[i]]
        i = int(group[i])
    return i
