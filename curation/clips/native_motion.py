"""VMAF's motion feature at native size, equal to libvmaf's and to FFmpeg's `vmafmotion` up to their rounding."""

import cv2
import numpy as np

# VMAF's Gaussian, five taps; integer versions round them to 16 bits, which moves a result by less than 1e-3 luma
TAPS = np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685], np.float32)


def native_motion(before: np.ndarray, after: np.ndarray, bits: int = 8) -> float:
    """Mean absolute difference of two blurred luma planes [rows, columns], uint8, or uint16 with `bits` bits, in 8-bit luma.

    VMAF blurs both and subtracts; a blur is linear, so the difference is blurred once instead, which halves the cost.
    """
    kind = cv2.CV_16S if before.dtype == np.uint8 else cv2.CV_32F
    difference = cv2.subtract(after, before, dtype=kind)
    blurred = cv2.sepFilter2D(difference, cv2.CV_32F, TAPS, TAPS, borderType=cv2.BORDER_REFLECT_101)
    return float(cv2.norm(blurred, cv2.NORM_L1)) / (blurred.size * 2 ** (bits - 8))
