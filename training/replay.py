"""One step of a run again, alone: the same clips, times and noise, and the loss beside what the log says."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from training.checkpoints import list_checkpoints
from training.data.plan import Sample, batch_hash
from training.loop import train_step
from training.metrics import read_metrics
from training.objectives.flow import flow_times
from training.parallel.mesh import ParallelConfig
from training.runs import Setup, load_run, loop_config
from training.world import World

# Of two losses of one step: sums over other workers, or other numbers of threads, round in another order.
TOLERANCE = 1e-6
COMPARED = ("loss", "timestep", "gradient_norm", "learning_rate")


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A step done again. `logged` is the log's line of it."""

    step: int  # as in the log: 1 is the first
    from_step: int  # steps that the checkpoint had seen; 0: none was early enough, so from the run's first weights
    samples: list[Sample]
    times: list[float]  # of each sample, in (0, 1); none for an autoencoder
    batch: str
    numbers: dict[str, float]
    logged: dict[str, Any]

    @property
    def same_batch(self) -> bool:
        """Whether the log's step had the very same clips, shapes, captions and random keys."""
        return self.batch == self.logged.get("batch")

    @property
    def differences(self) -> dict[str, float]:
        """Relative difference of every number compared."""
        return {
            name: abs(self.numbers[name] - self.logged[name]) / max(abs(self.logged[name]), 1e-12)
            for name in COMPARED
            if name in self.numbers and name in self.logged
        }

    @property
    def same(self) -> bool:
        """Whether the step came out as it did."""
        return self.same_batch and all(difference <= TOLERANCE for difference in self.differences.values())


def replay(out: str | Path, step: int) -> Replayed:
    """Do step `step` (as numbered in the log) again from the nearest checkpoint before it; changes nothing in the run.

    The steps between the checkpoint and it are done too, since they made its weights; learning rates are the log's.
    On one worker with the run's number of threads the numbers come out to the last bit.
    """
    run = replace(load_run(out), parallel=ParallelConfig())  # one worker, whatever layout made the checkpoint
    lines = {line["step"]: line for line in read_metrics(run.out, "step")}
    if step not in lines:
        told = f"steps {min(lines)} to {max(lines)}" if lines else "no step yet"
        raise ValueError(f"{run.out} logged {told}, not step {step}")
    checkpoint = next((c for c in reversed(list_checkpoints(run.storage)) if c.step < step), None)
    began = read_metrics(run.out, "start")
    if began:
        torch.set_num_threads(began[0]["threads"])
    world = World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    setup: Setup
    if run.kind == "tae":
        from training.autoencoder import set_up_autoencoder

        setup = set_up_autoencoder(run, world, checkpoint)
    else:
        from training.video import set_up_transformer

        setup = set_up_transformer(run, world, checkpoint)
    training, config = setup.training, loop_config(run.recipe)
    begun_at = training.step
    training.rate_events = [(line["step"], line["learning_rate"]) for line in read_metrics(run.out, "learning_rate")]
    try:
        for number in range(begun_at, step):
            numbers = train_step(training, setup.objective, setup.loader.step(number), config, number, world)
    finally:
        setup.loader.close()
    samples = setup.plan.step(step - 1)
    return Replayed(
        step=step,
        from_step=begun_at,
        samples=samples,
        times=flow_times(samples, torch.device("cpu")).tolist() if run.kind == "video" else [],
        batch=batch_hash(samples),
        numbers=numbers,
        logged=lines[step],
    )
