"""Checkpoints: written beside training by all workers together, there whole or not at all, read back on any number of them.

PyTorch's distributed format, a folder a step, and then COMMIT: the names and sizes of all files, written last. The newest
COMMIT wins; every other folder is debris of a save that was cut off. The format's index is a pickle: whoever may write to
a run's checkpoints may run code in it. Models for others are the safetensors in final/.
"""

import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from models.weights import build_model, save_model
from training.optim import MovingAverage, optimizer_tensors
from training.storage import Storage
from training.world import World

COMMIT, STATE, CONFIG = "COMMIT", "state.json", "config.json"
# One process alone is nothing to warn about.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
log = logging.getLogger(__name__)
SAVE_TIMEOUT = timedelta(hours=2)  # for workers that write slowly; training's own messages have a shorter one


class CheckpointFailed(RuntimeError):
    """A checkpoint could not be written; those before it are untouched."""


class Stateful(Protocol):
    """What trains beside the model, see training.loop.Companion."""

    def tensors(self) -> dict[str, Any]:
        """Everything to keep, live: loading writes into these very tensors."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A committed folder and the number of steps it has seen."""

    storage: Storage = field(repr=False)
    folder: str
    step: int

    @property
    def path(self) -> str:
        """Where it is, for people."""
        return f"{self.storage.uri}/{self.folder}"

    @property
    def state(self) -> dict[str, Any]:
        """What the run wrote beside the weights: step, hashes, rows that failed to decode."""
        return json.loads(self.storage.read(f"{self.folder}/{STATE}"))

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json document."""
        return json.loads(self.storage.read(f"{self.folder}/{CONFIG}"))


def list_checkpoints(storage: Storage) -> list[Checkpoint]:
    """Committed checkpoints whose files are all there, oldest first."""
    return [
        Checkpoint(storage=storage, folder=folder, step=int(folder.removeprefix("step-")))
        for folder in storage.folders()
        if folder.startswith("step-") and _is_whole(storage, folder)
    ]


def agreed_newest(storage: Storage, world: World) -> Checkpoint | None:
    """The newest as the first worker sees it, on every worker: they must not begin at different steps."""
    found = newest(storage) if world.is_first else None
    step = world.gather(None if found is None else found.step)[0]
    return None if step is None else Checkpoint(storage=storage, folder=folder_of(step), step=step)


def folder_of(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def newest(storage: Storage) -> Checkpoint | None:
    """The newest committed checkpoint, or None where there is none."""
    found = list_checkpoints(storage)
    return found[-1] if found else None


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that was committed: how long training stood still for it, and how long it took to be on disk."""

    step: int
    blocked_seconds: float
    seconds: float
    bytes: int


