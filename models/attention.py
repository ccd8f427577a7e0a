"""The one door to scaled dot-product attention: which kernel may run, which one is preferred, and which one ran.

On CUDA the first of cuDNN, flash, efficient and math that can take the tensors runs: on Hopper cuDNN reaches 1.6 times the
forward rate of PyTorch's flash kernel (595 against 370 TFLOP/s at 16k tokens and heads of 128; neither takes float32).
On a CPU the choice is PyTorch's own, flash or math. Inside `use_backend` only the named kernels may run, and an
impossible one is an error, never a silent detour. `record_kernels` counts what ran.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

BACKENDS = {  # in order of preference
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
FLEX = "flex"  # not among them: compiled for the mask on CUDA; on a CPU plain tensor operations, forward only

# Globals, since torch.compile reads (and guards on) these and no context variables.
_only: tuple[str, ...] | None = None  # kernels that may run; None: any but flex
_ran: Counter[str] | None = None


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(K)) v, bidirectional.

    q is [B, N, L, K]; k and v are [B, N, S, K]; the result is [B, N, L, K]. `mask` is bool, [B, S], True where a key
    may be read; a row with no readable key has no meaning, and text encoders never return one.
    """
    if not torch.compiler.is_compiling() and _ran is not None:
        _ran[backend_for(q, k, v, mask)] += 1
    if _only == (FLEX,):
        return _flex(q, k, v, mask)
    allowed = None if mask is None else mask[:, None, None, :]
    with _preference(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


@contextmanager
def use_backend(*names: str) -> Iterator[None]:
    """Restrict every `attend` inside to the named kernels: some of "cudnn", "flash", "efficient", "math"; or "flex"."""
    global _only
    unknown = [name for name in names if name not in (*BACKENDS, FLEX)]
    if unknown or not names:
        raise ValueError(f"attention back end {unknown or names} is not one of {', '.join((*BACKENDS, FLEX))}")
    if FLEX in names and len(names) > 1:
        raise ValueError(f"flex is no kernel that PyTorch chooses; use it alone, not as one of {', '.join(names)}")
    before, _only = _only, names
    try:
        with nullcontext() if FLEX in names else sdpa_kernel([BACKENDS[name] for name in names]):
            yield
    finally:
        _only = before


@contextmanager
def record_kernels() -> Iterator[Counter[str]]:
    """Count the kernels that `attend` runs inside, by name. Calls inside a compiled graph are not seen."""
    global _ran
    before, _ran = _ran, Counter()
    try:
        yield _ran
    finally:
        _ran = before


def backend_for(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> str:
    """The kernel that `attend` runs for these tensors here and now; asks PyTorch's own chooser."""
    if _only == (FLEX,):
        return FLEX
    allowed = None if mask is None else mask[:, None, None, :]
    with _preference(q):
        choice = torch._fused_sdp_choice(q, k, v, attn_mask=allowed)
    return next((name for name, backend in BACKENDS.items() if backend.value == choice), f"back end {choice}")


def _preference(q: Tensor) -> AbstractContextManager[Any]:
    if q.is_cuda and _only is None:
        return sdpa_kernel(list(BACKENDS.values()), set_priority=True)
    return nullcontext()


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    def read(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert mask is not None
        return torch.where(mask[batch, key], score, -torch.inf)

    fused = q.is_cuda and not torch.compiler.is_compiling()  # inside a compiled graph it is compiled with the rest
    return (_compiled_flex() if fused else flex_attention)(q, k, v, score_mod=None if mask is None else read)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention)
