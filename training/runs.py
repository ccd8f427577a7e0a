"""A training run's folder: checked before any worker starts, described in run.json, found again by its path."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch

from curation.clips import open_snapshot
from models.autoencoders.image_vae import image_vae_weights, read_image_vae_config
from models.autoencoders.tae import TAE
from models.text.loading import text_encoder
from models.video.transformer import VideoTransformer
from models.weights import WEIGHTS, file_sha256, read_config, weights_sha256
from training.checkpoints import Checkpoint, export_model, list_checkpoints, newest
from training.data.loader import Loader
from training.data.plan import Plan, check_splits
from training.evaluation.validation import Validate
from training.loop import STOP_FILE, LoopConfig, Objective, Training
from training.metrics import MetricsLog
from training.recipes import TAERecipe, VideoRecipe, recipe_from, recipe_hash
from training.stages import check_start
from training.storage import Storage, open_storage
from training.throughput import Work
from training.world import World

Kind = Literal["tae", "video"]
# What makes it this run and no other.
_IDENTITY = ("kind", "recipe_hash", "snapshot", "tae_sha256", "start_sha256", "image_vae_sha256", "checkpoints")
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
    image_vae_sha256: str | None = None  # of the weights that recipe.image_vae names
    checkpoints: str | None = None  # where they go, when not into `out`
    cache: Path | None = None  # of latents and text, shared with other runs

    @property
    def storage(self) -> Storage:
        """Where this run's checkpoints are."""
        return open_storage(self.checkpoints or self.out / "checkpoints")

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
            "checkpoints": self.checkpoints,
            "image_vae_sha256": self.image_vae_sha256,
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
    checkpoints: str | None = None,
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
        checkpoints=checkpoints,
        image_vae_sha256=check_image_vae(recipe) if isinstance(recipe, TAERecipe) else None,
        cache=None if cache is None else local_folder(cache),
    )
    _check_folder(run, resume)
    if checkpoints:
        _claim(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP_FILE).unlink(missing_ok=True)
    (folder / "run.json").write_text(json.dumps(run.described(), indent=1) + "\n")
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


def check_memory(recipe: TAERecipe | VideoRecipe, workers: int) -> None:
    """Raise when a model's state alone cannot fit on this machine: every worker holds a whole copy of it."""
    with torch.device("meta"):
        model = TAE(recipe.model) if isinstance(recipe, TAERecipe) else VideoTransformer(recipe.model)
    parameters = sum(p.numel() for p in model.parameters())
    if torch.cuda.is_available():
        have, where = torch.cuda.get_device_properties(0).total_memory, "the GPU"
    else:
        have, where = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers, "each worker here"
    if state_bytes(parameters) > have:
        raise ValueError(
            f"{recipe.name} trains {parameters / 1e9:.1f} B parameters, {state_bytes(parameters) / 2**30:,.0f} GiB with gradients and "
            f"optimizer; {where} has {have / 2**30:,.0f} GiB. Choose a smaller model, e.g. `model: demo` in a recipe file"
        )


def state_bytes(parameters: int) -> int:
    """What training so many parameters takes at least: float32 weights, gradients, two AdamW moments, moving average."""
    return 20 * parameters


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
        start=None if found["start"] is None else Path(found["start"]),
        start_sha256=found["start_sha256"],
        checkpoints=found["checkpoints"],
        image_vae_sha256=found["image_vae_sha256"],
        cache=None if found["cache"] is None else Path(found["cache"]),
    )


