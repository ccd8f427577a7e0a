"""PSNR and SSIM of frames against frames, per frame and averaged, the way the paper's tables do it (section 2.6)."""

import numpy as np
import torch
import torch.nn.functional as F


def psnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over frames of each frame's peak signal-to-noise ratio, in dB; uint8 [T, H, W, 3]. 100 for equal frames."""
    _check(reference, other)
    error = (reference.astype(np.float64) - other.astype(np.float64)) ** 2
    per_frame = 10 * np.log10(255.0**2 / np.maximum(error.mean(axis=(1, 2, 3)), 255.0**2 * 1e-10))
    return float(per_frame.mean())


def ssim(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean over frames and channels of structural similarity; uint8 [T, H, W, 3].

    The original definition: an 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, borders left out.
    """
    _check(reference, other)
    if min(reference.shape[1:3]) < 11:
        raise ValueError(f"SSIM looks through an 11 x 11 window; {reference.shape[2]}x{reference.shape[1]} is smaller")
    x, y = (torch.from_numpy(a).double().permute(0, 3, 1, 2).flatten(0, 1)[:, None] for a in (reference, other))
    taps = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    taps = taps / taps.sum()

    def blur(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(z, taps.view(1, 1, 11, 1)), taps.view(1, 1, 1, 11))  # [T*3, 1, H-10, W-10]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def _check(reference: np.ndarray, other: np.ndarray) -> None:
    if reference.shape != other.shape or reference.dtype != np.uint8 or other.dtype != np.uint8:
        raise ValueError(
            f"frames must be uint8 of one shape, not {reference.dtype} {reference.shape} and {other.dtype} {other.shape}"
        )
