"""The plain image autoencoder that a TAE grows from, in the state-dict layout of diffusers' `AutoencoderKL`."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from models.autoencoders.tae import Decoder, Encoder, ImageVAEConfig, Posterior

# Older files of the same layout call the mid block's attention layers differently.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class ImageVAE(nn.Module):
    """Pictures [N, 3, H', W'] in [-1, 1] <-> raw latents [N, C, H'/8, W'/8], each picture by itself.

    The TAE's own encoder and decoder with their temporal layers left out; parameter names are diffusers', so published
    weights (4 or 16 latent channels, with or without quant convolutions) load as they are.
    """

    config_class = ImageVAEConfig

    def __init__(self, config: ImageVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, time=None)
        self.decoder = Decoder(config, time=None)
        c = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1) if config.quant_convs else None
        self.post_quant_conv = nn.Conv2d(c, c, 1) if config.quant_convs else None

    def encode_posterior(self, pictures: Tensor) -> Posterior:
        """The Gaussian over raw latents; mean and logvar are [N, C, H, W]."""
        x = F.pixel_unshuffle(pictures, self.config.patch)
        x = self.encoder(x, len(pictures))
        x = x if self.quant_conv is None else self.quant_conv(x)
        mean, logvar = x.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Raw latents [N, C, H, W] to pictures [N, 3, H', W'], not clamped."""
        x = latents if self.post_quant_conv is None else self.post_quant_conv(latents)
        return F.pixel_shuffle(self.decoder(x, len(latents)), self.config.patch)

    @classmethod
    def from_diffusers(cls, state: dict[str, Tensor], groups: int = 32) -> Self:
        """Build from an `AutoencoderKL` state dict; every size but `groups` is read off the tensors' shapes."""
        state = {_new_name(name): _as_linear(name, tensor) for name, tensor in state.items()}
        model = cls(_config_of({name: tuple(tensor.shape) for name, tensor in state.items()}, groups))
        model.load_state_dict(state)
        return model


def load_diffusers_vae(folder: str | os.PathLike) -> ImageVAE:
    """Read a diffusers VAE folder: config.json (for the number of groups) and diffusion_pytorch_model.safetensors."""
    return ImageVAE.from_diffusers(load_file(image_vae_weights(folder)), _groups(folder))


def read_image_vae_config(folder: str | os.PathLike) -> ImageVAEConfig:
    """The sizes of a diffusers VAE folder, from the shapes alone; ValueError where its weights are none of this network."""
    path = image_vae_weights(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                shape = tuple(file.get_slice(name).get_shape())
                shapes[_new_name(name)] = shape[:2] if ".attentions." in name else shape
        config = _config_of(shapes, _groups(folder))
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in ImageVAE(config).state_dict().items()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no image autoencoder that a TAE can grow from: {error}") from error
    if wrong := sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name)):
        raise ValueError(
            f"{path} holds no image autoencoder that a TAE can grow from: {wrong[0]} is {shapes.get(wrong[0], 'missing')}, "
            f"where a network of its sizes has {wanted.get(wrong[0], 'none')}"
        )
    return config


def image_vae_weights(folder: str | os.PathLike) -> Path:
    """The weights file of a diffusers VAE folder, or a ValueError."""
    weights = Path(folder) / "diffusion_pytorch_model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{folder} holds no {weights.name}; pass the vae folder of a diffusers model")
    return weights


def _groups(folder: str | os.PathLike) -> int:
    config = Path(folder) / "config.json"
    return json.loads(config.read_text()).get("norm_num_groups", 32) if config.is_file() else 32


def _config_of(shapes: Mapping[str, tuple[int, ...]], groups: int) -> ImageVAEConfig:
    channels, inputs = shapes["encoder.conv_in.weight"][:2]
    if inputs != 3:
        raise ValueError(f"encoder.conv_in takes {inputs} channels; an autoencoder of RGB pictures takes 3")
    levels = range(_count(shapes, "encoder.down_blocks"))
    widths = [shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels]
    return ImageVAEConfig(
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=_count(shapes, "encoder.down_blocks.0.resnets"),
        latent_channels=shapes["decoder.conv_in.weight"][1],
        groups=groups,
        attention="encoder.mid_block.attentions.0.to_q.weight" in shapes,
        quant_convs="quant_conv.weight" in shapes,
    )


def _count(names: Iterable[str], prefix: str) -> int:
    """How many numbered children a module list has."""
    depth = prefix.count(".") + 1
    return len({name.split(".")[depth] for name in names if name.startswith(f"{prefix}.")})


def _new_name(name: str) -> str:
    if ".attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name


def _as_linear(name: str, tensor: Tensor) -> Tensor:
    """The oldest files hold the attention's projections as 1x1 convolutions."""
    is_conv = ".attentions." in name and tensor.ndim == 4
    return torch.flatten(tensor, 1) if is_conv else tensor
