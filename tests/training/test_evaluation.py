"""Measurements against other people's, and against closed forms."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from models.flow import S_MIN
from training.evaluation.flow_loss import fixed_times, gaussian_bars
from training.evaluation.pictures import psnr, ssim


@pytest.fixture
def pictures():
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (3, 8, 12, 3)).repeat(6, 1).repeat(6, 2)  # [3, 48, 72, 3]
    noise = generator.normal(0, 12, base.shape)
    return base.astype(np.uint8), np.clip(base + noise, 0, 255).astype(np.uint8)


def test_psnr_is_skimages_per_frame(pictures):
    reference, other = pictures
    expected = np.mean([peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(reference, other, strict=True)])

    assert psnr(reference, other) == pytest.approx(expected, rel=1e-9)
    assert psnr(reference, reference) == pytest.approx(100)


def test_ssim_is_skimages_with_the_original_window(pictures):
    reference, other = pictures
    expected = np.mean([
        structural_similarity(
            a, b, data_range=255, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for a, b in zip(reference, other, strict=True)
    ])  # fmt: skip

    assert ssim(reference, other) == pytest.approx(expected, rel=1e-6)
    assert ssim(reference, reference) == pytest.approx(1)


def test_frames_that_do_not_match_are_refused(pictures):
    reference, _ = pictures
    with pytest.raises(ValueError, match="one shape"):
        psnr(reference, reference[:1])
    with pytest.raises(ValueError, match="11 x 11 window"):
        ssim(reference[:, :8], reference[:, :8])


def test_fixed_times_stand_for_the_training_law():
    logits = torch.logit(fixed_times())

    assert len(logits) == 8
    assert logits.mean().item() == pytest.approx(0, abs=1e-9)
    assert logits.sort().values.tolist() == logits.tolist()


def test_the_gaussian_bars_are_what_least_squares_reaches():
    torch.manual_seed(0)
    mix = torch.randn(3, 3)
    latents = [torch.einsum("ij,jthw->ithw", mix, torch.randn(3, 2, 6, 6)) for _ in range(50)]
    bars = gaussian_bars(latents)
    data = torch.cat([x.flatten(1) for x in latents], 1).T.double()  # [places, 3]

    found = []
    for time in fixed_times().tolist():
        noise = torch.randn_like(data)
        seen = time * data + (1 - (1 - S_MIN) * time) * noise
        target = data - (1 - S_MIN) * noise
        design = torch.cat([seen, torch.ones(len(seen), 1).double()], 1)
        left = target - design @ torch.linalg.lstsq(design, target).solution
        found.append(left.square().mean().item())

    assert bars["gaussian_loss_per_position"] == pytest.approx(np.mean(found), rel=0.05)
    assert bars["gaussian_loss_per_position"] < bars["mean_velocity_loss"]
    assert bars["gaussian_loss"] < bars["gaussian_loss_per_position"], "it has seen these very clips"
