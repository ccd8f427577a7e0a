"""AdamW with its exclusions, the learning rate of a step, the gradient clip, and the moving average of weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Lower the rate when the validation loss has stopped falling (section 5: halved; the paper gives no patience)."""

    patience: int = 5  # validations in a row that are not better than the best before them
    factor: float = 0.5
    threshold: float = 1e-3  # share of the best loss by which a lower one counts as better
    min_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 < self.factor < 1:
            raise ValueError(
                f"patience={self.patience} must be at least 1 and factor={self.factor} lie between 0 and 1; the paper halves: 0.5"
            )


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
    plateau: Plateau | None = None

    def __post_init__(self) -> None:
        if self.plateau and self.schedule != "constant":
            raise ValueError(
                f"schedule={self.schedule!r} and a plateau would both lower the rate; use schedule 'constant'"
            )
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


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """AdamW's live state by parameter name, as zeros where no step has been made; shards where parameters are shards.

    By name and not by number, so that a checkpoint survives other groupings. Rates and decays are the recipe's.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        found[names[parameter]] = dict(state)
    return found


RateEvent = tuple[int, float]  # (steps done when it was decided, learning rate from then on)


def learning_rate(config: OptimizerConfig, step: int, steps: int, events: Sequence[RateEvent] = ()) -> float:
    """The rate of step `step` (0-based) of `steps`: a linear warm-up, then constant or half a cosine.

    `events` replace the configured rate from their step on; the latest one counts.
    """
    rate = next((rate for since, rate in reversed(events) if since <= step), config.learning_rate)
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return rate
    through = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * through))
    return rate * share


def plateau_events(config: OptimizerConfig, history: Sequence[tuple[int, float]]) -> list[RateEvent]:
    """Every lowering of the rate that the validations (steps done, loss) call for: nothing but a function of them."""
    if config.plateau is None:
        return []
    best, waited, rate, events = math.inf, 0, config.learning_rate, []
    for step, loss in history:
        if loss < best * (1 - config.plateau.threshold):
            best, waited = loss, 0
            continue
        waited += 1
        lowered = rate * config.plateau.factor
        if waited >= config.plateau.patience and lowered >= config.plateau.min_learning_rate:
            rate, waited = lowered, 0
            events.append((step, rate))
    return events


class MovingAverage:
    """An exponential moving average of the parameters and buffers, in at least float32.

    The decay warms up as (1 + n) / (10 + n) so that the first steps do not haunt short runs. Of a model that is spread
    over workers each keeps the average of its own shards: the values are DTensors as the parameters are.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.values = {name: _wide(value).clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model's weights by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in model.state_dict().items():
            self.values[name].lerp_(_wide(value), 1 - decay)

    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights with the average."""
        model.load_state_dict({name: self.values[name].to(v.dtype) for name, v in model.state_dict().items()})


def _wide(value: Tensor) -> Tensor:
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))
