"""The video transformer: noisy latents, a time and a prompt in; the flow's velocity out (Movie Gen 3.1.3).

A LLaMa 3 block with three changes: attention looks both ways, a cross-attention to the text stands between
self-attention and feed-forward, and adaptive norms carry the time. No linear layer has a bias.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.attention import attend
from models.layers import RMSNorm, SwiGLU, TimeEmbedding
from models.positions import Grid, Positions, extend_table, interpolate_table
from models.text.tokens import TextTokens

# Shapes: B batch, L latent tokens, S text tokens, D width, N heads, K = D / N.


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the transformer. The defaults train on a laptop."""

    latent_channels: int = 16
    width: int = 256
    layers: int = 4
    heads: int = 4
    ffn_width: int = 640
    patch: tuple[int, int, int] = (1, 2, 2)  # latent frames, rows, columns per token
    text_widths: tuple[int, ...] = (384,)  # of each text encoder's states, in the order they are passed
    max_frames: int = 32  # entries of the position tables, in tokens
    max_rows: int = 32
    max_cols: int = 32

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"width={self.width} does not split over heads={self.heads}; "
                f"the nearest that does is width={self.width // self.heads * self.heads}"
            )
        if not self.text_widths:
            raise ValueError("text_widths is empty; name the width of at least one text encoder's states")

    @property
    def patch_values(self) -> int:
        """Numbers in one token's patch of latent."""
        return self.latent_channels * self.patch[0] * self.patch[1] * self.patch[2]


def _paper(layers: int, width: int, ffn_width: int, heads: int) -> TransformerConfig:
    """A size of the scaling study, with the paper's three text encoders (UL2, MetaCLIP, ByT5) and 768 px tables."""
    return TransformerConfig(
        layers=layers, width=width, ffn_width=ffn_width, heads=heads,
        text_widths=(4096, 1280, 1472), max_frames=32, max_rows=96, max_cols=96,
    )  # fmt: skip


SIZES = {
    "demo": TransformerConfig(),
    "1b": _paper(24, 1536, 4096, 16),
    "5b": _paper(32, 3072, 8192, 24),
    "9b": _paper(32, 4096, 11008, 32),
    "17b": _paper(40, 5120, 13824, 40),
    "30b": _paper(48, 6144, 16384, 48),
}


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, where x is [B, L, D] and the others [B, D]."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Queries from `x` [B, L, D], keys and values from `source` [B, S, D]; q and k are normed per head.

    `kernel` is the door to the attention kernel; sequence parallelism replaces it with one that first gathers k and v.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.head_width = width // heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm_q = RMSNorm(self.head_width)
        self.norm_k = RMSNorm(self.head_width)
        self.kernel = attend

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            rearrange(linear(y), "b l (n k) -> b n l k", k=self.head_width)
            for linear, y in ((self.to_q, x), (self.to_k, source), (self.to_v, source))
        )
        y = self.kernel(self.norm_q(q), self.norm_k(k), v, mask)  # [B, N, L, K]
        return self.to_out(rearrange(y, "b n l k -> b l (n k)"))


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last shifted, scaled, gated by time."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.width)
        self.self_attention = Attention(config.width, config.heads)
        self.norm2 = RMSNorm(config.width)
        self.cross_attention = Attention(config.width, config.heads)
        self.norm3 = RMSNorm(config.width)
        self.feed_forward = SwiGLU(config.width, config.ffn_width)
        self.bias = nn.Parameter(torch.zeros(6, config.width))  # this layer's own part of the modulation

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        shift1, scale1, gate1, shift3, scale3, gate3 = (modulation + self.bias).to(x.dtype).unbind(1)  # each [B, D]
        y = modulate(self.norm1(x), shift1, scale1)
        x = x + gate1[:, None] * self.self_attention(y, y)
        x = x + self.cross_attention(self.norm2(x), text, mask)
        y = modulate(self.norm3(x), shift3, scale3)
        return x + gate3[:, None] * self.feed_forward(y)


class TextProjection(nn.Module):
    """One encoder's states [B, S, W] to the transformer's width: linear, then LayerNorm."""

    def __init__(self, text_width: int, width: int):
        super().__init__()
        self.linear = nn.Linear(text_width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor) -> Tensor:
        return self.norm(self.linear(states.to(self.linear.weight.dtype)))


