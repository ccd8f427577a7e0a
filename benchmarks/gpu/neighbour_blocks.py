"""Transformer blocks of other video models, from the diffusers library where it can be imported: random weights, our shape."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Draw = Callable[..., Tensor]  # shape to random numbers
Parts = tuple[nn.Module, tuple[Any, ...]]  # a block and what it is called with

# Widths, heads, tokens and text tokens are ours. Feed-forwards are these models' own: two matrices, of our hidden width
# where it can be set (LTX: four times the width). Norms, positions and conditioning are as each model has them.


def wan(width: int, heads: int, ffn_width: int, tokens: int, text: int, draw: Draw) -> Parts:
    """Wan 2: self-attention, cross-attention, feed-forward; modulation in float32."""
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    turns = (draw(1, tokens, 1, width // heads), draw(1, tokens, 1, width // heads))
    block = WanTransformerBlock(width, ffn_width, heads, cross_attn_norm=True)
    return block, (draw(1, tokens, width), draw(1, text, width), draw(1, 6, width), turns)


def hunyuan(width: int, heads: int, ffn_width: int, tokens: int, text: int, draw: Draw) -> Parts:
    """HunyuanVideo's block of two streams: joint attention of video and text, a feed-forward for each."""
    from diffusers.models.transformers.transformer_hunyuan_video import HunyuanVideoTransformerBlock

    turns = (draw(tokens, width // heads), draw(tokens, width // heads))
    block = HunyuanVideoTransformerBlock(heads, width // heads, ffn_width / width)
    return block, (draw(1, tokens, width), draw(1, text, width), draw(1, width), None, turns)


def cogvideox(width: int, heads: int, ffn_width: int, tokens: int, text: int, draw: Draw) -> Parts:
    """CogVideoX: joint attention and one feed-forward over text and video."""
    from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock

    turns = (draw(tokens, width // heads), draw(tokens, width // heads))
    block = CogVideoXBlock(width, heads, width // heads, time_embed_dim=512, ff_inner_dim=ffn_width)
    return block, (draw(1, tokens, width), draw(1, text, width), draw(1, 512), turns)


def ltx(width: int, heads: int, ffn_width: int, tokens: int, text: int, draw: Draw) -> Parts:
    """LTX-Video: self-attention, cross-attention, feed-forward."""
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformerBlock

    turns = (draw(1, tokens, width), draw(1, tokens, width))
    block = LTXVideoTransformerBlock(width, heads, width // heads, cross_attention_dim=width)
    return block, (draw(1, tokens, width), draw(1, text, width), draw(1, 1, 6 * width), turns)


NEIGHBOURS = {"Wan": wan, "HunyuanVideo": hunyuan, "CogVideoX": cogvideox, "LTX": ltx}


def why_not() -> str | None:
    """Why there is nothing to compare with, or None where there is."""
    try:
        from diffusers.models.transformers.transformer_wan import WanTransformerBlock  # noqa: F401
    except Exception as error:  # a part of it that is missing raises RuntimeError
        return f"diffusers cannot be imported: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return None


def drawing(device: torch.device, dtype: torch.dtype) -> Draw:
    """Standard normal numbers there."""
    return lambda *shape: torch.randn(*shape, device=device, dtype=dtype)
