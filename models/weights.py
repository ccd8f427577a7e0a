"""Save and load any network: model.safetensors beside config.json, which names the class by its dotted path."""

import hashlib
import importlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(folder: str | os.PathLike, model: nn.Module, **extra: Any) -> Path:
    """Write `folder`/model.safetensors and config.json; `extra` goes into config.json as it is (JSON values).

    The model must carry `config`, a dataclass its class is built from. Each file is written aside and renamed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    document = model_document(model, **extra)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / f".{WEIGHTS}.part")
    (folder / f".{CONFIG}.part").write_text(json.dumps(document, indent=2) + "\n")
    os.replace(folder / f".{WEIGHTS}.part", folder / WEIGHTS)
    os.replace(folder / f".{CONFIG}.part", folder / CONFIG)
    return folder


def model_document(model: nn.Module, **extra: Any) -> dict[str, Any]:
    """The content of config.json: `build_model` makes an untrained twin of the model from it."""
    cls = next(
        c for c in type(model).__mro__ if hasattr(c, "config_class") and "config_class" in vars(c)
    )  # sharding derives
    path = f"{cls.__module__}.{cls.__qualname__}"
    return {**extra, "class": path, "config": asdict(model.config)}  # type: ignore[call-overload]


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """config.json of a saved model: "class", "config" and whatever else was stored with it."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CONFIG}; pass a folder written by save_model, such as OUT/final")
    return json.loads(path.read_text())


def build_model(document: dict[str, Any], device: str | torch.device = "cpu") -> nn.Module:
    """An untrained network from a config.json document; "meta" builds it without memory."""
    path = document["class"]
    if not path.startswith("models."):
        raise ValueError(f"{path} is not a class of the models package; refusing to import it")
    module, name = path.rsplit(".", 1)
    cls = getattr(importlib.import_module(module), name)
    known = {field.name for field in fields(cls.config_class)}
    unknown = document["config"].keys() - known
    if unknown:
        raise ValueError(f"{path} knows no setting {', '.join(sorted(unknown))}; the checkpoint is from other code")
    values = {key: _tuples(value) for key, value in document["config"].items()}
    with torch.device(device):
        return cls(cls.config_class(**values))


def load_model(folder: str | os.PathLike, device: str | torch.device = "cpu") -> nn.Module:
    """The saved network, in eval mode, on `device`; draws no random numbers."""
    model = build_model(read_config(folder), device="meta")
    state = load_file(Path(folder) / WEIGHTS, device=str(device))
    # Cloned: the file's tensors lie unaligned in memory, and other alignment means other kernels and last bits.
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def weights_sha256(folder: str | os.PathLike) -> str:
    """SHA-256 of the weights file's bytes, hex: the identity that caches and checkpoints record."""
    return file_sha256(Path(folder) / WEIGHTS)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, hex, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(folder: str | os.PathLike, *more: str) -> str:
    """SHA-256 over the names and contents of a folder's weight files and of those that match `more`, hex.

    For weights that others saved, in one file or in several.
    """
    paths = {*other_weights(folder), *(path for pattern in more for path in Path(folder).glob(pattern))}
    lines = [f"{path.name} {file_sha256(path)}" for path in sorted(paths)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def other_weights(folder: str | os.PathLike) -> list[Path]:
    """The weight files that others saved in a folder; ValueError where there is none."""
    found = [path for pattern in ("*.safetensors", "*.bin") for path in Path(folder).glob(pattern)]
    if not found:
        raise ValueError(f"{folder} holds no weights (*.safetensors or *.bin)")
    return found


def _tuples(value: Any) -> Any:
    """JSON has no tuples and frozen configs have no lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
