"""The one door to Ray: starts the workers of a run, tells how it goes, and lets it be stopped and continued."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.loop import STOP_FILE
from training.metrics import read_metrics
from training.recipes import TAERecipe, VideoRecipe
from training.runs import Run, load_run, prepare_run
from training.world import World

POLL_SECONDS = 0.5
STOP_SECONDS = 120.0  # how long an interrupted run may take to write its checkpoint


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. `phase` is starting, encoding, training or evaluating; done and total count its units."""

    phase: str
    done: int
    total: int
    numbers: dict[str, float]  # the last step's: loss, steps_per_second, ...


ShowProgress = Callable[[Progress], None]


class RunFailed(RuntimeError):
    """A worker raised; the message is the worker's own."""


def train_tae(
    snapshot: str,
    recipe: TAERecipe,
    out: str | Path,
    *,
    workers: int = 1,
    resume: bool = False,
    address: str | None = None,
    progress: ShowProgress | None = None,
) -> Path:
    """Train an autoencoder on a snapshot (URI#DATASET@NUMBER); returns OUT/final.

    A wrong call is a ValueError before Ray starts, and writes nothing. KeyboardInterrupt stops the run at a checkpoint
    and is raised again; the same call with `resume` continues to the same losses.
    """
    return _train(prepare_run("tae", snapshot, recipe, out, resume=resume), workers, address, progress)


def train_video(
    snapshot: str,
    recipe: VideoRecipe,
    out: str | Path,
    *,
    tae: str | Path,
    workers: int = 1,
    resume: bool = False,
    address: str | None = None,
    progress: ShowProgress | None = None,
) -> Path:
    """Train a video transformer on latents of the autoencoder `tae`; otherwise as `train_tae`."""
    return _train(prepare_run("video", snapshot, recipe, out, resume=resume, tae=tae), workers, address, progress)


def _train(run: Run, workers: int, address: str | None, progress: ShowProgress | None) -> Path:
    if workers < 1:
        raise ValueError(f"--workers {workers}: a run needs at least one")
    show = progress or (lambda _: None)
    show(Progress(phase="starting", done=0, total=run.recipe.steps, numbers={}))
    began = time.time()
    _connect(address)
    failure: list[BaseException] = []
    fit = threading.Thread(target=_fit, args=(run.out, workers, failure), name="ray-train", daemon=True)
    fit.start()  # not in the main thread: Ray's own SIGINT handler would end the run without a checkpoint
    try:
        while fit.is_alive():
            fit.join(POLL_SECONDS)
            show(_progress(run, began))
    except KeyboardInterrupt:
        (run.out / STOP_FILE).touch()
        fit.join(STOP_SECONDS)
        raise
    if failure:
        raise failure[0]
    final = run.out / "final"
    if not (final / "config.json").exists():
        raise RunFailed(f"the run was asked to stop; its checkpoints are in {run.out / 'checkpoints'}, --resume continues it")
    return final


def _connect(address: str | None) -> None:
    """Use the Ray of this process, the one at `address`, or a small one of our own on a loopback address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    if address:
        ray.init(address=address, log_to_driver=False)
        return
    ray.init(  # 127.0.0.1 would be rewritten to the machine's interface address
        _node_ip_address="127.0.0.2",
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )


def _fit(out: Path, workers: int, failure: list[BaseException]) -> None:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    use_gpu = torch.cuda.is_available() or ray.cluster_resources().get("GPU", 0) >= workers
    cpus = ray.cluster_resources().get("CPU", 1.0) / workers
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"out": str(out), "threads": max(1, int(cpus))},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus if workers > 1 else max(1, int(cpus))}
        ),
        run_config=RunConfig(name="ray", storage_path=str(out)),
    )
    try:
        trainer.fit()
    except BaseException as error:  # handed to the thread that waits, which raises it
        failure.append(_own_words(error))


def train_worker(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs. Ray gives workers one thread unless told; the run's log records how many."""
    import ray.train
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=get_device())
    train_here(load_run(config["out"]), world)


def train_here(run: Run, world: World) -> bool:
    """Train in this process, as one worker of `world`: what Ray's workers do, and what works without Ray."""
    if run.kind == "tae":
        from training.autoencoder import train_autoencoder

        return train_autoencoder(run, world)
    from training.video import train_transformer

    return train_transformer(run, world)


def _progress(run: Run, began: float) -> Progress:
    lines = [line for line in read_metrics(run.out) if line["time"] >= began]
    steps = [line for line in lines if line["event"] == "step"]
    encoded = [line for line in lines if line["event"] == "encode"]
    if steps:
        last = steps[-1]
        numbers = {name: value for name, value in last.items() if isinstance(value, float) and name != "time"}
        phase = "evaluating" if last["step"] >= run.recipe.steps else "training"
        return Progress(phase=phase, done=last["step"], total=run.recipe.steps, numbers=numbers)
    if encoded:
        return Progress(phase="encoding", done=encoded[-1]["done"], total=encoded[-1]["total"], numbers={})
    return Progress(phase="starting", done=0, total=run.recipe.steps, numbers={})


def _own_words(error: BaseException) -> BaseException:
    """The first worker's exception inside Ray's wrapping, if there is one."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank in sorted(failures):
        cause = failures[rank]
        cause = getattr(cause, "cause", None) or cause
        return RunFailed(f"worker {rank}: {type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else cause!r}")
    return error
