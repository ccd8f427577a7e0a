"""The one door to scaled dot-product attention: which kernel may run, and which one does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, bidirectional.

    q is [B, N, L, K]; k and v are [B, N, S, K]; the result is [B, N, L, K]. `mask` is bool, [B, S], True where a key
    may be read; a row with no readable key has no meaning, and text encoders never return one.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


@contextmanager
def use_backend(*names: str) -> Iterator[None]:
    """Restrict every `attend` inside to the named kernels ("math", "flash", "efficient", "cudnn")."""
    unknown = [name for name in names if name not in BACKENDS]
    if unknown or not names:
        raise ValueError(f"attention back end {unknown or names} is not one of {', '.join(BACKENDS)}")
    with sdpa_kernel([BACKENDS[name] for name in names]):
        yield


def backend_for(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> str:
    """The kernel that `attend` runs for these tensors here and now; asks PyTorch's own chooser."""
    allowed = None if mask is None else mask[:, None, None, :].expand(-1, q.shape[1], q.shape[2], -1)
    choice = torch._fused_sdp_choice(q, k, v, attn_mask=allowed)
    return next((name for name, backend in BACKENDS.items() if backend.value == choice), f"back end {choice}")
