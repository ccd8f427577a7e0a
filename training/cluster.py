"""The one door to Ray: starts the workers of a run, tells how it goes, and lets it be stopped and continued."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from training.agreement import STOP_FILE, Interruption
from training.checkpoints import CheckpointFailed
from training.held import HeldDevices
from training.lock import run_lock
from training.loop import NotFinite, TooManyUnreadable
from training.metrics import MetricsTail
from training.parallel.mesh import ParallelConfig
from training.prepare import check_layout, check_memory, prepare_run
from training.recipes import TAERecipe, VideoRecipe
from training.runs import Run, load_run
from training.world import World

RAY_FOLDER = "ray"  # in the run's folder
POLL_SECONDS = 0.5
# How long an OpenMP thread spins before it sleeps; read when torch loads. Demo autoencoder, a step on two cores: 0.22 s with this,
# 0.47 s without spinning (OMP_WAIT_POLICY=PASSIVE), and 10 s with the default on cores that others use too (LOG.md).
WORKER_ENVIRONMENT = {"GOMP_SPINCOUNT": "5000"}
STOP_SECONDS = 120.0  # how long an interrupted run may take to write its checkpoint
RESIZE_SECONDS = (
    60.0  # how often a run with a range of workers looks for room; each change costs a start from a checkpoint
)
RESTARTS = 3  # a worker lost costs the steps since the last checkpoint; as many as this, and somebody should look
ROOM_TRIES = (
    10  # how often Ray waits for room (RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, 60 s each) before the run gives up
)
FAILURE_FILE = "failure.txt"  # in the run's folder: why it ended, where starting again would only end the same way
LASTING = (ValueError, NotFinite, TooManyUnreadable, CheckpointFailed)

Workers = int | tuple[int, int]  # so many, or from so few to so many, as the cluster has room


@dataclass(frozen=True, kw_only=True)
class Launch:
    """On what a run trains; none of it changes a loss.

    A lost worker or node starts all workers again from the newest checkpoint, `restarts` times at most; where `workers`
    is a range, with as many as the cluster then has room for.
    """

    workers: Workers = 1
    restarts: int = RESTARTS
    address: str | None = None  # of a running Ray; None: one of our own, on loopback
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    @property
    def most(self) -> int:
        """Workers at most."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    def check(self, recipe: TAERecipe | VideoRecipe) -> None:
        """Raise ValueError for what cannot work, before anything is written."""
        fewest = self.workers if isinstance(self.workers, int) else self.workers[0]
        if fewest < 1:
            raise ValueError(f"--workers {fewest}: a run needs at least one")
        if self.most < fewest:
            raise ValueError(f"--workers {fewest}-{self.most}: the first is the fewest, the second the most")
        if self.restarts < 0:
            raise ValueError(f"--restarts {self.restarts}: give 0 to end the run when a worker is lost")
        if fewest < self.most and self.parallel.shards:
            raise ValueError(
                f"--workers {fewest}-{self.most}: a model in the layout {self.parallel} needs a number of workers that stays; give one"
            )
        check_layout(recipe, self.parallel, self.most)
        if self.address is None:
            check_memory(recipe, self.most, self.parallel)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is. `phase` is starting, encoding, training or evaluating; done and total count its units."""

    phase: str
    done: int
    total: int
    numbers: dict[str, float]  # the last step's: loss, steps_per_second, ...
    costs: dict[str, float] = field(default_factory=dict)  # gpu_seconds or cpu_seconds that workers have held, so far


ShowProgress = Callable[[Progress], None]


class RunFailed(RuntimeError):
    """A worker raised; the message is the worker's own."""


def train_tae(
    snapshot: str,
    recipe: TAERecipe,
    out: str | Path,
    *,
    launch: Launch | None = None,
    resume: bool = False,
    checkpoints: str | None = None,
    progress: ShowProgress | None = None,
) -> Path:
    """Train an autoencoder on a snapshot (URI#DATASET@NUMBER); returns OUT/final.

    A wrong call is a ValueError before Ray starts, and writes nothing. KeyboardInterrupt stops the run at a checkpoint
    and is raised again; the same call with `resume` continues to the same losses. `checkpoints` (a folder or a bucket's
    URI) is OUT/checkpoints where it is not given.
    """
    launch = launch or Launch()
    launch.check(recipe)
    run = prepare_run("tae", snapshot, recipe, out, resume=resume, checkpoints=checkpoints)
    return _train(run, launch, progress)


