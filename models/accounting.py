"""Know before you run: tokens, parameters and floating-point operations of a video transformer, in closed form."""

import math

from models.autoencoders.tae import COMPRESSION
from models.layers import TimeEmbedding
from models.video.transformer import TransformerConfig


def tokens(config: TransformerConfig, frames: int, height: int, width: int) -> int:
    """Tokens of a clip of so many frames and pixels: 256 frames of 768 x 768 are 73,728."""
    pt, ph, pw = config.patch
    if height % (COMPRESSION * ph) or width % (COMPRESSION * pw):
        raise ValueError(f"{height} x {width} px do not split into tokens; use multiples of {COMPRESSION * ph} px")
    latent_frames = math.ceil(frames / COMPRESSION)
    return math.ceil(latent_frames / pt) * (height // (COMPRESSION * ph)) * (width // (COMPRESSION * pw))


def parameters(config: TransformerConfig) -> int:
    """Exactly the number of parameters the model has."""
    d, f, p = config.width, config.ffn_width, config.patch_values
    attention = 4 * d * d + 2 * (d // config.heads)  # four projections, two per-head norms
    block = 2 * attention + 3 * d * f + 3 * d + 6 * d  # SwiGLU, three norms, the layer's modulation bias
    text = sum(w * d + 2 * d for w in config.text_widths)
    time = TimeEmbedding.num_sinusoids * d + d * d + 6 * d * d
    positions = (config.max_frames + config.max_rows + config.max_cols) * d
    return config.layers * block + text + time + positions + 2 * p * d + 3 * d


def flops(config: TransformerConfig, num_tokens: int, text_tokens: tuple[int, ...] | int, batch: int = 1) -> int:
    """Floating-point operations of one forward pass, two per multiply-add, matrix products only.

    `text_tokens` is the padded length of each encoder's text, in the order of `config.text_widths` (or one number for
    a single encoder). Training takes three times as much, less what `backward_flops` leaves out.
    """
    lengths = text_lengths(config, text_tokens)
    d, f, p, n, s = config.width, config.ffn_width, config.patch_values, num_tokens, sum(lengths)
    linear = n * (4 * d * d) + n * (2 * d * d) + s * (2 * d * d) + n * (3 * d * f)  # self, cross q and o, cross k and v
    time = TimeEmbedding.num_sinusoids * d + d * d + 6 * d * d
    matrices = config.layers * linear + _text(config, lengths) + time + 2 * n * p * d
    return 2 * batch * matrices + attention_flops(config, num_tokens, text_tokens, batch)


def attention_flops(
    config: TransformerConfig, num_tokens: int, text_tokens: tuple[int, ...] | int, batch: int = 1
) -> int:
    """The part of `flops` inside the attention kernels: q k^T and weights v, self and cross, over all heads."""
    n, s = num_tokens, sum(text_lengths(config, text_tokens))
    return 2 * batch * config.layers * (2 * n * n + 2 * n * s) * config.width


def backward_flops(
    config: TransformerConfig, num_tokens: int, text_tokens: tuple[int, ...] | int, batch: int = 1
) -> int:
    """Operations of a backward pass: twice the forward's, less the gradients of latents, text and time, which nobody needs."""
    d, lengths = config.width, text_lengths(config, text_tokens)
    unneeded = num_tokens * config.patch_values * d + _text(config, lengths) + TimeEmbedding.num_sinusoids * d
    return 2 * flops(config, num_tokens, text_tokens, batch) - 2 * batch * unneeded


def text_lengths(config: TransformerConfig, text_tokens: tuple[int, ...] | int) -> tuple[int, ...]:
    """One length an encoder, or a ValueError."""
    lengths = (text_tokens,) if isinstance(text_tokens, int) else text_tokens
    if len(lengths) != len(config.text_widths):
        raise ValueError(f"{len(lengths)} text lengths for {len(config.text_widths)} text encoders")
    return lengths


def _text(config: TransformerConfig, lengths: tuple[int, ...]) -> int:
    return sum(length * w * config.width for length, w in zip(lengths, config.text_widths, strict=True))
