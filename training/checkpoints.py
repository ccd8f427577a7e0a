"""Checkpoints: a folder written whole or not at all. The newest with a COMMIT wins; everything else is debris."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.weights import save_model
from training.optim import MovingAverage


class Stateful(Protocol):
    """What trains beside the model, see training.loop.Companion."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed folder and the number of steps it has seen."""

    path: Path
    step: int

    @property
    def state(self) -> dict[str, Any]:
        """What the run wrote beside the weights: step, hashes, rows that failed to decode."""
        return json.loads((self.path / "state.json").read_text())


def list_checkpoints(out: Path) -> list[Checkpoint]:
    """Committed checkpoints of a run whose files are all there, oldest first."""
    found = []
    for path in sorted((out / "checkpoints").glob("step-*")):
        if path.suffix != ".partial" and _is_whole(path):
            found.append(Checkpoint(path=path, step=int(path.name.removeprefix("step-"))))
    return found


def newest(out: Path) -> Checkpoint | None:
    """The newest committed checkpoint, or None for a run that has none."""
    found = list_checkpoints(out)
    return found[-1] if found else None


def save_checkpoint(
    out: Path,
    step: int,
    *,
    model: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    companion: Stateful | None = None,
    state: dict[str, Any],
    keep: int = 3,
    extra: dict[str, Any] | None = None,
) -> Checkpoint:
    """Write OUT/checkpoints/step-XXXXXXXX, then drop all but the newest `keep`.

    Everything goes to a `.partial` folder first; COMMIT, naming every file and its size, is its last file, and the
    rename is the last act. A kill at any moment leaves either the old set or the new one.
    """
    final = out / "checkpoints" / f"step-{step:08d}"
    partial = final.with_name(final.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(partial, model, **(extra or {}))
    save_file(average.values, partial / "ema.safetensors")
    torch.save(optimizer.state_dict(), partial / "optimizer.pt")
    if companion is not None:
        torch.save(companion.state_dict(), partial / "companion.pt")
    (partial / "state.json").write_text(json.dumps(state | {"step": step, "ema_updates": average.updates}, indent=1))
    sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    for path in partial.iterdir():
        _flush(path)
    (partial / "COMMIT").write_text(json.dumps(sizes))
    _flush(partial / "COMMIT")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in list_checkpoints(out)[:-keep]:
        shutil.rmtree(old.path)
    return Checkpoint(path=final, step=step)


def load_checkpoint(
    checkpoint: Checkpoint,
    *,
    model: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    companion: Stateful | None = None,
) -> dict[str, Any]:
    """Restore weights, moving average, optimizer and companion in place; returns the state the run wrote."""
    model.load_state_dict(load_file(checkpoint.path / "model.safetensors"))
    average.values = load_file(checkpoint.path / "ema.safetensors")
    average.updates = checkpoint.state["ema_updates"]
    optimizer.load_state_dict(torch.load(checkpoint.path / "optimizer.pt", weights_only=True))
    if companion is not None:
        companion.load_state_dict(torch.load(checkpoint.path / "companion.pt", weights_only=True))
    return checkpoint.state


def _is_whole(path: Path) -> bool:
    """COMMIT is there and every file it names has its size: a copy that stopped half-way does not count."""
    try:
        sizes = json.loads((path / "COMMIT").read_text())
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, json.JSONDecodeError):
        return False


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
