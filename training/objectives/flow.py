"""Flow matching: predict the velocity from noise to data, unweighted, one mean per sample (section 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.flow import interpolate, times_from_normal, velocity_target
from models.text.tokens import TextTokens
from training.data.groups import Group
from training.data.plan import Sample

# Shapes: B samples, C T H W latents.

Encode = Callable[[Sequence[str]], list[TextTokens]]


@dataclass(frozen=True, kw_only=True)
class FlowObjective:
    """Mean squared error against the velocity, at logit-normal times (mean 0, std 1)."""

    encode: Encode  # strings to the tokens of every encoder, cached
    text_dropout: float = 0.1  # the paper gives no rate; common choice

    def __call__(self, model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] of latents [B, C, T, H, W], and the times they were taken at."""
        latents = group.data
        noise = flow_noise(group.samples, latents)
        time = flow_times(group.samples, latents.device)
        captions = [self.caption(sample) for sample in group.samples]
        text = [tokens.to(latents.device) for tokens in self.encode(captions)]
        return flow_loss(model, latents, noise, time, text), {"timestep": time}

    def caption(self, sample: Sample) -> str:
        """The sample's caption, or now and then the empty string: for all encoders at once, so that guidance has one
        unconditional to start from."""
        return "" if sample.key("drop").uniform() < self.text_dropout else sample.caption


def flow_loss(model: nn.Module, latents: Tensor, noise: Tensor, time: Tensor, text: list[TextTokens]) -> Tensor:
    """Each sample's mean squared error of the predicted velocity at `time` [B]: [B]."""
    predicted = model(interpolate(noise, latents, time), time, text)
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    return (predicted.to(dtype) - velocity_target(noise, latents).to(dtype)).square().flatten(1).mean(dim=1)


def flow_noise(samples: Sequence[Sample], like: Tensor) -> Tensor:
    """Gaussian noise [B, C, T, H, W], each sample's from its own key."""
    noise = [torch.from_numpy(sample.key("noise").normal(tuple(like.shape[1:]))) for sample in samples]
    return torch.stack(noise).to(like)


def flow_times(samples: Sequence[Sample], device: torch.device) -> Tensor:
    """Logit-normal times in (0, 1), float32 [B]: sigmoid of a standard normal from each sample's own key."""
    normal = np.array([sample.key("timestep").generator().standard_normal() for sample in samples])
    return times_from_normal(torch.from_numpy(normal)).float().to(device)
