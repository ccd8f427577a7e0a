"""A training run's folder made ready: everything that can be wrong with a call is found before any worker starts."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from curation.clips import open_snapshot
from curation.clips.storage import normalise
from models.autoencoders.image_vae import image_vae_weights, read_image_vae_config
from models.autoencoders.tae import TAE
from models.text.loading import text_encoder
from models.video.transformer import VideoTransformer
from models.weights import file_sha256, weights_sha256
from training.accelerators import ACCELERATORS
from training.agreement import STOP_FILE
from training.checkpoints import newest
from training.costs import Layout
from training.lock import check_free
from training.parallel.mesh import ParallelConfig
from training.planner import check_layout as check_fits
from training.recipes import TAERecipe, VideoRecipe
from training.runs import Kind, Run, find_model, finished_tae, local_folder, split_rows, state_bytes
from training.stages import check_start
from training.storage import LocalStorage

# What makes it this run and no other.
_IDENTITY = ("kind", "recipe_hash", "snapshot", "tae_sha256", "start_sha256", "image_vae_sha256", "checkpoints")


def prepare_run(
    kind: Kind,
    snapshot: str,
    recipe: TAERecipe | VideoRecipe,
    out: str | Path,
    *,
    resume: bool = False,
    tae: str | Path | None = None,
    start: str | Path | None = None,
    checkpoints: str | None = None,
    cache: str | Path | None = None,
    parallel: ParallelConfig = ParallelConfig(),
    workers: int | None = None,
) -> Run:
    """Check everything that can be wrong with a call, then write OUT/run.json; a ValueError writes nothing.

    Without `workers` their number is another launcher's affair, and is checked when they start.
    """
    folder = local_folder(out)
    check_layout(recipe, parallel, workers)
    opened = open_snapshot(snapshot)
    _, validation = split_rows(opened.kept_clips().to_pylist(), recipe, opened.name)
    if recipe.optimizer.plateau and not any(not isinstance(recipe.buckets.assign(row), str) for row in validation):
        raise ValueError(
            f"{recipe.name} lowers the rate by the validation loss, and {opened.name} holds out no clip of its buckets; "
            "set optimizer.plateau to null, or curate with a held-out share"
        )
    tae_folder = finished_tae(tae) if tae is not None else None
    start_folder = None if start is None else find_model(start, kind)
    tae_sha256 = None if tae_folder is None else weights_sha256(tae_folder)
    if start_folder is not None and isinstance(recipe, VideoRecipe):
        assert tae_sha256 is not None
        check_start(start_folder, recipe, tae_sha256)
    if isinstance(recipe, VideoRecipe):
        check_text_encoders(recipe)
    run = Run(
        kind=kind,
        out=folder,
        snapshot=opened.name,
        recipe=recipe,
        tae=tae_folder,
        tae_sha256=tae_sha256,
        start=start_folder,
        start_sha256=None if start_folder is None else weights_sha256(start_folder),
        checkpoints=None if checkpoints is None else normalise(checkpoints),
        image_vae_sha256=check_image_vae(recipe) if isinstance(recipe, TAERecipe) else None,
        cache=None if cache is None else local_folder(cache),
        parallel=parallel,
    )
    _check_folder(run, resume)
    check_free(folder)
    if checkpoints:
        _claim(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP_FILE).unlink(missing_ok=True)
    LocalStorage(folder).write("run.json", json.dumps(run.described(), indent=1).encode())
    return run


def check_image_vae(recipe: TAERecipe) -> str | None:
    """SHA-256 of the image autoencoder's weights, None without one; ValueError unless the recipe's model has its sizes."""
    if recipe.image_vae is None:
        return None
    found = asdict(read_image_vae_config(recipe.image_vae))
    asked = asdict(recipe.model)
    if different := [f"{name} {asked[name]}, not {value}" for name, value in found.items() if asked[name] != value]:
        raise ValueError(
            f"{recipe.name} cannot start from {recipe.image_vae}: its model has {', '.join(different)}; "
            "a recipe file with `image_vae` and no `model` takes the sizes of the weights"
        )
    return file_sha256(image_vae_weights(recipe.image_vae))


def check_text_encoders(recipe: VideoRecipe) -> None:
    """Raise ValueError for an encoder that is not there, or gives states of another width than the model reads."""
    widths = tuple(text_encoder(name).width for name in recipe.text_encoders)
    if widths != recipe.model.text_widths:
        named = ", ".join(f"{name} {width}" for name, width in zip(recipe.text_encoders, widths, strict=True))
        raise ValueError(
            f"{recipe.name} has model.text_widths {list(recipe.model.text_widths)}, and its text encoders give {named}; "
            f"set model.text_widths to {list(widths)}, in the encoders' order"
        )


def check_layout(recipe: TAERecipe | VideoRecipe, parallel: ParallelConfig, workers: int | None = None) -> None:
    """Raise ValueError unless so many workers (None: as many as one copy of the model takes) can be laid out so."""
    if isinstance(recipe, VideoRecipe):
        one_copy = parallel.dp_shard * parallel.workers_per_share
        parallel.check(recipe.model, recipe.buckets.buckets(), recipe.batch, workers or one_copy)
    elif parallel != ParallelConfig():
        raise ValueError(
            f"{recipe.name} is an autoencoder, and those are trained data-parallel only; leave out --parallel {parallel}"
        )


def check_memory(recipe: TAERecipe | VideoRecipe, workers: int, parallel: ParallelConfig = ParallelConfig()) -> None:
    """Raise where a model and its activations cannot fit on GPUs like this machine's, or its state alone on its CPUs."""
    if torch.cuda.is_available():
        here = replace(ACCELERATORS["h200"], memory=torch.cuda.get_device_properties(0).total_memory)
        layout = Layout(
            dp_replicate=parallel.dp_replicate(workers),
            dp_shard=parallel.dp_shard,
            cp=parallel.cp,
            tp=parallel.tp,
            recompute=parallel.recompute,
        )
        return check_fits(recipe, here, layout)
    with torch.device("meta"):
        model = TAE(recipe.model) if isinstance(recipe, TAERecipe) else VideoTransformer(recipe.model)
    parameters = sum(p.numel() for p in model.parameters())
    need = state_bytes(parameters) // (parallel.dp_shard * parallel.workers_per_share)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers
    if need > have:
        raise ValueError(
            f"{recipe.name} trains {parameters / 1e9:.1f} B parameters, {need / 2**30:,.0f} GiB a worker with gradients and "
            f"optimizer; each worker here has {have / 2**30:,.0f} GiB. Choose a smaller model, e.g. `model: demo` in a recipe file"
        )


