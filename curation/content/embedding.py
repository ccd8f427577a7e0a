"""One vector per clip, and what can be seen in it: labels and colours, from the same few pictures."""

from collections import defaultdict
from functools import cache
from typing import Any

import cv2
import numpy as np

from curation.contracts import ClipView

EMBEDDER = "efficientnet-lite0/1"  # model / version of how it is used here
PICTURES = 4
SIDE = 224
NUM_LABELS = 5

# CIELAB-nearest of these is what a colour is called
COLOURS = {
    "black": (20, 20, 20), "white": (240, 240, 240), "grey": (128, 128, 128), "red": (190, 40, 40), "orange": (225, 130, 40),
    "yellow": (225, 205, 60), "green": (60, 140, 60), "teal": (40, 140, 140), "blue": (50, 90, 190), "purple": (120, 60, 160),
    "pink": (225, 130, 170), "brown": (120, 80, 50), "beige": (210, 190, 150),
}  # fmt: skip


@cache
def _classifier() -> Any:
    import torch

    from models.content.classifier import ImageClassifier

    torch.set_num_threads(1)  # one worker, one core
    return ImageClassifier()


def embed(clip: ClipView) -> dict[str, Any]:
    """embedding (unit float32 [1280]), labels, label_scores, colours; all None for a clip without a picture."""
    pictures = clip.pictures(PICTURES)
    if not pictures:
        return {"embedding": None, "labels": None, "label_scores": None, "colours": None}
    squares = np.stack([cv2.resize(_centre_square(p), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in pictures])
    features, probabilities = _classifier()(squares)
    mean = features.mean(axis=0)
    [best] = _classifier().best(probabilities.mean(axis=0, keepdims=True), NUM_LABELS)
    return {
        "embedding": (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32),
        "labels": [name for name, _ in best],
        "label_scores": [score for _, score in best],
        "colours": dominant_colours(squares),
    }


def _centre_square(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]


def dominant_colours(pictures: np.ndarray, count: int = 3) -> list[str]:
    """Names of the colours that cover most of uint8 RGB pictures [N, H, W, 3]; each covers at least a tenth."""
    names = list(COLOURS)
    palette = cv2.cvtColor(np.array([list(COLOURS.values())], np.uint8), cv2.COLOR_RGB2LAB)[0].astype(np.float32)
    small = np.concatenate([cv2.resize(p, (32, 32), interpolation=cv2.INTER_AREA) for p in pictures])
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    nearest = ((lab[:, None] - palette[None]) ** 2).sum(axis=2).argmin(axis=1)
    share: dict[str, float] = defaultdict(float)
    for index in nearest:
        share[names[index]] += 1 / len(nearest)
    ordered = sorted(share, key=lambda name: (-share[name], name))
    return [name for name in ordered if share[name] >= 0.1][:count]
