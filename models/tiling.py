"""Encode and decode in tiles, so that length and size of a video are bounded by patience and not by memory.

What it costs, tiled against untiled, as PSNR of one decoded video against the other, on 112 frames of five real clips and
a TAE of 0.77 M parameters trained for 240 steps at 64 px:

* Tiles of **time**: 51 dB or more for decoding, 46 dB or more for encoding and decoding (contract: 40 dB). The tiled
  reconstruction is as good as the untiled one to 0.01 dB. Up to 32 frames it is the untiled one, bit for bit.
* Tiles of **space**: 21 to 36 dB, and up to 3.4 dB of reconstruction. Group norms and the mid blocks' attention see a tile
  instead of the frame (decoding without either: 49 dB), and no overlap cures that. They are a way out of memory and
  not a way to encode training data (contract: 20 dB). Untiled, 32 frames of 768 px make an activation of 9.7 GB in
  bfloat16 in the paper-size decoder's last level, and about three of these live at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.autoencoders.tae import COMPRESSION, TAE

# Movie Gen 3.1.1: tiles of 32 frames (4 latents); the encoder's do not overlap, the decoder's by 16 frames (2 latents).
TILE_FRAMES = 32
DECODER_OVERLAP_FRAMES = 16


@torch.no_grad()
def encode_tiled(tae: TAE, video: Tensor, tile_pixels: int | None = None, overlap_pixels: int = 64) -> Tensor:
    """Normalised latents [B, C, T, H, W] of video [B, 3, T', H', W'], 32 frames at a time, as `tae.encode` else.

    With `tile_pixels` frames are also cut into squares of that side, overlapping by `overlap_pixels` and cross-faded.
    """
    encode: Callable[[Tensor], Tensor] = tae.encode
    if tile_pixels is not None:
        _check_space(tile_pixels, overlap_pixels)
        encode = _over_space(encode, tile_pixels, overlap_pixels, overlap_pixels // COMPRESSION)
    return over_axis(video, 2, TILE_FRAMES, 0, 0, encode)


@torch.no_grad()
def decode_tiled(
    tae: TAE, latents: Tensor, num_frames: int, tile_pixels: int | None = None, overlap_pixels: int = 64
) -> Tensor:
    """Video [B, 3, num_frames, H', W'] of normalised latents: tiles of 4 latents every 2, cross-faded over 16 frames.

    A short last tile is decoded as it is. `tile_pixels` and `overlap_pixels` as in `encode_tiled`.
    """
    decode: Callable[[Tensor], Tensor] = tae.decode
    if tile_pixels is not None:
        _check_space(tile_pixels, overlap_pixels)
        decode = _over_space(decode, tile_pixels // COMPRESSION, overlap_pixels // COMPRESSION, overlap_pixels)
    tile, overlap = TILE_FRAMES // COMPRESSION, DECODER_OVERLAP_FRAMES // COMPRESSION
    return over_axis(latents, 2, tile, overlap, DECODER_OVERLAP_FRAMES, decode)[:, :, :num_frames]


def over_axis(
    x: Tensor, dim: int, tile: int, overlap: int, overlap_out: int, apply: Callable[[Tensor], Tensor]
) -> Tensor:
    """`apply` to tiles of `x` along `dim` and join the results, cross-fading where they overlap.

    `tile` and `overlap` count entries of `x`, `overlap_out` the entries of the result that the overlap becomes. Only
    the seam of the previous tile is kept while the next one runs.
    """
    length = x.shape[dim]
    starts = range(0, max(length - overlap, 1), tile - overlap)
    finished: list[Tensor] = []
    seam: Tensor | None = None
    for start in starts:
        piece = apply(x.narrow(dim, start, min(tile, length - start)))
        if seam is not None:
            head = cross_fade(seam, piece.narrow(dim, 0, overlap_out), dim)
            piece = torch.cat([head, piece.narrow(dim, overlap_out, piece.shape[dim] - overlap_out)], dim)
        if overlap_out and start != starts[-1]:
            cut = piece.shape[dim] - overlap_out
            seam, piece = piece.narrow(dim, cut, overlap_out), piece.narrow(dim, 0, cut)
        finished.append(piece)
    return torch.cat(finished, dim)


def cross_fade(earlier: Tensor, later: Tensor, dim: int) -> Tensor:
    """w earlier + (1 - w) later along `dim`, with w = 1 - (j + 0.5) / N falling from 1 to 0 over the N entries."""
    n = earlier.shape[dim]
    weight = 1 - (torch.arange(n, device=earlier.device, dtype=earlier.dtype) + 0.5) / n
    weight = weight.reshape(-1, *[1] * (earlier.ndim - 1 - dim % earlier.ndim))
    return weight * earlier + (1 - weight) * later


def _over_space(
    apply: Callable[[Tensor], Tensor], tile: int, overlap: int, overlap_out: int
) -> Callable[[Tensor], Tensor]:
    def over_columns(x: Tensor) -> Tensor:
        return over_axis(x, 4, tile, overlap, overlap_out, apply)

    return lambda x: over_axis(x, 3, tile, overlap, overlap_out, over_columns)


def _check_space(tile: int, overlap: int) -> None:
    if tile % COMPRESSION or overlap % COMPRESSION or not 0 <= overlap <= tile // 2:
        raise ValueError(
            f"tiles of {tile} px overlapping by {overlap}: both must be multiples of 8, the overlap at most half a tile"
        )
