"""The mean of several trained transformers' weights: the paper's last step, after fine-tuning (section 5)."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from models.weights import WEIGHTS, build_model, read_config, save_model, weights_sha256
from training.generate import find_tae
from training.runs import find_model, local_folder

SHARED = ("tae_sha256", "text_encoders")  # of what was trained: models of other latents or words have no mean


def average_models(checkpoints: Sequence[str | Path], out: str | Path) -> Path:
    """Write the equal-weighted mean of the models to `out`, ready to generate, to evaluate and to start a stage from.

    Added up in float64, stored in float32. One tensor of one model is in memory at a time, beside the sum. The recipe of
    the first tells shapes and captions; config.json names all parts. ValueError where they are not of one kind.
    """
    folders = [find_model(checkpoint, "video") for checkpoint in checkpoints]
    if len(folders) < 2:
        raise ValueError("a mean takes at least two trained models")
    target = local_folder(out)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty; choose another --out")
    documents = [read_config(folder) for folder in folders]
    for folder, document in zip(folders[1:], documents[1:], strict=True):
        _check_alike(folders[0], documents[0], folder, document)
    trained = documents[0]["trained"]
    tae = find_tae(folders[0], trained["tae_sha256"], None)

    model = build_model(documents[0], device="meta")
    state = {name: _mean(name, folders) for name in model.state_dict()}
    model.load_state_dict(state, assign=True)
    parts = [{"folder": str(folder), "weights_sha256": weights_sha256(folder)} for folder in folders]
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, model, trained=trained | {"averaged": parts})
    shutil.copytree(tae, partial / "tae")
    if target.exists():
        target.rmdir()
    partial.rename(target)
    return target


def _mean(name: str, folders: Sequence[Path]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for folder in folders:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            part = file.get_tensor(name).double()
        total = part if total is None else total.add_(part)
    assert total is not None
    return (total / len(folders)).float()


def _check_alike(first: Path, one: dict[str, Any], second: Path, other: dict[str, Any]) -> None:
    for name in ("class", "config"):
        if one[name] != other[name]:
            fields = [f for f in one["config"] if name == "config" and one["config"][f] != other["config"].get(f)]
            raise ValueError(
                f"{first} and {second} are models of another {', '.join(fields) or name}; they have no mean"
            )
    for name in SHARED:
        if one["trained"][name] != other["trained"][name]:
            what = {"tae_sha256": "autoencoder", "text_encoders": "text encoders"}[name]
            raise ValueError(f"{first} and {second} were trained with another {what}; they have no mean")
