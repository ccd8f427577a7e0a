"""Know before you run: bytes of activations that a training step of the video transformer holds, in closed form.

Counted are the tensors autograd keeps for the backward pass, as the blocks run without torch.compile; compiled blocks
keep fewer. There are no logits: the last layer gives 64 numbers a token.
"""

from typing import Literal, NamedTuple

from models.accounting import text_lengths
from models.video.transformer import TransformerConfig

# Shapes: L latent tokens, S text tokens, D width, F feed-forward width, N heads; split over cp and tp devices.
Recompute = Literal["none", "save-attention", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "save-attention", "full")  # least work first, least memory last
FLOAT32 = 4  # norms and softmax statistics, whatever the type of the rest


class Activations(NamedTuple):
    """Bytes on one device."""

    kept: int  # from the forward pass to the backward pass
    block: int  # of the one block that is computed again, while its backward pass runs
    passing: int  # gradients inside a block's backward pass: an upper estimate, three [L, D] in float32

    @property
    def peak(self) -> int:
        """The most there is at once."""
        return self.kept + self.block + self.passing


def activations(
    config: TransformerConfig,
    num_tokens: int,
    text_tokens: tuple[int, ...] | int,
    *,
    batch: int = 1,
    recompute: Recompute = "none",
    cp: int = 1,
    tp: int = 1,
    element_bytes: int = 2,
) -> Activations:
    """What `batch` samples of so many tokens hold on each of cp x tp devices; the text is as long as `flops` says.

    "none" keeps everything, "full" each block's input, "save-attention" also what the attention kernels returned (output
    and log-sum-exp). `element_bytes` is that of the compute type. Sequence parallelism is assumed where tp > 1: what
    lies between linear layers is split over the tokens, and their gathered inputs are kept.
    """
    lengths = text_lengths(config, text_tokens)
    d, f, heads, layers, c = config.width, config.ffn_width, config.heads, config.layers, element_bytes
    here = (
        batch * num_tokens // (cp * tp)
    )  # tokens of residual stream, or of all tokens the share of heads and hidden units
    gathered, text = batch * num_tokens // cp, batch * sum(lengths)

    block_input = here * d * c
    outputs = 2 * here * (d * c + heads * FLOAT32)  # of self- and cross-attention, with their log-sum-exps
    block = (
        here * d * 6 * FLOAT32  # three norms: input and normed; "full" keeps one of these inputs anyway
        + here * d * 2 * c  # scaled, before modulation
        + gathered * d * 3 * c  # inputs of q k v, of the cross-attention's q, of the feed-forward
        + here * d * 6 * FLOAT32  # norms of q, k and the cross-attention's q: input and normed
        + here * d * 2 * c  # q of both
        + batch * num_tokens // tp * d * 2 * c  # k and v of every token
        + text * d * 2 * (FLOAT32 + c) // tp  # k and v of the text, and k's norm
        + outputs
        + here * d * 2 * c  # what the two gates multiply
        + here * f * 4 * c  # gate, its silu, up, and their product
        + here * (3 * heads + 3) * FLOAT32  # one over the root mean square, of heads and of tokens
    )
    outside = (
        here * d * 2 * (FLOAT32 + c)  # the last norm
        + here * config.patch_values * (c + FLOAT32)  # folded latents; the error that is squared
        + batch * sum(n * w for n, w in zip(lengths, config.text_widths, strict=True)) * c
        + 2 * text * d * c  # before and after the text's norm
    )
    passing = 3 * here * d * FLOAT32
    if recompute == "none":
        return Activations(layers * block + outside, 0, passing)
    if recompute == "full":
        return Activations(layers * block_input + outside, block, passing)
    return Activations(layers * (block_input + outputs) + outside, block - outputs, passing)