class VideoTransformer(nn.Module):
    """Velocity of the flow at latents [B, C, T, H, W] and time [B] (0 noise, 1 data), given the prompt's tokens.

    The patch convolution (kernel = stride) is written as a linear layer over folded patches: the same numbers, and
    one kind of layer to shard. One MLP turns the time into six modulation vectors for all layers, and each layer adds
    its own bias to them: a separate MLP per layer would make the 30B model a 40B one.
    """

    config_class = TransformerConfig

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.patch_in = nn.Linear(config.patch_values, config.width, bias=False)
        self.positions = Positions(config.width, config.max_frames, config.max_rows, config.max_cols)
        self.text_in = nn.ModuleList([TextProjection(w, config.width) for w in config.text_widths])
        self.time_in = TimeEmbedding(config.width)
        self.modulation = nn.Linear(config.width, 6 * config.width, bias=False)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm_out = RMSNorm(config.width)
        self.bias_out = nn.Parameter(torch.zeros(2, config.width))
        self.patch_out = nn.Linear(config.width, config.patch_values, bias=False)
        self.reset_parameters()

    def forward(self, latents: Tensor, time: Tensor, text: list[TextTokens]) -> Tensor:
        grid = self.grid(latents)
        x = self.patch_in(self.patchify(latents))  # [B, L, D]
        positions = self.positions(grid).to(x.dtype)  # [L, D]
        prompt, mask = self.read(text)  # [B, S, D], [B, S]
        time = self.time_in(time).to(x.dtype)  # [B, D]
        modulation = self.modulation(F.silu(time)).unflatten(-1, (6, -1))  # [B, 6, D]

        for block in self.blocks:
            x = block(x + positions, modulation, prompt, mask)

        shift, scale = (time[:, None] + self.bias_out).to(x.dtype).unbind(1)
        x = modulate(self.norm_out(x), shift, scale)
        return self.unpatchify(self.patch_out(x), grid)

    def read(self, text: list[TextTokens]) -> tuple[Tensor, Tensor]:
        """Every encoder's states through its own projection, one after the other along the sequence."""
        if len(text) != len(self.text_in):
            raise ValueError(f"{len(text)} text encodings for a model built for {len(self.text_in)} text encoders")
        for number, (tokens, width) in enumerate(zip(text, self.config.text_widths, strict=True)):
            if tokens.states.shape[-1] != width:
                raise ValueError(
                    f"text encoder {number} gives {tokens.states.shape[-1]} numbers a token; the model was built for "
                    f"{width}: set text_widths to the encoders' widths, in their order"
                )
        states = [project(tokens.states) for project, tokens in zip(self.text_in, text, strict=True)]
        return torch.cat(states, dim=1), torch.cat([tokens.mask for tokens in text], dim=1)

    def grid(self, latents: Tensor) -> Grid:
        """Tokens along time, rows and columns."""
        (t, h, w), (pt, ph, pw) = latents.shape[2:], self.config.patch
        if latents.shape[1] != self.config.latent_channels or t % pt or h % ph or w % pw:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} do not split into patches {self.config.patch} "
                f"of {self.config.latent_channels} channels; choose a size that is a multiple of 16 px"
            )
        return t // pt, h // ph, w // pw

    def patchify(self, latents: Tensor) -> Tensor:
        pt, ph, pw = self.config.patch
        return rearrange(latents, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)

    def unpatchify(self, x: Tensor, grid: Grid) -> Tensor:
        (t, h, w), (pt, ph, pw) = grid, self.config.patch
        axes = "b (t h w) (c pt ph pw) -> b c (t pt) (h ph) (w pw)"
        return rearrange(x, axes, t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)

    def reset_parameters(self) -> None:
        """Variance-preserving weights, gates open at 1, output zero: the first answer is velocity 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        depth = (3 * self.config.layers) ** -0.5  # three residual branches a layer add up to variance 1
        with torch.no_grad():
            for block in self.modules():
                if isinstance(block, Block):
                    block.bias[[2, 5]] = 1.0
                    for layer in (block.self_attention.to_out, block.cross_attention.to_out, block.feed_forward.down):
                        layer.weight *= depth
            self.modulation.weight *= 0.1
            nn.init.zeros_(self.patch_out.weight)

    def with_positions(self, *, frames: int | None = None, extend: int = 1, interpolate: int = 1) -> "VideoTransformer":
        """A new model, same weights, longer position tables: time up to `frames`, space by a whole factor.

        extend=2 keeps the old entries (256 px pictures, then aspect ratios); interpolate=3 cuts the same picture finer.
        """
        old = self.positions
        tables = {
            "time": extend_table(old.time, frames or len(old.time)),
            "row": interpolate_table(extend_table(old.row, extend * len(old.row)), interpolate),
            "column": interpolate_table(extend_table(old.column, extend * len(old.column)), interpolate),
        }
        frames, rows, columns = (len(table) for table in tables.values())
        state = self.state_dict() | {f"positions.{name}": table.detach() for name, table in tables.items()}
        with torch.device("meta"):
            model = VideoTransformer(replace(self.config, max_frames=frames, max_rows=rows, max_cols=columns))
        model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
        return model.requires_grad_(True).train(self.training)
