"""What the networks share: root-mean-square norm, gated feed-forward, the embedding of flow time."""

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, computed in at least float32 whatever the input's type.

    "At least": the arithmetic runs in `promote_types(x.dtype, float32)`, so float64 stays float64 and the parallel
    checks can run in it; the result returns in x's type.
    """

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        y = x.to(dtype)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.to(dtype)).to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), no biases (LLaMa 3's feed-forward)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def sinusoids(positions: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """[...] -> [..., width]: cosines then sines at geometric frequencies, in at least float32."""
    dtype = torch.promote_types(positions.dtype, torch.float32)
    half = width // 2
    steps = torch.arange(half, device=positions.device, dtype=dtype)
    angles = positions.to(dtype)[..., None] * torch.exp(-math.log(max_period) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Flow time in [0, 1], [B], to [B, width]: 256 sinusoids of 1000 t, two bias-free layers.

    Runs in at least float32 even under autocast: in bfloat16 neighbouring times would share an embedding.
    """

    num_sinusoids = 256

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(self.num_sinusoids, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)

    def forward(self, time: Tensor) -> Tensor:
        with nullcontext() if time.is_meta else torch.autocast(time.device.type, enabled=False):
            waves = sinusoids(1000.0 * time, self.num_sinusoids)
            dtype = torch.promote_types(self.first.weight.dtype, torch.float32)
            hidden = F.silu(F.linear(waves.to(dtype), self.first.weight.to(dtype)))
            return F.linear(hidden, self.second.weight.to(dtype))
