"""A critic beside the autoencoder: it learns to tell reconstructions from videos, the autoencoder to leave it no clue.

The convention of latent diffusion's autoencoders: hinge loss, a late start, and a weight that balances gradients.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.autoencoders.tae import TAE
from models.discriminator import DiscriminatorConfig, PatchDiscriminator
from training.data.groups import Group
from training.loop import accumulate
from training.objectives.autoencoder import AutoencoderObjective
from training.optim import optimizer_tensors
from training.world import World

MAX_BALANCE = 1e4


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The paper gives none of these numbers."""

    weight: float = 0.05  # after balancing; HunyuanVideo's
    start_step: int = 0  # before it, critic and autoencoder do not meet
    learning_rate: float = 1e-4
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


class AdversarialObjective:
    """The autoencoder's objective plus what the critic says of the reconstruction. Holds the critic and its optimizer.

    The critic's part is scaled by |gradient of the rest| / |gradient of the critic's part| at the decoder's last layer.
    Both are summed over the global batch, and used one step later: so they are the same on any number of workers.
    """

    def __init__(self, objective: AutoencoderObjective, config: AdversarialConfig, device: torch.device):
        self.objective, self.config = objective, config
        self.critic = PatchDiscriminator(config.discriminator).to(device)
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), lr=config.learning_rate, betas=(0.5, 0.9))
        self.balance = torch.zeros((), dtype=torch.float64)  # until the first gradients have been measured
        self.active = False
        self.seen: list[Group] = []  # data: [B, 2, 3, T, H, W], video and reconstruction
        self.pulls: list[Tensor] = []  # gradients at the last layer: of the rest, of the critic's part

    def __call__(self, model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] of pixels [B, 3, T, H, W], and their parts."""
        assert isinstance(model, TAE)
        loss, numbers, reconstruction = self.objective.reconstruct(model, group)
        if not self.active:
            return loss, numbers
        caught = -self.critic(reconstruction).flatten(1).mean(dim=1)
        self.seen.append(replace(group, data=torch.stack([group.data, reconstruction.detach()], dim=1)))
        weights, last = group.weights.to(loss), model.decoder.conv_out.weight
        pulls = [torch.autograd.grad((part * weights).sum(), last, retain_graph=True)[0] for part in (loss, caught)]
        self.pulls = [a + b for a, b in zip(self.pulls, pulls, strict=True)] if self.pulls else pulls
        return loss + self.config.weight * float(self.balance) * caught, numbers | {"caught": caught}

    def begin_step(self, step: int) -> None:
        """Forget the last batch; wake up at the start step."""
        self.active = step >= self.config.start_step
        self.seen, self.pulls = [], []

    def finish_step(self, world: World) -> dict[str, float]:
        """One update of the critic on the batch that the autoencoder was just updated on."""
        if not self.active:
            return {}
        self.optimizer.zero_grad(set_to_none=True)  # the autoencoder's backward pass went through the critic too
        sums = accumulate(self.critic, hinge, self.seen, world)
        self.optimizer.step()
        world.sum_(self.pulls)
        rest, critics = (float(pull.norm()) for pull in self.pulls)
        used = float(self.balance)
        self.balance.fill_(min(rest / (critics + 1e-4), MAX_BALANCE))
        return {"critic": sums["loss"] / sums["count"], "critic_balance": used}

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, live."""
        optimizer = optimizer_tensors(self.critic, self.optimizer)
        return {"critic": self.critic.state_dict(), "optimizer": optimizer, "balance": self.balance}


def hinge(model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
    """The critic's loss per sample: max(0, 1 - logit) on videos, max(0, 1 + logit) on reconstructions, halved: [B]."""
    video, reconstruction = group.data.unbind(1)
    real = torch.relu(1 - model(video)).flatten(1).mean(dim=1)
    made = torch.relu(1 + model(reconstruction)).flatten(1).mean(dim=1)
    return 0.5 * (real + made), {}
