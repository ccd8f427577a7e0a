"""A training run's folder: described in run.json, found again by its path, and what both kinds of runs share."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch

from models.weights import WEIGHTS, read_config
from training.agreement import Interruption
from training.checkpoints import Checkpoint, export_model, list_checkpoints, newest
from training.data.loader import Loader
from training.data.plan import Plan, check_splits
from training.evaluation.validation import Validate
from training.kernels import KernelsTold
from training.loop import LoopConfig, Objective, Training, run_loop
from training.metrics import MetricsLog
from training.parallel.mesh import ParallelConfig
from training.recipes import TAERecipe, VideoRecipe, recipe_from, recipe_hash
from training.storage import Storage, open_storage
from training.throughput import Work
from training.world import World

Kind = Literal["tae", "video"]
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
    parallel: ParallelConfig = field(
        default_factory=ParallelConfig
    )  # how workers share out the model: no part of what makes it this run

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
            "parallel": str(self.parallel),
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


def state_bytes(parameters: int) -> int:
    """What training so many parameters takes at least: float32 weights, gradients, two AdamW moments, moving average."""
    return 20 * parameters


def load_run(out: str | Path) -> Run:
    """The run of a folder."""
    folder = local_folder(out)
    found = json.loads((folder / "run.json").read_text())
    paths: dict[str, Any] = {
        name: None if found.get(name) is None else Path(found[name]) for name in ("tae", "start", "cache")
    }
    names = ("tae_sha256", "start_sha256", "image_vae_sha256", "checkpoints")  # none of them in older versions' runs
    return Run(
        kind=found["kind"],
        out=folder,
        snapshot=found["snapshot"],
        recipe=recipe_from(RECIPES[found["kind"]], found["recipe"]),  # type: ignore[type-var]
        parallel=ParallelConfig.parse(found.get("parallel", "")),
        **paths,
        **{name: found.get(name) for name in names},
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
        found = export_model(checkpoint, _run_of(checkpoint, folder) / "exported")
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


def _run_of(checkpoint: Checkpoint, folder: Path) -> Path:
    """The run's folder, where its autoencoder is: a checkpoint that is kept elsewhere says it beside itself."""
    if (folder / "run.json").is_file():
        return folder
    beside = folder.parent / "run.json"
    return Path(json.loads(beside.read_text())["out"]) if beside.is_file() else folder.parent.parent


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


def run_steps(
    run: Run,
    setup: Setup,
    world: World,
    log: MetricsLog | None,
    *,
    trained: dict[str, Any],
    interruption: Interruption | None = None,
    after_step: Callable[[int], None] | None = None,
) -> bool:
    """The loop over a run's steps; True when done, False when asked to leave. `trained` goes into config.json."""
    with closing(setup.loader):
        return run_loop(
            setup.training,
            KernelsTold(setup.objective, log),
            setup.loader,
            loop_config(run.recipe),
            out=run.out,
            storage=run.storage,
            world=world,
            num_rows=len(setup.plan.bucket_of),
            state={"plan_hash": setup.plan.hash(), "recipe_hash": recipe_hash(run.recipe), "snapshot": run.snapshot},
            extra={"trained": trained},
            log=log,
            after_step=after_step,
            validate=setup.validate,
            work=setup.work,
            interruption=interruption,
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
        parallel=str(run.parallel),
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
