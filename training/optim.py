"""AdamW with its exclusions, the learning rate of a step, the gradient clip, and the moving average of weights."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The paper gives learning rates only; the rest are common choices, each stated where a recipe sets it."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    final_share: float = 0.0  # of the learning rate, at the end of a cosine
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must lie in [0, 1); 0.9999 averages about 10,000 steps")


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: matrices and kernels yes; norms, biases, position tables and modulation no."""
    words = ("position", "modulation", "norm", "bias", "embedding")
    return parameter.ndim >= 2 and not any(word in name.lower() for word in words)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters in two groups, with and without decay."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of step `step` (0-based) of `steps`: a linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    through = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * through))
    return config.learning_rate * share


class MovingAverage:
    """An exponential moving average of the parameters and buffers, in float32.

    The decay warms up as (1 + n) / (10 + n) so that the first steps do not haunt short runs.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().float().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's weights by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.state_dict().items():
            self.values[name].lerp_(value.detach().float(), 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights with the average."""
        model.load_state_dict({name: self.values[name].to(v.dtype) for name, v in model.state_dict().items()})
