"""The packaged classifier on a real frame, and the perceptual distance on its features."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.content.classifier import ImageClassifier, class_names
from models.perceptual import PerceptualDistance

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    """A frame of a bee on a flower, the middle square, 224 px."""
    av = pytest.importorskip("av")
    path = SAMPLES / "bee_720p.mp4"
    if not path.is_file():
        pytest.skip("the sample clips are not here")
    with av.open(str(path)) as container:
        picture = next(iter(container.decode(video=0))).to_ndarray(format="rgb24")
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(square, size=224, mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().byte().numpy()


@pytest.fixture(scope="module")
def classifier() -> ImageClassifier:
    pytest.importorskip("efficientnet_lite_pytorch")
    return ImageClassifier()


def test_a_bee_is_a_bee(classifier, frame):
    features, probabilities = classifier(np.stack([frame, np.zeros_like(frame)]))
    assert features.shape == (2, 1280) and features.dtype == np.float32
    assert probabilities.shape == (2, 1000)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)
    names = [name for name, _ in classifier.best(probabilities)[0]]
    assert "bee" in names, names


def test_pictures_of_another_size_are_refused(classifier):
    with pytest.raises(ValueError, match=r"uint8 \[N, 224, 224, 3\]"):
        classifier(np.zeros((1, 100, 100, 3), np.uint8))


def test_there_are_a_thousand_class_names():
    names = class_names()
    assert len(names) == 1000 and names[0] == "tench" and names[309] == "bee"


def test_the_perceptual_distance_grows_with_damage_and_has_a_gradient(frame):
    pytest.importorskip("efficientnet_lite_pytorch")
    distance = PerceptualDistance().train()
    assert not any(module.training for module in distance.modules())
    picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1
    noise = torch.randn_like(picture)
    near, far = distance(picture, picture + 0.05 * noise), distance(picture, picture + 0.3 * noise)
    assert distance(picture, picture) == 0 < near < far
    damaged = (picture + 0.1 * noise).requires_grad_()
    distance(damaged, picture).sum().backward()
    assert damaged.grad.any()
    assert not any(p.requires_grad for p in distance.parameters())
