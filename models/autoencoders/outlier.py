"""The outlier penalty: no place of a latent may shout (Movie Gen 3.1.1, L_OPL)."""

from torch import Tensor


def outlier_penalty(latents: Tensor, r: float = 3.0) -> Tensor:
    """max(|X_ij - mean(X)| - r |std(X)|, 0), averaged over places, frames and videos: a scalar.

    `latents` are raw, [B, C, T, H, W] (or [N, C, H, W]); every frame is judged by itself. Mean and std are *per
    channel* over the frame's places, and the norms run over channels: with C channels of std s the threshold is
    r sqrt(C) s, about 3 times what a typical place has, so only real outliers pay. (A single std over all channels
    would put the threshold below the typical place: 91 % of Gaussian latents would pay.) Both are detached: the way
    to pay less is to move the outlier, not to widen the rest.

    The paper's weight of 1e5 belongs to losses that are summed over a frame; beside losses averaged per element it is
    1e5 / (3 H' W') for frames of H' x W' pixels.
    """
    x = latents.movedim(1, 2).flatten(0, 1) if latents.ndim == 5 else latents  # [frames, C, H, W]
    x = x.flatten(2)  # [frames, C, places]
    mean = x.mean(-1, keepdim=True).detach()
    std = x.std(-1, keepdim=True, correction=0).detach()
    distance = (x - mean).norm(dim=1)  # [frames, places]
    return (distance - r * std.norm(dim=1)).clamp(min=0).mean()
