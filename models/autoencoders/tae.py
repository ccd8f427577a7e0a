"""The temporal autoencoder: video to latents 8x smaller in time, height and width, and back (Movie Gen 3.1.1).

An image autoencoder of the Stable Diffusion kind, inflated: after every 3x3 spatial convolution a temporal one, after
the spatial attention of the two mid blocks a temporal one, three of the steps down (and up) also halve (double) the
frames. All temporal layers start as the identity, so the untrained TAE *is* the image autoencoder: latent k equals the
image latent of frame 8k, and decodes to that picture 8 times.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.autoencoders.layers import Conv, Downsample, MidBlock, ResnetBlock, Time, Upsample

# Shapes: B videos, T' frames of H' x W' pixels; T = ceil(T' / 8), H = H' / 8, W = W' / 8, C latent channels.
COMPRESSION = 8  # in time, in height and in width
TIME_STEPS = 3  # 2 ** 3 = 8


@dataclass(frozen=True, kw_only=True)
class ImageVAEConfig:
    """Sizes of an image autoencoder. The defaults are Stable Diffusion 3.5's (16 channels, no quant convolutions)."""

    channels: int = 128  # width of the first level
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # width of each level, in `channels`
    blocks: int = 2  # residual blocks per level; the decoder has one more
    latent_channels: int = 16
    groups: int = 32  # of every group norm
    attention: bool = True  # in the mid blocks
    quant_convs: bool = False  # 1x1 convolutions around the latent, as in 4-channel autoencoders
    patch: int = 1  # pixels folded into channels before the first convolution: 4 makes a CPU-sized model 16x cheaper

    def __post_init__(self) -> None:
        if len(self.multipliers) <= TIME_STEPS:
            raise ValueError(
                f"multipliers={self.multipliers} make {len(self.multipliers)} levels; "
                f"three steps down need {TIME_STEPS + 1} levels or more, such as (1, 2, 4, 4)"
            )
        if self.patch not in (1, 2, 4, 8):
            raise ValueError(f"patch={self.patch} does not divide the 8x compression; use 1, 2, 4 or 8")
        for multiplier in self.multipliers:
            if self.channels * multiplier % self.groups:
                raise ValueError(
                    f"{self.channels * multiplier} channels do not split into groups={self.groups}; "
                    f"use a divisor such as groups={math.gcd(self.channels, self.groups)}"
                )

    @property
    def space_steps(self) -> int:
        """How many of the steps between levels halve rows and columns; the patch has done the rest."""
        return (COMPRESSION // self.patch).bit_length() - 1


@dataclass(frozen=True, kw_only=True)
class TAEConfig(ImageVAEConfig):
    """An image autoencoder's sizes plus the latent's scale, measured at the end of training (None: not yet)."""

    latent_mean: tuple[float, ...] | None = None  # per channel
    latent_std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latent_mean", "latent_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(f"{name} has {len(values)} values for {self.latent_channels} latent channels")


SIZES = {
    "demo": TAEConfig(channels=32, multipliers=(1, 1, 2, 2), blocks=1, groups=8, patch=4),  # 64 px clips on a CPU
    "moviegen": TAEConfig(),
}


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over raw latents: mean and log variance, each [B, C, T, H, W]."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, where noise is standard normal and shaped like the mean."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Tensor:
        """KL divergence from N(0, 1) of every element, [B, C, T, H, W]."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)


class Encoder(nn.Module):
    """Frames [B*T', 3 p p, H'/p, W'/p] to moments [B*T, 2C, H, W]; `time=None` leaves a plain image encoder."""

    def __init__(self, config: ImageVAEConfig, time: Time | None):
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = Conv(3 * config.patch**2, widths[0], time)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = [widths[max(level - 1, 0)], *[width] * (config.blocks - 1)]
            block = nn.Module()
            block.resnets = nn.ModuleList([ResnetBlock(i, width, config.groups, time) for i in inputs])
            block.downsamplers = nn.ModuleList([Downsample(width, *step) for step in _step(config, level, time)])
            self.down_blocks.append(block)
        self.mid_block = MidBlock(widths[-1], config.groups, config.attention, time)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, time)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        x = self.conv_in(x, batch)
        for block in self.down_blocks:
            for layer in (*block.resnets, *block.downsamplers):  # type: ignore[misc]
                x = layer(x, batch)
        x = self.mid_block(x, batch)
        return self.conv_out(F.silu(self.conv_norm_out(x)), batch)


class Decoder(nn.Module):
    """Latents [B*T, C, H, W] to frames [B*8T, 3 p p, H'/p, W'/p]; the encoder's mirror, one block more per level."""

    def __init__(self, config: ImageVAEConfig, time: Time | None):
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = Conv(config.latent_channels, widths[-1], time)
        self.mid_block = MidBlock(widths[-1], config.groups, config.attention, time)
        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            inputs = [widths[min(level + 1, len(widths) - 1)], *[width] * config.blocks]
            block = nn.Module()
            block.resnets = nn.ModuleList([ResnetBlock(i, width, config.groups, time) for i in inputs])
            block.upsamplers = nn.ModuleList([Upsample(width, *step) for step in _step(config, level - 1, time)])
            self.up_blocks.append(block)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0], eps=1e-6)
        self.conv_out = Conv(widths[0], 3 * config.patch**2, time)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        x = self.conv_in(x, batch)
        x = self.mid_block(x, batch)
        for block in self.up_blocks:
            for layer in (*block.resnets, *block.upsamplers):  # type: ignore[misc]
                x = layer(x, batch)
        return self.conv_out(F.silu(self.conv_norm_out(x)), batch)


