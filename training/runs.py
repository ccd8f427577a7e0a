"""A training run's folder: checked before any worker starts, described in run.json, found again by its path."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch

from curation.clips import open_snapshot
from models.autoencoders.tae import TAE
from models.video.transformer import VideoTransformer
from models.weights import read_config, weights_sha256
from training.checkpoints import Checkpoint, newest
from training.data.loader import Loader
from training.data.plan import Plan, check_splits
from training.evaluation.validation import Validate
from training.loop import STOP_FILE, LoopConfig, Objective, Training
from training.metrics import MetricsLog
from training.recipes import TAERecipe, VideoRecipe, recipe_from, recipe_hash
from training.stages import check_start
from training.throughput import Work
from training.world import World

Kind = Literal["tae", "video"]
_IDENTITY = ("kind", "recipe_hash", "snapshot", "tae_sha256", "start_sha256")  # what makes it this run and no other
RECIPES: dict[str, type[TAERecipe] | type[VideoRecipe]] = {"tae": TAERecipe, "video": VideoRecipe}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What run.json says: enough to continue the run with nothing else at hand."""

    kind: Kind
    out: Path
    snapshot: str  # URI#DATASET@NUMBER
    recipe: Any  # TAERecipe or VideoRecipe
    tae: Path | None = None
    tae_sha256: str | None = None
    start: Path | None = None  # weights of the stage before
    start_sha256: str | None = None
    cache: Path | None = None  # of latents and text, shared with other runs

    @property
    def cache_folder(self) -> Path:
        """Where latents and text embeddings are kept: the given place, or the run's own."""
        return self.cache or self.out / "cache"

    def described(self) -> dict[str, Any]:
        """The content of run.json."""
        return {
            "kind": self.kind,
            "snapshot": self.snapshot,
            "recipe": asdict(self.recipe),
            "recipe_hash": recipe_hash(self.recipe),
            "tae": None if self.tae is None else str(self.tae),
            "tae_sha256": self.tae_sha256,
            "start": None if self.start is None else str(self.start),
            "start_sha256": self.start_sha256,
            "cache": None if self.cache is None else str(self.cache),
        }


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run steps with: put together the same for training and for replaying one step."""

    plan: Plan
    training: Training
    objective: Objective
    loader: Loader
    validate: Validate | None
    work: Work


def prepare_run(
    kind: Kind,
    snapshot: str,
    recipe: TAERecipe | VideoRecipe,
    out: str | Path,
    *,
    resume: bool = False,
    tae: str | Path | None = None,
    start: str | Path | None = None,
    cache: str | Path | None = None,
) -> Run:
    """Check everything that can be wrong with a call, then write OUT/run.json; a ValueError writes nothing."""
    folder = local_folder(out)
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
    run = Run(
        kind=kind,
        out=folder,
        snapshot=opened.name,
        recipe=recipe,
        tae=tae_folder,
        tae_sha256=tae_sha256,
        start=start_folder,
        start_sha256=None if start_folder is None else weights_sha256(start_folder),
        cache=None if cache is None else local_folder(cache),
    )
    _check_folder(run, resume)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP_FILE).unlink(missing_ok=True)
    (folder / "run.json").write_text(json.dumps(run.described(), indent=1) + "\n")
    return run


def check_memory(recipe: TAERecipe | VideoRecipe, workers: int) -> None:
    """Raise when a model's state alone cannot fit on this machine: every worker holds a whole copy of it.

    20 bytes a parameter: float32 weights, gradients, two AdamW moments and the moving average. Activations come on top.
    """
    with torch.device("meta"):
        model = TAE(recipe.model) if isinstance(recipe, TAERecipe) else VideoTransformer(recipe.model)
    parameters = sum(p.numel() for p in model.parameters())
    if torch.cuda.is_available():
        have, where = torch.cuda.get_device_properties(0).total_memory, "the GPU"
    else:
        have, where = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers, "each worker here"
    if 20 * parameters > have:
        raise ValueError(
            f"{recipe.name} trains {parameters / 1e9:.1f} B parameters, {20 * parameters / 2**30:,.0f} GiB with gradients and "
            f"optimizer; {where} has {have / 2**30:,.0f} GiB. Choose a smaller model, e.g. `model: demo` in a recipe file"
        )


def load_run(out: str | Path) -> Run:
    """The run of a folder."""
    folder = local_folder(out)
    found = json.loads((folder / "run.json").read_text())
    return Run(
        kind=found["kind"],
        out=folder,
        snapshot=found["snapshot"],
        recipe=recipe_from(RECIPES[found["kind"]], found["recipe"]),  # type: ignore[type-var]
        tae=None if found["tae"] is None else Path(found["tae"]),
        tae_sha256=found["tae_sha256"],
        start=None if found.get("start") is None else Path(found["start"]),
        start_sha256=found.get("start_sha256"),
        cache=None if found.get("cache") is None else Path(found["cache"]),
    )


def split_rows(rows: list[dict[str, Any]], recipe: TAERecipe | VideoRecipe, name: str) -> tuple[list, list]:
    """Train and validation rows of kept clips; raises ValueError when nothing is left to train on, or when they overlap."""
    check_splits(rows)
    train = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] != "train"]
    plan = Plan(train, recipe, recipe.seed)
    if not plan.order:
        why = (
            "; ".join(f"{count} x {reason}" for reason, count in _counted(plan.excluded).items()) or "it keeps no clip"
        )
        raise ValueError(f"{name} has no clip that {recipe.name} can train on: {why}")
    return train, validation


def local_folder(uri: str | Path) -> Path:
    """The path of a folder on this machine or a shared disk; buckets are refused by name."""
    parsed = urlparse(str(uri))
    if parsed.scheme in ("", "file"):
        return Path(parsed.path if parsed.scheme else uri).absolute()
    raise ValueError(
        f"training writes to a folder that every worker sees, not to {parsed.scheme}://; mount it, or choose a local --out"
    )


def find_model(path: str | Path, kind: Kind) -> Path:
    """The weights folder of a run, a checkpoint or a final folder, or a ValueError that says what is there instead."""
    folder = local_folder(path)
    candidates = [folder, folder / "final"]
    found = next((c for c in candidates if (c / "config.json").is_file()), None)
    if found is None and (checkpoint := newest(folder)):
        found = checkpoint.path
    if found is None:
        raise ValueError(
            f"{path} holds no trained model; pass the --out of `cinemill train {kind}`, or its final/ folder"
        )
    trained = read_config(found).get("trained", {})
    if trained.get("kind") != kind:
        raise ValueError(f"{path} holds a {trained.get('kind', 'different')} model, not a {kind} one")
    return found


def finished_tae(path: str | Path) -> Path:
    """The weights folder of an autoencoder whose latents have a known scale."""
    folder = find_model(path, "tae")
    if read_config(folder)["config"].get("latent_mean") is None:
        raise ValueError(f"{folder} has no latent statistics: its training did not finish; finish it with --resume")
    return folder


def trained_recipe(folder: Path) -> TAERecipe | VideoRecipe:
    """The recipe a weights folder was trained by."""
    trained = read_config(folder)["trained"]
    return recipe_from(RECIPES[trained["kind"]], trained["recipe"])  # type: ignore[type-var]


def _check_folder(run: Run, resume: bool) -> None:
    """Refuse a folder that belongs to something else; the same run needs --resume."""
    path = run.out / "run.json"
    if not path.exists():
        if run.out.exists() and any(run.out.iterdir()):
            raise ValueError(f"{run.out} is not empty and holds no training run; choose another --out")
        return
    before, now = json.loads(path.read_text()), run.described()
    checkpoint = newest(run.out)
    place = f"at step {checkpoint.step}" if checkpoint else "without a checkpoint yet"
    different = [name for name in _IDENTITY if before.get(name) != now[name]]
    if different:
        name = different[0].removesuffix("_hash").removesuffix("_sha256")
        raise ValueError(
            f"{run.out} holds a run of another {name} ({_short(before, different[0])}, here {_short(now, different[0])}), {place}; choose another --out"
        )
    if not resume:
        raise ValueError(f"{run.out} holds this very run {place}; add --resume to continue it, or choose another --out")


def _short(described: Mapping[str, Any], name: str) -> str:
    if name == "recipe_hash":
        return f"{described['recipe']['name']}, hash {described['recipe_hash'][:8]}"
    return str(described.get(name))


def _counted(reasons: Mapping[str, str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def described(run: Run, step: int, **more: Any) -> dict[str, Any]:
    """What a weights folder says of its training, under `trained` in config.json."""
    return {"kind": run.kind, "snapshot": run.snapshot, "step": step, "recipe": asdict(run.recipe), **more}


def loop_config(recipe: TAERecipe | VideoRecipe) -> LoopConfig:
    """The part of a recipe that the loop reads."""
    return LoopConfig(
        steps=recipe.steps,
        optimizer=recipe.optimizer,
        checkpoint_every=recipe.checkpoint_every,
        keep_checkpoints=recipe.keep_checkpoints,
        validate_every=recipe.validate_every,
        autocast=recipe.autocast,
    )


def open_log(run: Run, world: World, plan: Plan, num_validation: int, training: Training) -> MetricsLog | None:
    """The first worker's log, opened with what the run is: devices, threads, rows, leftovers, rows without a bucket."""
    if not world.is_first:
        return None
    log = MetricsLog(run.out)
    log.write(
        "start" if training.step == 0 else "resume",
        kind=run.kind,
        at_step=training.step,
        steps=run.recipe.steps,
        workers=world.size,
        device=str(world.device),
        threads=torch.get_num_threads(),
        parameters=sum(p.numel() for p in training.model.parameters()),
        train_rows=len(plan.bucket_of),
        validation_rows=num_validation,
        excluded=plan.excluded,
        batches_per_epoch=plan.batches_per_epoch,
        leftovers=plan.leftovers,
        note=None
        if num_validation
        else "the snapshot holds out no clips: nothing is validated, all losses are of training clips",
    )
    return log


def check_plan(checkpoint: Checkpoint | None, plan: Plan) -> None:
    """Raise when a checkpoint was trained on another plan: its steps would mean other batches."""
    if checkpoint and checkpoint.state["plan_hash"] != plan.hash():
        raise ValueError(
            f"{checkpoint.path} was trained on another plan ({checkpoint.state['plan_hash']}, now {plan.hash()}): "
            "the code that plans batches has changed since; start again in another --out"
        )