def _check_folder(run: Run, resume: bool) -> None:
    """Refuse a folder that belongs to something else; the same run needs --resume."""
    path = run.out / "run.json"
    if not path.exists():
        if run.out.exists() and any(run.out.iterdir()):
            raise ValueError(f"{run.out} is not empty and holds no training run; choose another --out")
        return
    before, now = json.loads(path.read_text()), run.described()
    checkpoint = newest(run.storage)
    place = f"at step {checkpoint.step}" if checkpoint else "without a checkpoint yet"
    different = [name for name in _IDENTITY if before.get(name) != now[name]]
    if different:
        name = different[0].removesuffix("_hash").removesuffix("_sha256")
        raise ValueError(
            f"{run.out} holds a run of another {name} ({_short(before, different[0])}, here {_short(now, different[0])}), {place}; choose another --out"
        )
    if not resume:
        raise ValueError(f"{run.out} holds this very run {place}; add --resume to continue it, or choose another --out")


def _claim(run: Run) -> None:
    """Leave run.json where a run keeps its checkpoints elsewhere: proof that it may write there, and whose they are."""
    storage, name = run.storage, "run.json"
    mine = {"out": str(run.out), **run.described()}
    try:
        before = json.loads(storage.read(name)) if name in storage.sizes("") else mine
        same = all(before.get(key) == mine[key] for key in ("out", *_IDENTITY))
        if same:
            storage.write(name, json.dumps(mine, indent=1).encode())
    except OSError as error:
        raise ValueError(
            f"--checkpoints {run.checkpoints} cannot be written: {error}. Look at the address and the credentials"
        ) from error
    if not same:
        raise ValueError(
            f"{run.checkpoints} keeps the checkpoints of another run, {before['out']}; choose another place"
        )


def _short(described: Mapping[str, Any], name: str) -> str:
    if name == "recipe_hash":
        return f"{described['recipe']['name']}, hash {described['recipe_hash'][:8]}"
    return str(described.get(name))
