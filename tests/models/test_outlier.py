"""The outlier penalty leaves Gaussian latents alone and finds the one place that shouts."""

import pytest
import torch

from models.autoencoders.outlier import outlier_penalty


@pytest.fixture
def latents():
    return torch.randn(2, 16, 3, 32, 32)


def test_gaussian_latents_pay_nothing_and_an_outlier_pays(latents):
    assert outlier_penalty(latents) == 0
    latents[0, :, 1, 5, 7] = 20.0
    planted = outlier_penalty(latents)
    assert planted > 0
    # 20 sigma in each of 16 channels: distance about 80, threshold about 3 * sqrt(16) * 1.18 (the outlier widens std)
    expected = (80 - 3 * 4 * (1 + 400 / 1024) ** 0.5) / (2 * 3 * 32 * 32)
    assert planted.item() == pytest.approx(expected, rel=0.05)


def test_each_frame_is_judged_by_itself(latents):
    """A frame that is brighter as a whole has no outlier."""
    latents[:, :, 2] += 50
    assert outlier_penalty(latents) == 0


def test_only_the_outlier_is_pulled_and_the_threshold_is_not(latents):
    latents[0, :, 1, 5, 7] = 20.0
    latents.requires_grad_()
    outlier_penalty(latents).backward()
    touched = latents.grad.abs().sum(1).nonzero()
    assert touched.tolist() == [[0, 1, 5, 7]]


def test_pictures_and_videos_of_one_frame_pay_alike(latents):
    pictures = latents[:, :, 0]
    pictures[0, :, 3, 3] = 30
    assert outlier_penalty(pictures) == outlier_penalty(pictures[:, :, None])
