"""The autoencoder's critic: is this patch of video real or reconstructed?"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes of the critic. The defaults train on a laptop."""

    width: int = 32
    layers: int = 3  # each halves rows and columns; all but the first halve the frames too
    groups: int = 8

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise ValueError(f"width={self.width} does not split into groups={self.groups}; use a divisor of the width")


class PatchDiscriminator(nn.Module):
    """Video [B, 3, T, H, W] in [-1, 1] to one logit per patch of space and time, [B, 1, t, h, w] (PatchGAN in 3D).

    Time is padded by repeating the border frames, so a single picture is judged as a still video.
    """

    config_class = DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        widths = [3, *(config.width * min(2**i, 8) for i in range(config.layers))]
        self.convs = nn.ModuleList([
            nn.Conv3d(widths[i], widths[i + 1], (3, 4, 4), stride=(1 if i == 0 else 2, 2, 2), padding=(0, 1, 1))
            for i in range(config.layers)
        ])  # fmt: skip
        self.norms = nn.ModuleList(
            [nn.Identity(), *(nn.GroupNorm(config.groups, width) for width in widths[2:])],
        )
        self.head = nn.Conv3d(widths[-1], 1, (3, 3, 3), padding=(0, 1, 1))

    def forward(self, video: Tensor) -> Tensor:
        x = video
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(_repeat_borders(x))), 0.2)
        return self.head(_repeat_borders(x))


def _repeat_borders(x: Tensor) -> Tensor:
    """One more frame at either end."""
    return F.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
