"""A recipe made small, with everything kept that decides whether a layout over workers computes the same."""

from collections.abc import Sequence
from dataclasses import replace

from models.video.transformer import TransformerConfig
from training.data.buckets import Bucket
from training.recipes import VideoRecipe

HEAD_WIDTH = 8
LAYERS = 2  # one layer would hide what goes wrong between layers
TEXT_TOKENS = 128  # the longest text; every encoder but UL2 stops at or below it


def shrink(recipe: VideoRecipe, unit: int) -> tuple[TransformerConfig, list[Bucket]]:
    """A model and the shapes to compute with it, for layouts whose degrees (cp x tp) divide `unit`.

    Heads, hidden units, and every bucket's frames, rows and columns of tokens keep their remainder by `unit`, so what
    divides in the recipe divides here, and what does not, does not. A picture wider than high stays so. Buckets that
    become one shape are computed once.
    """
    buckets = list(dict.fromkeys(_bucket(bucket, unit) for bucket in recipe.buckets.buckets()))
    heads = _shrunk(recipe.model.heads, unit, least=2 * unit)
    model = replace(
        recipe.model,
        latent_channels=min(recipe.model.latent_channels, 4),
        heads=heads,
        width=heads * HEAD_WIDTH,
        ffn_width=_shrunk(recipe.model.ffn_width, unit, least=2 * heads * HEAD_WIDTH),
        layers=LAYERS,
        text_widths=tuple(min(width, 8 + number) for number, width in enumerate(recipe.model.text_widths)),
        max_frames=max(-(-bucket.frames // 8) for bucket in buckets),  # no place of a table that no bucket reads
        max_rows=max(bucket.height // 16 for bucket in buckets),
        max_cols=max(bucket.width // 16 for bucket in buckets),
    )
    return model, buckets


def _bucket(bucket: Bucket, unit: int) -> Bucket:
    frames = 1 if bucket.frames == 1 else 8 * _shrunk(-(-bucket.frames // 8), unit, least=2)
    rows, columns = bucket.height // 16, bucket.width // 16
    short = _shrunk(min(rows, columns), unit, least=2)
    long = short if rows == columns else _shrunk(max(rows, columns), unit, least=short + 1)
    height, width = (16 * short, 16 * long) if rows <= columns else (16 * long, 16 * short)
    return Bucket(frames=frames, height=height, width=width)


def _shrunk(number: int, unit: int, least: int) -> int:
    """The smallest number of at least `least` with the remainder of `number` by `unit`; no more than `number`."""
    if number <= least:
        return number
    return least + (number - least) % unit


def sample_shapes(buckets: Sequence[Bucket], step: int) -> list[Bucket]:
    """The shape of every sample of a batch: two or three of each bucket, so that some do not divide over workers."""
    return [bucket for number, bucket in enumerate(buckets) for _ in range(2 + (number + step) % 2)]
