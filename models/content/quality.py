"""Whether a picture looks as it left the camera: a small head on what the packaged EfficientNet-Lite0 sees early on.

The first blocks of a classifier answer to edges, grain and flat areas; their means and deviations over a native-resolution crop
change with blur, compression, noise and banding and little with what the picture shows. The head is a logistic
regression on them, trained by benchmarks/visual_quality.py on real frames that were damaged on purpose; quality.json beside
its weights says on which, and how well it tells frames of videos it has not seen.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.content.classifier import SIDE, load_network, normalise_pixels

WEIGHTS = Path(__file__).with_name("quality.safetensors")
REPORT = Path(__file__).with_name("quality.json")
# blocks whose output is looked at: 16, 24, 40, 80 and 112 channels at 1/2 to 1/16 of the size
STAGES = (0, 2, 4, 7, 10)

# Shapes: N crops, F = 2 x 272 statistics.


class QualityFeatures:
    """Crops to the statistics that the head reads; the network loads on construction."""

    def __init__(self) -> None:
        network = load_network()
        self.stem = fuse_conv_bn_eval(network._conv_stem, network._bn0)
        self.blocks = [_fused(block) for block in network._blocks[: STAGES[-1] + 1]]
        self.activation = network._swish
        for each in (self.stem, *self.blocks):
            each.to(memory_format=torch.channels_last)  # with the fusing two thirds of the cost on CPUs

    @torch.no_grad()
    def __call__(self, crops: np.ndarray) -> Tensor:
        """uint8 RGB [N, 224, 224, 3], unscaled -> mean and log deviation over the crop of every channel, float32 [N, F]."""
        if crops.ndim != 4 or crops.shape[1:] != (SIDE, SIDE, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops are {crops.dtype} {crops.shape}; they must be uint8 [N, {SIDE}, {SIDE}, 3]")
        x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float()
        x = normalise_pixels(x / 255).contiguous(memory_format=torch.channels_last)
        x = self.activation(self.stem(x))
        statistics = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in STAGES:
                statistics += [x.mean((2, 3)), x.std((2, 3)).clamp_min(1e-4).log()]
        return torch.cat(statistics, dim=1)


def _fused(block: Any) -> Any:
    """A block with its batch norms folded into its convolutions."""
    for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
        if hasattr(block, convolution):
            setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
            setattr(block, norm, torch.nn.Identity())
    return block


class QualityModel:
    """Crops to probabilities; the network and the head load on construction."""

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self.features = QualityFeatures()
        self.head = load_file(weights)

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """uint8 RGB [N, 224, 224, 3], unscaled -> log odds of being undamaged, float32 [N]."""
        return log_odds(self.head, self.features(crops)).numpy()


def log_odds(head: dict[str, Tensor], features: Tensor) -> Tensor:
    """Logistic regression on standardised features [N, F] -> [N]. head: mean, scale, weight [F] and bias [1]."""
    return ((features - head["mean"]) / head["scale"]) @ head["weight"] + head["bias"]
