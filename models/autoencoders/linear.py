"""The best linear codec of the TAE's shape: principal components of 8x8x8 patches, the baseline a TAE must beat."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

SIDE = 8  # of a patch, in frames, rows and columns


@dataclass(frozen=True)
class LinearCodec:
    """Each 8x8x8 patch of RGB (1,536 numbers) to `components` coefficients and back, the same map everywhere.

    No linear map of this shape reconstructs the clips it was fitted on with a smaller squared error.
    """

    mean: Tensor  # [1536]
    basis: Tensor  # [components, 1536], orthonormal rows

    @classmethod
    def fit(cls, clips: Iterable[Tensor], components: int = 16) -> "LinearCodec":
        """From clips [3, T', H', W'] (or batches [B, 3, T', H', W']) in [-1, 1]; one pass, float64 covariance."""
        size = 3 * SIDE**3
        total, outer, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
        for clip in clips:
            rows = _patches(clip if clip.ndim == 5 else clip[None]).flatten(0, -2).double()
            total, outer, count = total + rows.sum(0), outer + rows.T @ rows, count + len(rows)
        if not count:
            raise ValueError("no clips to fit the linear codec on; pass at least one")
        mean = total / count
        _, vectors = torch.linalg.eigh(outer / count - mean.outer(mean))  # eigenvalues rise
        return cls(mean.float(), vectors[:, -components:].T.flip(0).float().contiguous())

    def encode(self, video: Tensor) -> Tensor:
        """[B, 3, T', H', W'] -> [B, components, ceil(T'/8), H'/8, W'/8]; the last frame is repeated to fill a patch."""
        return ((_patches(video) - self.mean) @ self.basis.T).movedim(-1, 1)

    def decode(self, latents: Tensor, num_frames: int | None = None) -> Tensor:
        """[B, components, T, H, W] -> [B, 3, num_frames, 8 H, 8 W] (None: all 8 T frames)."""
        rows = latents.movedim(1, -1) @ self.basis + self.mean
        axes = "b t h w (c pt ph pw) -> b c (t pt) (h ph) (w pw)"
        return rearrange(rows, axes, c=3, pt=SIDE, ph=SIDE, pw=SIDE)[:, :, :num_frames]


def psnr(video: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each [3, T, H, W] in [-1, 1], over all its elements: [B]."""
    error = (video.clamp(-1, 1) - other.clamp(-1, 1)).square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp(min=1e-12))  # the range is 2 wide: peak squared = 4


def _patches(video: Tensor) -> Tensor:
    """[B, 3, T', H', W'] -> [B, T, H, W, 1536]."""
    video = F.pad(video, (0, 0, 0, 0, 0, -video.shape[2] % SIDE), mode="replicate")
    axes = "b c (t pt) (h ph) (w pw) -> b t h w (c pt ph pw)"
    return rearrange(video, axes, pt=SIDE, ph=SIDE, pw=SIDE)
