"""From one training stage to the next: the weights of the stage before, its position tables grown to the new recipe's."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from models.video.transformer import TransformerConfig, VideoTransformer
from models.weights import build_model, load_model, read_config
from training.recipes import VideoRecipe

TABLES = ("max_frames", "max_rows", "max_cols")


def check_start(folder: Path, recipe: VideoRecipe, tae_sha256: str) -> None:
    """Raise ValueError where a stage cannot start from these weights; reads config.json alone."""
    document = read_config(folder)
    trained = document["trained"]
    if trained["tae_sha256"] != tae_sha256:
        raise ValueError(
            f"{folder} was trained on latents of the autoencoder {trained['tae_sha256'][:12]}, not of {tae_sha256[:12]}; "
            "pass that one as --tae"
        )
    encoders = tuple(trained["recipe"]["text_encoders"])
    if encoders != recipe.text_encoders:
        raise ValueError(
            f"{folder} reads text by {', '.join(encoders)}; {recipe.name} by {', '.join(recipe.text_encoders)}"
        )
    model = build_model(document, device="meta")
    assert isinstance(model, VideoTransformer)
    growth(model.config, recipe.model, recipe.name)


def load_start(folder: Path, recipe: VideoRecipe) -> VideoTransformer:
    """The weights to start from, with the recipe's position tables; positions are the only thing that may differ."""
    model = load_model(folder)
    assert isinstance(model, VideoTransformer)
    if model.config != recipe.model:
        how: Literal["extend", "interpolate"] = recipe.grow
        factor = growth(model.config, recipe.model, recipe.name)
        model = model.with_positions(frames=recipe.model.max_frames, **{how: factor})
    return model.train()


def growth(old: TransformerConfig, new: TransformerConfig, name: str) -> int:
    """By which whole factor the spatial tables grow; ValueError where anything else differs or they shrink."""
    if replace(old, **{table: getattr(new, table) for table in TABLES}) != new:
        before, after = asdict(old), asdict(new)
        field = next(f for f in before if f not in TABLES and before[f] != after[f])
        raise ValueError(
            f"the stage before has {field}={before[field]}, {name} {after[field]}; only position tables may grow between stages"
        )
    rows, columns = (divmod(b, a) for a, b in ((old.max_rows, new.max_rows), (old.max_cols, new.max_cols)))
    if rows != columns or rows[1] or rows[0] < 1 or new.max_frames < old.max_frames:
        raise ValueError(
            f"position tables of {old.max_frames} x {old.max_rows} x {old.max_cols} cannot grow to {name}'s "
            f"{new.max_frames} x {new.max_rows} x {new.max_cols}: rows and columns by one whole factor, frames to no fewer"
        )
    return rows[0]
