"""Flow matching: the straight path from noise to data, its velocity, how time is drawn, and a closed-form baseline."""

import torch
from torch import Tensor

# Time runs from 0 (noise) to 1 (data). s_min leaves a trace of noise at t = 1 (Movie Gen 3.1.2).
S_MIN = 1e-5


def _per_sample(time: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] to broadcast over a sample."""
    return time.to(torch.promote_types(like.dtype, torch.float32)).reshape(-1, *[1] * (like.ndim - 1))


def interpolate(noise: Tensor, data: Tensor, time: Tensor) -> Tensor:
    """X_t = t X_1 + (1 - (1 - s_min) t) X_0; noise and data are [B, ...], time is [B]."""
    t = _per_sample(time, data)
    return (t * data + (1 - (1 - S_MIN) * t) * noise).to(data.dtype)


def velocity_target(noise: Tensor, data: Tensor) -> Tensor:
    """V_t = dX_t/dt = X_1 - (1 - s_min) X_0, the same at every time."""
    return data - (1 - S_MIN) * noise


def data_estimate(x_t: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """The X_1 that a point on the path and its velocity imply: (1 - s_min) x_t + sigma_t v."""
    t = _per_sample(time, x_t)
    return (1 - S_MIN) * x_t + (1 - (1 - S_MIN) * t) * velocity


def sample_times(uniform: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Logit-normal times from uniform keys in (0, 1): sigmoid(mean + std * normal_quantile(u)), shape kept."""
    u = uniform.double().clamp(1e-12, 1 - 1e-12)
    return torch.sigmoid(mean + std * torch.special.ndtri(u)).to(uniform.dtype)


def times_from_normal(normal: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Logit-normal times from standard normal keys, shape kept."""
    return torch.sigmoid(mean + std * normal)


# The best Gaussian denoiser. Let X_1 have mean m and covariance S, X_0 ~ N(0, I), c = 1 - s_min, sigma = 1 - c t.
# The best affine guess of V = X_1 - c X_0 from X_t = t X_1 + sigma X_0 splits along the eigenvectors of S. Along one
# with eigenvalue l: Var V = l + c^2, Var X_t = t^2 l + sigma^2, Cov = t l - c sigma, so the error left is
#     l + c^2 - (t l - c sigma)^2 / (t^2 l + sigma^2) = l (sigma + c t)^2 / (t^2 l + sigma^2) = l / (t^2 l + sigma^2),
# since sigma + c t = 1. If X_1 really is Gaussian no denoiser does better; a network must beat it to have learned more
# than means and correlations.


def gaussian_denoiser_loss(eigenvalues: Tensor, times: Tensor) -> Tensor:
    """Velocity MSE per element of the best affine denoiser at each of `times`, [K] -> [K], float64.

    `eigenvalues` [D] are those of the data's covariance, zeros included: their number is the number of elements the
    mean runs over. Average the result over logit-normal times to compare with a training loss.
    """
    values, t = eigenvalues.double()[None], times.double()[:, None]
    sigma = 1 - (1 - S_MIN) * t
    return (values / (t.square() * values + sigma.square())).mean(-1)


def mean_velocity_loss(eigenvalues: Tensor) -> Tensor:
    """Velocity MSE per element of always answering the mean velocity: mean eigenvalue + (1 - s_min)^2, at any time."""
    return eigenvalues.double().mean() + (1 - S_MIN) ** 2


def covariance_eigenvalues(latents: Tensor, over: str = "positions") -> Tensor:
    """Eigenvalues of the covariance of latents [N, C, T, H, W], float64, for `gaussian_denoiser_loss`.

    over="positions": one C-dimensional Gaussian shared by every place and time, C eigenvalues. Needs few clips.
    over="clips": one Gaussian of C T H W dimensions, as many eigenvalues (those beyond N - 1 are zero). With fewer
    clips than dimensions it knows the very clips it was measured on, so it is a far stronger baseline on them.
    Through the N x N Gram matrix when N is the smaller side.
    """
    if over == "positions":
        rows = latents.double().movedim(1, -1).flatten(0, -2)
    elif over == "clips":
        rows = latents.double().flatten(1)
    else:
        raise ValueError(f"over={over!r} is not a way to pool latents; use 'positions' or 'clips'")
    rows = rows - rows.mean(0)
    count, dimension = rows.shape
    if count >= dimension:
        return torch.linalg.eigvalsh(rows.T @ rows / count).clamp(min=0)
    values = torch.linalg.eigvalsh(rows @ rows.T / count).clamp(min=0)
    return torch.cat([values.new_zeros(dimension - count), values])