class Saver:
    """Writes checkpoints while training goes on: tensors are copied at once, a thread of every worker writes its share.

    One save at a time: the next waits for the one before, so there is never more than one copy in memory. The first
    worker writes COMMIT once every worker has written, then drops all but the newest `keep`.
    """

    def __init__(self, storage: Storage, *, is_first: bool = True, keep: int = 3):
        self.storage, self.is_first, self.keep = storage, is_first, keep
        # A group of its own: its messages come from another thread than training's and must not mix with them.
        self.group = dist.new_group(backend="gloo", timeout=SAVE_TIMEOUT) if dist.is_initialized() else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self.pending: Future[Saved] | None = None

    def save(self, step: int, tensors: dict[str, Any], *, state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        """Begin to write step-XXXXXXXX; returns once the tensors have been copied. All workers call it together."""
        self.finish()
        began = time.monotonic()
        folder = folder_of(step)
        error = self._attempt(lambda: self.storage.remove(folder))  # of a save that was cut off, or lost files since
        self._agree(step, error)
        written = dcp.async_save(tensors, storage_writer=self.storage.writer(folder), process_group=self.group)
        assert isinstance(written, Future)
        blocked = time.monotonic() - began
        documents = {
            STATE: json.dumps({**state, "step": step}, indent=1).encode(),
            CONFIG: json.dumps(config, indent=2).encode(),
        }
        self.pending = self.pool.submit(self._commit, written, folder, step, documents, began, blocked)

    def poll(self) -> Saved | None:
        """The save that has ended well since the last call, if one has. One that failed is `failed` until `finish`."""
        return self.finish() if self.pending is not None and self.pending.done() and not self.failed else None

    @property
    def failed(self) -> bool:
        """Whether the last save has come to nothing."""
        return self.pending is not None and self.pending.done() and self.pending.exception() is not None

    def finish(self) -> Saved | None:
        """Wait until nothing is being written; what was saved, if anything was. CheckpointFailed on all workers or none."""
        pending, self.pending = self.pending, None
        return None if pending is None else pending.result()

    def close(self) -> None:
        """Let the save that is going on end, however it ends."""
        self.pool.shutdown(wait=True)

    def _commit(
        self, written: Future, folder: str, step: int, documents: dict[str, bytes], began: float, blocked: float
    ) -> Saved:
        error = self._attempt(lambda: self._write_commit(written, folder, documents), everywhere=written.result)
        if error is not None:
            self._attempt(lambda: self.storage.remove(folder))  # half a checkpoint would only keep a full disk full
        self._agree(step, error)
        self._attempt(lambda: self._drop(folder))
        size = sum(self.storage.sizes(folder).values()) if self.is_first else 0
        return Saved(step=step, blocked_seconds=blocked, seconds=time.monotonic() - began, bytes=size)

    def _write_commit(self, written: Future, folder: str, documents: dict[str, bytes]) -> None:
        for name, content in documents.items():
            self.storage.write(f"{folder}/{name}", content)
        sizes = self.storage.sizes(folder)
        parts = {part.relative_path for part in written.result().storage_data.values()}
        if missing := parts - sizes.keys():
            raise FileNotFoundError(
                f"{', '.join(sorted(missing))} of other workers is not there: do all see one folder?"
            )
        self.storage.write(f"{folder}/{COMMIT}", json.dumps(sizes).encode())

    def _attempt(self, first: Callable[[], object], everywhere: Callable[[], object] = lambda: None) -> str | None:
        """Do something on all workers and something on the first; what went wrong here, or None."""
        try:
            everywhere()
            if self.is_first:
                first()
        except (Exception, CheckpointException) as error:  # the latter derives from BaseException
            log.warning("checkpoints in %s: %s", self.storage.uri, _cause(error))
            return _cause(error)
        return None

    def _agree(self, step: int, error: str | None) -> None:
        """Raise CheckpointFailed on every worker where something went wrong on one."""
        errors: list[str | None] = [error]
        if self.group is not None:
            errors = [None] * dist.get_world_size(self.group)
            dist.all_gather_object(errors, error, group=self.group)
        if why := next((error for error in errors if error is not None), None):
            raise CheckpointFailed(
                f"the checkpoint of step {step} could not be written to {self.storage.uri}: {why}. The ones "
                "before it are whole; make room or mend the storage, then continue with --resume"
            )

    def _drop(self, latest: str) -> None:
        """Remove the oldest checkpoints, and folders that saves before this one left half-written."""
        kept = {checkpoint.folder for checkpoint in list_checkpoints(self.storage)[-self.keep :]}
        for folder in self.storage.folders():
            if folder.startswith("step-") and folder < latest and folder not in kept:
                self.storage.remove(folder)


def training_tensors(
    model: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, companion: Stateful | None = None
) -> dict[str, Any]:
    """Everything that training changes, by name, live: saving reads these tensors and loading writes into them."""
    tensors = {
        "model": model.state_dict(),
        "average": average.values,
        "optimizer": optimizer_tensors(model, optimizer),
    }
    return tensors if companion is None else tensors | {"companion": companion.tensors()}


def load_checkpoint(checkpoint: Checkpoint, tensors: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint into `tensors` (see `training_tensors`); returns the state the run wrote beside them.

    On any number of workers, whatever number wrote it: each reads the parts that it holds. ValueError where it is of
    another architecture, before anything has been overwritten.
    """
    with _readable(checkpoint):
        reader = checkpoint.storage.reader(checkpoint.folder)
        _check_shapes(checkpoint, reader.read_metadata().state_dict_metadata, tensors)
        dcp.load(tensors, storage_reader=reader, no_dist=True)
        return checkpoint.state


def export_model(checkpoint: Checkpoint, parent: Path) -> Path:
    """A checkpoint's moving average as a model (safetensors and config.json) in a folder of `parent`, written once.

    The folder is named after the save, since a step may be saved again with other weights.
    """
    with _readable(checkpoint):
        saved = hashlib.blake2b(checkpoint.storage.read(f"{checkpoint.folder}/.metadata"), digest_size=6).hexdigest()
        folder = parent / f"{checkpoint.folder}-{saved}"
        if folder.exists():
            return folder
        document = checkpoint.config
        model = build_model(document, device="meta").to_empty(device="cpu")
        average = {name: value.float() for name, value in model.state_dict().items()}
        dcp.load({"average": average}, storage_reader=checkpoint.storage.reader(checkpoint.folder), no_dist=True)
    model.load_state_dict(average)
    partial = parent / f".{folder.name}.{os.getpid()}.partial"
    save_model(partial, model, **{name: value for name, value in document.items() if name not in ("class", "config")})
    partial.rename(folder)
    return folder


@contextmanager
def _readable(checkpoint: Checkpoint) -> Iterator[None]:
    """A checkpoint that is damaged, or of a version that wrote them otherwise, is told as one sentence."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        raise ValueError(
            f"{checkpoint.path} cannot be read: {_cause(error)}; remove it to continue from the one before"
        ) from error


def _is_whole(storage: Storage, folder: str) -> bool:
    """COMMIT is there and every file it names has its size: a copy that stopped half-way does not count."""
    try:
        promised = json.loads(storage.read(f"{folder}/{COMMIT}"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):  # any other error is no answer
        return False
    found = storage.sizes(folder)
    return all(found.get(name) == size for name, size in promised.items())


def _check_shapes(checkpoint: Checkpoint, saved: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    wanted = {name: tuple(value.shape) for name, value in _flat(tensors).items()}
    there = {name: tuple(value.size) for name, value in saved.items() if isinstance(value, TensorStorageMetadata)}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            what = " x ".join(map(str, there[name])) or "a number" if name in there else "missing"
            here = " x ".join(map(str, wanted[name])) or "a number" if name in wanted else "unknown"
            raise ValueError(
                f"{checkpoint.path} is a checkpoint of another architecture: {name} is {what} there and {here} here; "
                "continue it with the recipe and the code it was written by"
            )


def _flat(tensors: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _cause(error: BaseException) -> str:
    """What went wrong, in the words of the worker that it went wrong on."""
    for failure, _ in getattr(error, "failures", {}).values():
        return _cause(failure)
    return str(error) or type(error).__name__
