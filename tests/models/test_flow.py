"""The flow's path, its times, and the Gaussian baseline against drawing it."""

import pytest
import torch

from models import flow


def test_the_path_starts_at_the_noise_and_ends_at_the_data():
    noise, data = torch.randn(2, 4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    assert torch.equal(flow.interpolate(noise, data, torch.zeros(2).double()), noise)
    end = flow.interpolate(noise, data, torch.ones(2).double())
    torch.testing.assert_close(end, data + 1e-5 * noise, atol=1e-12, rtol=0)


def test_the_velocity_is_the_paths_slope_and_one_euler_step_arrives():
    noise, data = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    t, h = torch.tensor([0.3, 0.8]).double(), 1e-3
    slope = (flow.interpolate(noise, data, t + h) - flow.interpolate(noise, data, t - h)) / (2 * h)
    velocity = flow.velocity_target(noise, data)
    torch.testing.assert_close(slope, velocity)
    arrived = flow.interpolate(noise, data, torch.zeros(2).double()) + velocity
    torch.testing.assert_close(arrived, data, atol=1e-4, rtol=0)
    assert (arrived - data - 1e-5 * noise).abs().max() < 1e-12
    torch.testing.assert_close(flow.data_estimate(flow.interpolate(noise, data, t), velocity, t), data)


def test_times_are_logit_normal():
    keys = (torch.arange(200_000).double() + 0.5) / 200_000
    times = flow.sample_times(keys)
    assert ((times > 0) & (times < 1)).all()
    logits = torch.logit(times)
    assert abs(logits.mean()) < 1e-6 and abs(logits.std() - 1) < 1e-3
    assert times.median() == pytest.approx(0.5, abs=1e-4)
    torch.testing.assert_close(flow.times_from_normal(logits), times)
    shifted = torch.logit(flow.sample_times(keys, mean=1.0, std=2.0))
    assert shifted.mean() == pytest.approx(1, abs=1e-3) and shifted.std() == pytest.approx(2, abs=1e-2)


def test_times_of_extreme_keys_stay_inside():
    assert flow.sample_times(torch.tensor([0.0, 1.0])).isfinite().all()


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_no_affine_guess_beats_the_closed_form_and_the_best_one_meets_it(time):
    """Data need not be Gaussian: fit the affine map by least squares on draws and compare."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 3, generator=generator).double()
    data = torch.rand(200_000, 3, generator=generator).double().sub(0.5) @ mix + 2
    noise = torch.randn(200_000, 3, generator=generator).double()
    x = flow.interpolate(noise, data, torch.full((200_000,), time).double())
    velocity = flow.velocity_target(noise, data)
    inputs = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)
    fitted = inputs @ torch.linalg.lstsq(inputs, velocity).solution
    error = (fitted - velocity).square().mean()

    values = flow.covariance_eigenvalues(data[:, :, None, None, None], over="clips")
    closed = flow.gaussian_denoiser_loss(values, torch.tensor([time]))
    torch.testing.assert_close(closed[0], error, rtol=0.01, atol=0)
    assert closed[0] < (velocity - velocity.mean(0)).square().mean()


def test_the_mean_velocity_costs_what_drawing_says():
    latents = 3 * torch.randn(20_000, 2, 1, 1, 1).double() + 1
    velocity = flow.velocity_target(torch.randn_like(latents), latents)
    drawn = (velocity - velocity.mean(0)).square().mean()
    torch.testing.assert_close(flow.mean_velocity_loss(flow.covariance_eigenvalues(latents)), drawn, rtol=0.03, atol=0)


def test_eigenvalues_of_few_clips_come_through_the_gram_matrix():
    latents = torch.randn(5, 4, 2, 3, 3)
    values = flow.covariance_eigenvalues(latents, over="clips")
    rows = latents.double().flatten(1)
    expected = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0))
    torch.testing.assert_close(values.sort().values, expected.clamp(min=0), atol=1e-9, rtol=1e-6)
    assert len(flow.covariance_eigenvalues(latents)) == 4
    with pytest.raises(ValueError, match="positions"):
        flow.covariance_eigenvalues(latents, over="moon")
