"""Schedules and Euler sampling."""

import pytest
import torch

from models import flow
from models.sampler import linear_quadratic_schedule, linear_schedule, sample, schedule


def test_fifty_steps_emulate_two_hundred_and_fifty():
    times = linear_quadratic_schedule(50)
    assert times.dtype == torch.float64 and len(times) == 51
    assert (times.diff() > 0).all()
    assert times[0] == 0 and times[-1] == 1
    assert times[25].item() == pytest.approx(25 / 250)
    assert times.diff()[:25].tolist() == pytest.approx([1 / 250] * 25)
    # C1: the quadratic's slope at the join is the line's
    i = torch.arange(25, 28, dtype=torch.float64)
    a, b, _ = torch.linalg.solve(torch.stack([i**2, i, torch.ones(3)], 1).double(), times[25:28])
    assert (2 * a * 25 + b).item() == pytest.approx(1 / 250)
    assert times.diff()[25].item() == pytest.approx(0.0053, abs=5e-5)
    assert times.diff()[-1].item() == pytest.approx(0.067, abs=5e-4)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 49, 51, 249, 250])
def test_any_number_of_steps_up_to_the_emulated_one_rises_from_0_to_1(steps):
    times = linear_quadratic_schedule(steps)
    assert len(times) == steps + 1 and times[0] == 0 and times[-1] == 1
    assert (times.diff() > 0).all()
    if steps == 250:
        torch.testing.assert_close(times, linear_schedule(250))


def test_more_steps_than_the_emulated_schedule_are_refused():
    with pytest.raises(ValueError, match="at most 250 steps"):
        linear_quadratic_schedule(251)
    with pytest.raises(ValueError, match="at least 1"):
        linear_schedule(0)
    with pytest.raises(ValueError, match="linear-quadratic, linear"):
        schedule("cubic", 50)
    assert torch.equal(schedule("linear", 4), torch.linspace(0, 1, 5, dtype=torch.float64))


def test_euler_follows_a_known_field_to_its_end():
    """For data concentrated at one point the exact velocity is (data - c x) / sigma_t; any schedule arrives."""
    data = torch.full((2, 3), 4.0)

    def velocity(x, time, condition):
        t = time[:, None].double()
        c = 1 - flow.S_MIN
        noise = (x.double() - t * data) / (1 - c * t)
        return (data - c * noise).float()

    for times in (linear_schedule(8), linear_quadratic_schedule(50)):
        torch.testing.assert_close(sample(velocity, torch.randn(2, 3), times), data, atol=1e-3, rtol=0)


def test_guidance_extrapolates_away_from_the_empty_prompt():
    calls = []

    def velocity(x, time, condition):
        calls.append(condition)
        return torch.full_like(x, condition)

    out = sample(velocity, torch.zeros(1, 2), linear_schedule(1), 3.0, empty=1.0, guidance=7.5)
    assert out.tolist() == [[1 + 7.5 * 2] * 2] and calls == [3.0, 1.0]
    calls.clear()
    sample(velocity, torch.zeros(1, 2), linear_schedule(2), 3.0, empty=1.0)
    assert calls == [3.0, 3.0]  # guidance 1 asks once a step
    with pytest.raises(ValueError, match="empty prompt"):
        sample(velocity, torch.zeros(1, 2), linear_schedule(1), 3.0, guidance=2.0)


def test_every_step_is_reported_and_the_type_kept():
    seen = []
    noise = torch.randn(1, 2).bfloat16()
    out = sample(lambda x, t, c: x, noise, linear_schedule(3), on_step=lambda i, x: seen.append((i, x.dtype)))
    assert seen == [(i, torch.float32) for i in range(3)] and out.dtype == torch.bfloat16
