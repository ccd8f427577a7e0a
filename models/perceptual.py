"""A perceptual distance: how far apart two pictures are for a network that has learned to see.

LPIPS' recipe (unit-length features at several depths, squared differences) on the features of EfficientNet-Lite0,
whose weights we have. It is not LPIPS: another backbone, and no layer weights fitted to human judgement. Its values
compare with themselves only. `models.lpips` is LPIPS, for those who have its weights.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.content.classifier import load_network, normalise_pixels

TAPS = (0, 2, 4, 10)  # blocks whose output is compared: 1/2, 1/4, 1/8 and 1/16 of the picture's size


class PerceptualDistance(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1], twice, to distances [N]; differentiable in both, its own weights frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network()

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        pairs = zip(self._features(pictures), self._features(others), strict=True)
        return sum((a - b).square().sum(1).mean((1, 2)) for a, b in pairs) / len(TAPS)  # type: ignore[return-value]

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stays in eval mode: its batch norms must not learn from what it measures."""
        return super().train(False)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(normalise_pixels((pictures + 1) / 2))))
        features = []
        for number, block in enumerate(net._blocks[: TAPS[-1] + 1]):
            x = block(x)
            if number in TAPS:
                features.append(F.normalize(x, dim=1))
        return features