def _step(config: ImageVAEConfig, level: int, time: Time | None) -> list[tuple[bool, bool]]:
    """What lies between this level and the next smaller one: [(halves space, halves time)], or [] for nothing."""
    if not 0 <= level < len(config.multipliers) - 1:
        return []
    step = (level < config.space_steps, time is not None and level < TIME_STEPS)
    return [step] if any(step) else []


class TAE(nn.Module):
    """Video [B, 3, T', H', W'] in [-1, 1] <-> latents [B, C, T, H, W]; a picture is a video of one frame.

    `encode` returns and `decode` takes *normalised* latents (mean 0, std 1 per channel once training has measured
    them); `encode_posterior` and `decode_raw` are the raw side that the training losses see. 1x1 convolutions
    (shortcuts, quant) look at no neighbour and get no temporal one.
    """

    config_class = TAEConfig

    def __init__(self, config: TAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, time="same")
        self.decoder = Decoder(config, time="same")
        c = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1) if config.quant_convs else None
        self.post_quant_conv = nn.Conv2d(c, c, 1) if config.quant_convs else None

    def encode_posterior(self, video: Tensor) -> Posterior:
        """The Gaussian over raw latents: T = ceil(T' / 8) of them for any T' >= 1; H' and W' are multiples of 8."""
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[3] % COMPRESSION or video.shape[4] % COMPRESSION:
            raise ValueError(
                f"video has shape {tuple(video.shape)}; it must be [B, 3, T, H, W] with H and W multiples of 8"
            )
        x = rearrange(video, "b c t h w -> (b t) c h w")
        x = F.pixel_unshuffle(x, self.config.patch).contiguous(memory_format=torch.channels_last)
        x = self.encoder(x, len(video))
        x = x if self.quant_conv is None else self.quant_conv(x)
        mean, logvar = rearrange(x, "(b t) (two c) h w -> two b c t h w", b=len(video), two=2)
        return Posterior(mean.contiguous(), logvar.clamp(-30, 20).contiguous())

    def decode_raw(self, latents: Tensor, num_frames: int | None = None) -> Tensor:
        """Raw latents to [B, 3, num_frames, H', W']: the first `num_frames` of the 8 T decoded ones (None: all)."""
        most = COMPRESSION * latents.shape[2]
        num_frames = most if num_frames is None else num_frames
        if not most - COMPRESSION < num_frames <= most:
            raise ValueError(
                f"{latents.shape[2]} latent frames hold {most - COMPRESSION + 1} to {most} frames, not {num_frames}"
            )
        x = rearrange(latents, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        x = x if self.post_quant_conv is None else self.post_quant_conv(x)
        x = F.pixel_shuffle(self.decoder(x, len(latents)), self.config.patch)
        return rearrange(x, "(b t) c h w -> b c t h w", b=len(latents))[:, :, :num_frames]

    def encode(self, video: Tensor) -> Tensor:
        """Normalised posterior mean, [B, C, T, H, W]: what the video transformer is trained on."""
        return self.normalise(self.encode_posterior(video).mean)

    def decode(self, latents: Tensor, num_frames: int | None = None) -> Tensor:
        """Normalised latents to video [B, 3, num_frames, H', W'], not clamped."""
        return self.decode_raw(self.denormalise(latents), num_frames)

    def normalise(self, raw: Tensor) -> Tensor:
        mean, std = self._scale(raw)
        return (raw - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        mean, std = self._scale(latents)
        return latents * std + mean

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config.latent_channels
        mean = like.new_tensor(self.config.latent_mean or [0.0] * c)
        std = like.new_tensor(self.config.latent_std or [1.0] * c)
        return mean[:, None, None, None], std[:, None, None, None]

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store the per-channel mean and std of raw latents, measured over the training data, in the config."""
        self.config = replace(self.config, latent_mean=tuple(mean.tolist()), latent_std=tuple(std.tolist()))

    @classmethod
    def from_image_vae(cls, image_vae: nn.Module) -> Self:
        """Inflate an `ImageVAE`: its weights in every spatial layer, the identity in every temporal one."""
        shape = {field.name: asdict(image_vae.config)[field.name] for field in fields(ImageVAEConfig)}  # type: ignore[call-overload]
        tae = cls(TAEConfig(**shape))
        missing, unexpected = tae.load_state_dict(image_vae.state_dict(), strict=False)
        assert not unexpected and all("temporal" in name for name in missing), (missing, unexpected)
        return tae
