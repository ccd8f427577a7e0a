"""The autoencoder's objective: reconstruct the pixels, keep the latent near a Gaussian, let no position stand out."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from models.autoencoders.outlier import outlier_penalty
from models.autoencoders.tae import TAE
from models.lpips import LPIPS
from training.data.groups import Group

# Shapes: B samples, T' H' W' pixels, T H W latent positions, C latent channels.


@dataclass(frozen=True, kw_only=True)
class AutoencoderObjective:
    """Reconstruction + KL + outlier penalty, all per-element means, so that a loss does not grow with the picture.

    The sources give weights for losses *summed* over pixels: KL 1e-6 on sums is 1e-8 here (latents are 96 times fewer
    than pixel values), and the paper's outlier weight 1e5 is 1e5 / (3 H' W') here: 0.5 at 256 px, 8 at 64 px.
    """

    reconstruction: Literal["l1", "l2"] = "l1"  # l1 is the convention of latent diffusion's autoencoders
    perceptual_weight: float = 0.0  # of a distance between features; 0 switches it off; the paper gives no weight
    perceptual_weights: str | None = (
        None  # folder of LPIPS' weights, see models.lpips; None: a packaged classifier's features
    )
    kl_weight: float = 1e-8  # 0 switches it off
    outlier_weight: float = 1e5  # on sums, as the paper states it; 0 switches it off
    outlier_scale: float = 3.0  # the paper's r, in standard deviations

    def __call__(self, model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses [B] of pixels [B, 3, T', H', W'], and their parts."""
        loss, numbers, _ = self.reconstruct(model, group)
        return loss, numbers

    def reconstruct(self, model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The same, and the reconstruction [B, 3, T', H', W']."""
        assert isinstance(model, TAE)
        video = group.data
        posterior = model.encode_posterior(video)
        noise = posterior_noise(group, posterior.mean)
        reconstruction = model.decode_raw(posterior.sample(noise), video.shape[2])

        error = reconstruction - video
        loss = (error.abs() if self.reconstruction == "l1" else error.square()).mean(dim=(1, 2, 3, 4))
        numbers = {self.reconstruction: loss, "psnr": psnr_per_sample(reconstruction, video)}
        if self.perceptual_weight:
            numbers["perceptual"] = perceptual_per_sample(reconstruction, video, self.perceptual_weights)
            loss = loss + self.perceptual_weight * numbers["perceptual"]
        if self.kl_weight:
            numbers["kl"] = posterior.kl().flatten(1).mean(dim=1)  # per element
            loss = loss + self.kl_weight * numbers["kl"]
        if self.outlier_weight:
            numbers["outlier"] = outlier_per_sample(posterior.mean, self.outlier_scale)
            loss = loss + mean_outlier_weight(self.outlier_weight, *video.shape[3:]) * numbers["outlier"]
        return loss, numbers, reconstruction


def posterior_noise(group: Group, like: Tensor) -> Tensor:
    """Gaussian noise [B, C, T, H, W] from each sample's own key: the same on any number of workers."""
    noise = [torch.from_numpy(s.key("posterior").normal(tuple(like.shape[1:]))) for s in group.samples]
    return torch.stack(noise).to(like)


def perceptual_per_sample(reconstruction: Tensor, video: Tensor, weights: str | None = None) -> Tensor:
    """Perceptual distance of each sample's frames [B, 3, T, H, W], averaged over its frames: [B]."""
    frames, originals = (x.transpose(1, 2).flatten(0, 1) for x in (reconstruction, video))  # [B*T, 3, H, W]
    return _perceptual(video.device, weights)(frames, originals).unflatten(0, (len(video), -1)).mean(dim=1)


@cache
def _perceptual(device: torch.device, weights: str | None) -> nn.Module:
    if weights is not None:
        return LPIPS.load(weights).to(device)
    from models.perceptual import PerceptualDistance  # its weights come in a package that not every machine has

    return PerceptualDistance().to(device).requires_grad_(False)


def outlier_per_sample(z: Tensor, scale: float) -> Tensor:
    """Outlier penalty of each sample's latent frames, averaged over its frames: [B]."""
    return torch.stack([outlier_penalty(sample[None], scale) for sample in z])


def mean_outlier_weight(weight_on_sums: float, height: int, width: int) -> float:
    """The outlier weight beside a per-element mean, from its weight beside a loss summed over 3 H' W' values."""
    return weight_on_sums / (3 * height * width)


def psnr_per_sample(reconstruction: Tensor, video: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of signals in [-1, 1], over a whole sample: [B]. For logs, not a loss."""
    mse = (reconstruction.detach().float().clamp(-1, 1) - video.float()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4.0 / mse.clamp_min(1e-10))