def train_video(
    snapshot: str,
    recipe: VideoRecipe,
    out: str | Path,
    *,
    tae: str | Path,
    start: str | Path | None = None,
    cache: str | Path | None = None,
    launch: Launch | None = None,
    resume: bool = False,
    checkpoints: str | None = None,
    progress: ShowProgress | None = None,
) -> Path:
    """Train a video transformer on latents of the autoencoder `tae`; otherwise as `train_tae`.

    With `start`, from the weights of the stage before, whose position tables grow to the recipe's. `cache` holds latents
    and text embeddings, for any number of runs; OUT/cache by default.
    """
    launch = launch or Launch()
    launch.check(recipe)
    run = prepare_run(
        "video", snapshot, recipe, out, resume=resume, tae=tae, start=start, cache=cache, checkpoints=checkpoints,
        parallel=launch.parallel, workers=launch.most,
    )  # fmt: skip
    return _train(run, launch, progress)


def parse_workers(text: str) -> Workers:
    """`4`, or `2-8` for as many as there is room for; ValueError for anything else."""
    try:
        low, _, high = text.partition("-")
        return (int(low), int(high)) if high else int(low)
    except ValueError:
        raise ValueError(f"--workers {text}: give a number such as 4, or a range such as 2-8") from None


def _train(run: Run, launch: Launch, progress: ShowProgress | None) -> Path:
    show = progress or (lambda _: None)
    tail, latest = MetricsTail(run.out), Progress(phase="starting", done=0, total=run.recipe.steps, numbers={})
    show(latest)
    (run.out / FAILURE_FILE).unlink(missing_ok=True)
    connect(launch.address)
    if run.kind == "video":
        from training.encode_job import fill_ahead  # it imports this module

        fill_ahead(run, lambda done, total: show(Progress(phase="encoding", done=done, total=total, numbers={})))
    failure: list[BaseException] = []
    ended = threading.Event()  # an interrupted Thread.join() would take the thread for dead
    fit = threading.Thread(target=_fit, args=(run.out, launch, failure, ended), name="ray-train", daemon=True)
    fit.start()  # not in the main thread: Ray's own SIGINT handler would end the run without a checkpoint
    meter = HeldDevices()
    try:
        while not ended.wait(POLL_SECONDS):
            for line in tail.new():
                meter.hear(line)
                latest = _progress(run, line) or latest
            show(replace(latest, costs=meter.costs()))
    except KeyboardInterrupt:
        (run.out / STOP_FILE).touch()
        ended.wait(STOP_SECONDS)
        raise
    with contextlib.suppress(OSError):
        (run.out / RAY_FOLDER).rmdir()  # Ray keeps nothing there, since checkpoints are ours
    if (run.out / FAILURE_FILE).exists():
        raise RunFailed((run.out / FAILURE_FILE).read_text())
    if failure:
        raise failure[0]
    final = run.out / "final"
    if not (final / "config.json").exists():
        raise RunFailed(f"the run was asked to stop; its checkpoints are in {run.storage.uri}, --resume continues it")
    return final


