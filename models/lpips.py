"""LPIPS: how far apart two pictures are to people, by VGG-16's features and weights fitted to human judgement (v0.1).

No package that we install holds VGG's weights (528 MB), so they come from a folder; `models.perceptual` needs none.
"""

import os
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512, 512)  # of the five stages; each but the first halves rows and columns before it
CONVS = (2, 2, 3, 3, 3)  # 3x3 convolutions of each stage
NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # of the same in torchvision's `features`
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of VGG's pictures, for values in [-1, 1]


class LPIPS(nn.Module):
    """Pictures [N, 3, H, W] in [-1, 1], twice, to distances [N]; differentiable in both, its own weights frozen."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:-1])
        self.stages = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(before if i == 0 else width, width, 3, padding=1) for i in range(count))
            for before, width, count in zip(inputs, WIDTHS, CONVS, strict=True)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in WIDTHS)

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        pairs = zip(self.heads, self._features(pictures), self._features(others), strict=True)
        return sum(head((a - b).square()).mean((1, 2, 3)) for head, a, b in pairs)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        """Of every stage, [N, C, h, w], of unit length over channels."""
        mean, std = (pictures.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        x = (pictures - mean) / std
        features = []
        for number, convs in enumerate(self.stages):
            x = F.max_pool2d(x, 2) if number else x
            for conv in convs:  # type: ignore[attr-defined]
                x = F.relu(conv(x))
            features.append(F.normalize(x, dim=1, eps=1e-10))
        return features

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Self:
        """From a folder with torchvision's vgg16-397923af.pth and lpips' weights/v0.1/vgg.pth, under any names, .pth or
        .safetensors: what a file holds is read off its tensors' names."""
        found: dict[str, Tensor] = {}
        for path in sorted(Path(folder).glob("*")):
            if path.suffix == ".safetensors":
                found |= load_file(path)
            elif path.suffix == ".pth":
                found |= torch.load(path, map_location="cpu", weights_only=True)
        names = {f"heads.{k}.weight": f"lin{k}.model.1.weight" for k in range(len(WIDTHS))}
        for stage, numbers in enumerate(NUMBERS):
            for i, number in enumerate(numbers):
                for part in ("weight", "bias"):
                    names[f"stages.{stage}.{i}.{part}"] = f"features.{number}.{part}"
        if missing := [name for name in names.values() if name not in found]:
            raise ValueError(
                f"{folder} holds {len(names) - len(missing)} of LPIPS' {len(names)} tensors ({missing[0]} is missing); "
                "it takes torchvision's vgg16-397923af.pth and lpips' weights/v0.1/vgg.pth"
            )
        with torch.device("meta"):
            model = cls()
        model.load_state_dict(
            {ours: found[theirs].float() for ours, theirs in names.items()}, strict=False, assign=True
        )
        return model.eval().requires_grad_(False)
