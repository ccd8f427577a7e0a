"""How much people like a picture, by LAION's predictors: a small head on CLIP's embedding of it, 1 to 10.

No package ships the weights. The image encoder is OpenAI's CLIP ViT-L/14 (ViT-L-14.pt, or the same weights as safetensors), the
head one of LAION's two: sa_0_4_vit_l_14_linear.pth, or the improved predictor's sac+logos+ava1-l14-linearMSE.pth.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MLP_LAYERS = (
    0,
    2,
    4,
    6,
    7,
)  # of the improved predictor: 768 -> 1024 -> 128 -> 64 -> 16 -> 1, nothing but linear between


class AestheticModel:
    """Pictures to scores; encoder and head load on construction. Raises `ValueError` where the files are not what they should be."""

    def __init__(self, clip: str, head: str) -> None:
        from models import torchvision_shim

        torchvision_shim.install()
        import open_clip

        self.layers = load_head(head)
        self.encoder = _image_encoder(clip)
        width = self.encoder.output_dim
        if self.layers[0][0].shape[1] != width:
            raise ValueError(f"{head} reads embeddings of {self.layers[0][0].shape[1]} numbers; {clip} gives {width}")
        self.prepare = open_clip.image_transform(
            self.encoder.image_size,
            is_train=False,
            mean=open_clip.OPENAI_DATASET_MEAN,
            std=open_clip.OPENAI_DATASET_STD,
        )

    def __call__(self, picture: np.ndarray) -> float:
        """RGB uint8 [H, W, 3], its middle square shown at 224 pixels -> the score."""
        import torch
        from PIL import Image

        with torch.no_grad():
            embedding = self.encoder(self.prepare(Image.fromarray(picture))[None])  # [1, 768]
            x = torch.nn.functional.normalize(embedding, dim=-1)
            for weight, bias in self.layers:
                x = torch.nn.functional.linear(x, weight, bias)
        return float(x)


def load_head(path: str) -> "list[tuple[Tensor, Tensor]]":
    """(weight [out, in], bias [out]) of the linear layers of either of LAION's heads. Raises `ValueError` for another file."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        names = [""] if "weight" in state else [f"layers.{number}." for number in MLP_LAYERS]
        layers = [(state[f"{name}weight"].float(), state[f"{name}bias"].float()) for name in names]
    except Exception as error:  # a torch.load of something else raises what it likes
        raise ValueError(
            f"{path} is neither LAION's linear aesthetic head (weight, bias) nor the improved predictor's "
            f"(layers.0 to layers.7): {type(error).__name__}"
        ) from error
    return layers


def _image_encoder(path: str) -> Any:
    """The image tower of a CLIP in OpenAI's layout, float32, whose sizes its weights tell."""
    import torch
    from open_clip.model import build_model_from_openai_state_dict  # with the quick GELU that OpenAI trained with

    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            try:
                state = dict(torch.jit.load(path, map_location="cpu").state_dict())  # as OpenAI publishes it
            except RuntimeError:
                state = torch.load(path, map_location="cpu", weights_only=True)
        encoder = build_model_from_openai_state_dict(state, cast_dtype=torch.float32).visual
    except Exception as error:
        raise ValueError(f"{path} is no CLIP in OpenAI's layout: {type(error).__name__}: {str(error)[:200]}") from error
    return encoder.float().eval().requires_grad_(False)


def weights_name(clip: str, head: str) -> str:
    """Names encoder and head by what is in the files: 8 hexadecimal digits each."""
    return "+".join(_digest(path, *_stamp(path)) for path in (clip, head))


def _stamp(path: str) -> tuple[int, int]:
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


@cache
def _digest(path: str, size: int, changed: int) -> str:
    """Once a process and content: the encoder is 0.9 GB, a second or two."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
