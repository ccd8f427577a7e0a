"""From noise to data: the time schedules, first-order Euler steps, classifier-free guidance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Any], Tensor]  # (x [B, ...], time [B], condition) -> velocity [B, ...]


def linear_schedule(steps: int) -> Tensor:
    """steps + 1 equally spaced times from 0 (noise) to 1 (data), float64."""
    if steps < 1:
        raise ValueError(f"steps={steps} takes no step; use at least 1")
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def linear_quadratic_schedule(steps: int, emulate: int = 250) -> Tensor:
    """steps + 1 times: the first half walks as `emulate` linear steps would, the rest stretches quadratically to 1.

    Movie Gen 3.4.2, in the slope-matched form open code uses. With L = steps // 2, Q = steps - L, tau = L / N:
    t_i = i tau / L before L; t_i = a i^2 + b i + c from L on, where D = L - tau S, a = D / (L Q^2),
    b = tau / L - 2 D / Q^2, c = a L^2. Value and slope agree at L, and t_S = 1. Float64.
    """
    if steps > emulate:
        raise ValueError(
            f"{steps} steps cannot emulate {emulate} linear ones; use at most {emulate} steps or the linear schedule"
        )
    if steps <= 2:
        return linear_schedule(steps)
    linear = steps // 2
    quadratic = steps - linear
    tau = linear / emulate
    bend = linear - tau * steps
    a = bend / (linear * quadratic**2)
    b = tau / linear - 2 * bend / quadratic**2
    i = torch.arange(steps + 1, dtype=torch.float64)
    times = torch.where(i < linear, i * tau / linear, a * i.square() + b * i + a * linear**2)
    times[-1] = 1.0
    return times


SCHEDULES: dict[str, Callable[[int], Tensor]] = {
    "linear-quadratic": linear_quadratic_schedule,
    "linear": linear_schedule,
}


def schedule(name: str, steps: int) -> Tensor:
    """The named schedule's times, or a ValueError that lists the names."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is not known; use one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](steps)


def guided(velocity: Velocity, x: Tensor, time: Tensor, condition: Any, empty: Any, guidance: float) -> Tensor:
    """Classifier-free guidance, v_empty + guidance (v_condition - v_empty); one call where guidance is 1.

    Two calls rather than one doubled batch: half the activations, and conditions need not share a length.
    """
    conditional = velocity(x, time, condition)
    if guidance == 1.0:
        return conditional
    unconditional = velocity(x, time, empty)
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Tensor,
    times: Tensor,
    condition: Any = None,
    *,
    empty: Any = None,
    guidance: float = 1.0,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Euler steps along `times` (a schedule, [S + 1]) from `noise` [B, ...] at time 0 to data at time 1.

    `velocity(x, time, condition)` is called with a time [B]. With guidance other than 1 it is also called with
    `empty`, the encoded empty prompt. The running sample is held in at least float32; `on_step(i, x)` sees it after
    step i. The result has noise's type.
    """
    if guidance != 1.0 and empty is None:
        raise ValueError(f"guidance={guidance} needs the condition of an empty prompt; pass empty=... or guidance=1")
    x = noise.to(torch.promote_types(noise.dtype, torch.float32))
    for i, (now, then) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        time = torch.full((len(x),), now, device=x.device, dtype=x.dtype)
        x = x + (then - now) * guided(velocity, x.to(noise.dtype), time, condition, empty, guidance).to(x.dtype)
        if on_step is not None:
            on_step(i, x)
    return x.to(noise.dtype)