def split_rows(rows: list[dict[str, Any]], recipe: TAERecipe | VideoRecipe, name: str) -> tuple[list, list]:
    """Train and validation rows of kept clips; raises ValueError when nothing is left to train on, or when they overlap."""
    check_splits(rows)
    train = [row for row in rows if row["split"] == "train"]
    validation = [row for row in rows if row["split"] != "train"]
    plan = Plan(train, recipe, recipe.seed)
    if not plan.order:
        why = (
            "; ".join(f"{count} x {reason}" for reason, count in Counter(plan.excluded.values()).items())
            or "it keeps no clip"
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
    """The weights folder of a run or of one of its checkpoints, or a ValueError that says what is there instead.

    Of a run that is not finished, and of a checkpoint, the moving average is written to the run's exported/ first.
    """
    folder = local_folder(path)
    found = next((c for c in (folder, folder / "final") if (c / WEIGHTS).is_file()), None)
    if found is None and (checkpoint := _checkpoint_at(folder)):
        run = folder if (folder / "run.json").is_file() else folder.parent.parent
        found = export_model(checkpoint, run / "exported" / checkpoint.folder)
    if found is None:
        raise ValueError(
            f"{path} holds no trained model; pass the --out of `cinemill train {kind}`, or its final/ folder"
        )
    trained = read_config(found).get("trained", {})
    if trained.get("kind") != kind:
        raise ValueError(f"{path} holds a {trained.get('kind', 'different')} model, not a {kind} one")
    return found


def _checkpoint_at(folder: Path) -> Checkpoint | None:
    """The checkpoint that a folder is, or the newest of the run that it holds."""
    if (folder / "run.json").is_file():
        return newest(load_run(folder).storage)
    return next((c for c in list_checkpoints(open_storage(folder.parent)) if c.folder == folder.name), None)


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
    mine = json.dumps({"out": str(run.out), **run.described()}, indent=1).encode()
    try:
        before = storage.read(name) if name in storage.sizes("") else mine
        if before == mine:
            storage.write(name, mine)
    except OSError as error:
        raise ValueError(
            f"--checkpoints {run.checkpoints} cannot be written: {error}. Look at the address and the credentials"
        ) from error
    if before != mine:
        raise ValueError(
            f"{run.checkpoints} keeps the checkpoints of another run, {json.loads(before)['out']}; choose another place"
        )


def _short(described: Mapping[str, Any], name: str) -> str:
    if name == "recipe_hash":
        return f"{described['recipe']['name']}, hash {described['recipe_hash'][:8]}"
    return str(described.get(name))


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
    parameters = sum(p.numel() for p in training.model.parameters())
    log.write(
        "start" if training.step == 0 else "resume",
        kind=run.kind,
        at_step=training.step,
        steps=run.recipe.steps,
        workers=world.size,
        pid=os.getpid(),
        device=str(world.device),
        threads=torch.get_num_threads(),
        parameters=parameters,
        planned_memory=state_bytes(parameters),
        train_rows=len(plan.bucket_of),
        train_hours=sum(_seconds(plan.rows[index]) for index in plan.bucket_of) / 3600,
        buckets=_shapes(plan),
        validation_rows=num_validation,
        excluded=plan.excluded,
        batches_per_epoch=plan.batches_per_epoch,
        leftovers=plan.leftovers,
        note=None
        if num_validation
        else "the snapshot holds out no clips: nothing is validated, all losses are of training clips",
    )
    return log


def _seconds(row: Mapping[str, Any]) -> float:
    return float(row["end_seconds"] - row["start_seconds"])


def _shapes(plan: Plan) -> dict[str, int]:
    """Rows by what they are trained as: their bucket, a single frame of it in a text-to-image stage."""
    counts: Counter[str] = Counter()
    for bucket in plan.order:
        counts[(bucket if plan.batch.videos else bucket.image()).name] += len(plan.members[bucket])
    return dict(counts)


def check_plan(checkpoint: Checkpoint | None, plan: Plan) -> None:
    """Raise when a checkpoint was trained on another plan: its steps would mean other batches."""
    if checkpoint and checkpoint.state["plan_hash"] != plan.hash():
        raise ValueError(
            f"{checkpoint.path} was trained on another plan ({checkpoint.state['plan_hash']}, now {plan.hash()}): "
            "the code that plans batches has changed since; start again in another --out"
        )