def connect(address: str | None) -> None:
    """Use the Ray of this process, the one at `address`, or a small one of our own on a loopback address."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # of Ray's own C++ core, which warns of Ray Data's own actors
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
        logging_level=logging.ERROR,
    )


def _fit(out: Path, launch: Launch, failure: list[BaseException], ended: threading.Event) -> None:
    try:
        _trainer(out, launch).fit()
    except BaseException as error:  # handed to the thread that waits, which raises it
        failure.append(_own_words(error, launch))
    finally:
        ended.set()


def _trainer(out: Path, launch: Launch) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    most = launch.most
    use_gpu = torch.cuda.is_available() or ray.cluster_resources().get("GPU", 0) >= most
    cpus = _cpus_per_gpu() if use_gpu else ray.cluster_resources().get("CPU", 1.0) / most
    return TorchTrainer(
        train_worker,
        # Small messages between workers are Python objects in main memory; over NCCL they would go through the GPU.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        train_loop_config={"out": str(out), "threads": max(1, int(cpus))},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # Ray's stubs describe the older classes
            num_workers=launch.workers,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus if most > 1 and cpus < 1 else max(1, int(cpus))},
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=RAY_FOLDER,
            storage_path=str(out),
            # Nodes that are taken away on notice do not count.
            failure_config=FailureConfig(max_failures=launch.restarts, controller_failure_limit=ROOM_TRIES),  # type: ignore[call-arg]
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )


def _cpus_per_gpu() -> float:
    """What a worker on any node with GPUs may have; nodes without train nothing."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    return min((node.get("CPU", 1.0) / node["GPU"] for node in nodes), default=1.0)


def train_worker(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs. Ray gives workers one thread unless told; the run's log records how many."""
    import ray.train
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # FSDP2 uses the current one
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)
    run = load_run(config["out"])
    if (run.out / FAILURE_FILE).exists():
        return  # Ray starts again after any error; after this one that would be in vain
    try:
        train_here(run, world, _leaving)
    except LASTING as error:
        # Where Ray takes a group apart, with a node that goes, PyTorch complains of it by ValueErrors too.
        if world.size == 1 or dist.is_initialized():
            tell_failure(run.out, error)
        raise


def tell_failure(out: Path, error: BaseException) -> None:
    """Leave word that starting again would only end the same way; the first worker that says so is heard."""
    with contextlib.suppress(FileExistsError), (out / FAILURE_FILE).open("x") as file:
        file.write(f"{type(error).__name__}: {error}")


def _leaving() -> Literal["save"] | None:
    """Whether a node of this run is about to be taken away (a spot machine's notice, a drained node)."""
    import ray.train

    return "save" if ray.train.get_preemption_info() else None


def train_here(run: Run, world: World, interruption: Interruption | None = None) -> bool:
    """Train in this process, as one worker of `world`: what Ray's workers do, and what works without Ray.

    Continues from the newest checkpoint, if there is one. True when finished, False when stopped on request.
    """
    check_layout(run.recipe, run.parallel, world.size)
    world = replace(world, workers_per_share=run.parallel.workers_per_share)
    with run_lock(run.out, world):
        if run.kind == "tae":
            from training.autoencoder import train_autoencoder

            return train_autoencoder(run, world, interruption)
        from training.video import train_transformer

        return train_transformer(run, world, interruption)


def _progress(run: Run, line: dict[str, Any]) -> Progress | None:
    """What a line of the log says of the progress, or None."""
    if line["event"] == "encode":
        return Progress(phase="encoding", done=line["done"], total=line["total"], numbers={})
    if line["event"] == "step":
        numbers = {name: value for name, value in line.items() if isinstance(value, float) and name != "time"}
        phase = "evaluating" if line["step"] >= run.recipe.steps else "training"
        return Progress(phase=phase, done=line["step"], total=run.recipe.steps, numbers=numbers)
    return None


def _own_words(error: BaseException, launch: Launch) -> BaseException:
    """The first worker's exception inside Ray's wrapping, if there is one."""
    from ray.train import ControllerError

    failures = getattr(error, "worker_failures", None) or {}
    for rank in sorted(failures):
        cause = failures[rank]
        cause = getattr(cause, "cause", None) or cause
        words = next((line.strip() for line in str(cause).splitlines() if line.strip()), repr(cause))
        return RunFailed(f"worker {rank}: {type(cause).__name__}: {words[:500]}")
    if isinstance(error, ControllerError) and "startup timed out" in str(error):
        import ray

        room = ", ".join(f"{ray.available_resources().get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return RunFailed(
            f"the cluster has no room for {launch.workers} workers ({room} are free): a node was lost and did not come back, "
            "or others use it. Checkpoints stay; continue with --resume and fewer --workers, a range such as 1-2, or more nodes"
        )
    return error
