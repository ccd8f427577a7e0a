"""The training loop, on any device and any number of workers, with no Ray in it.

A step is a function of its number: the loader gives this worker's groups of global batch `step`, the objective one loss
per sample, and the gradient is that of the mean over the *global* batch's samples that count. Whatever the number of
workers, that is the same gradient.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from models.weights import model_document
from training.agreement import STOP_FILE, Agreement, Interruption
from training.checkpoints import Checkpoint, Saved, Saver, load_checkpoint, training_tensors
from training.data.groups import Group
from training.data.plan import Sample, batch_hash
from training.evaluation.validation import Validate, losses_by_clip, summarised, validate_everywhere
from training.metrics import MetricsLog
from training.optim import (
    MovingAverage,
    OptimizerConfig,
    RateEvent,
    build_optimizer,
    learning_rate,
    plateau_events,
)
from training.storage import Storage
from training.throughput import Throughput, Work
from training.world import World


class Objective(Protocol):
    """What a model is asked to minimise."""

    def __call__(self, model: nn.Module, group: Group) -> tuple[Tensor, dict[str, Tensor]]:
        """One loss per sample [B], each the sample's own mean, and numbers to log, each [B]."""
        ...


class Companion(Protocol):
    """An objective that trains something of its own beside the model, such as a critic."""

    def begin_step(self, step: int) -> None: ...
    def finish_step(self, world: World) -> dict[str, float]: ...
    def tensors(self) -> dict[str, Any]: ...


class Batches(Protocol):
    """Where groups come from."""

    def step(self, step: int) -> list[Group]: ...
    def planned(self, step: int) -> list[Sample]: ...


class NotFinite(RuntimeError):
    """A loss or its gradient is no number any more; going on would only overwrite good weights."""


class TooManyUnreadable(RuntimeError):
    """More rows failed to decode than a run may shrug off."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the loop itself needs to know."""

    steps: int
    optimizer: OptimizerConfig
    checkpoint_every: int
    keep_checkpoints: int = 3
    log_every: int = 1
    autocast: bool = False  # bfloat16 compute on CUDA; weights, optimizer and average stay float32
    max_unreadable_share: float = 0.001  # of the rows; one row is always forgiven
    validate_every: int | None = None  # steps


@dataclass
class Training:
    """The whole mutable state of a run in this process."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage
    companion: Companion | None = None
    step: int = 0  # steps done
    unreadable: set[str] = field(default_factory=set)
    validations: list[tuple[int, float]] = field(default_factory=list)  # (steps done, mean loss)
    last_validation: dict[str, float] = field(default_factory=dict)  # losses by clip, which the next one is paired with
    rate_events: list[RateEvent] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        model: nn.Module,
        config: OptimizerConfig,
        checkpoint: Checkpoint | None = None,
        companion: Companion | None = None,
    ) -> "Training":
        """Fresh, or exactly where `checkpoint` left off."""
        optimizer, average = build_optimizer(model, config), MovingAverage(model, config.ema_decay)
        training = cls(model=model, optimizer=optimizer, average=average, companion=companion)
        if checkpoint:
            state = load_checkpoint(checkpoint, training.tensors())
            average.updates = state["average_updates"]
            training.step, training.unreadable = checkpoint.step, set(state["unreadable"])
            training.validations = [(step, loss) for step, loss in state["validations"]]
            training.last_validation = state["last_validation"]
            training.rate_events = [(step, rate) for step, rate in state["rate_events"]]
        return training

    def tensors(self) -> dict[str, Any]:
        """Everything that training changes, live."""
        return training_tensors(self.model, self.average, self.optimizer, self.companion)

    def described(self) -> dict[str, Any]:
        """What a checkpoint says of it beside the tensors."""
        return {
            "average_updates": self.average.updates,
            "unreadable": sorted(self.unreadable),
            "validations": self.validations,
            "last_validation": self.last_validation,
            "rate_events": self.rate_events,
        }


def run_loop(
    training: Training,
    objective: Objective,
    batches: Batches,
    config: LoopConfig,
    *,
    out: Path,
    storage: Storage,
    world: World,
    num_rows: int,
    state: dict[str, Any],
    extra: dict[str, Any] | None = None,
    log: MetricsLog | None = None,
    after_step: Callable[[int], None] | None = None,
    validate: Validate | None = None,
    work: Work | None = None,
    interruption: Interruption | None = None,
) -> bool:
    """Train from `training.step` to `config.steps`; True when done, False when asked to stop before.

    Checkpoints go to `storage` every `checkpoint_every` steps, at the end, when a file named STOP appears in `out`, and
    when `interruption` asks one worker for it. `state` (hashes and names) travels in every checkpoint, `extra` in the
    model's config.json. Only the first worker logs. With `validate`, the held-out clips are measured before the first
    step, every `validate_every` steps and at the end. `work` counts what a batch costs.
    """
    limit = max(1, int(config.max_unreadable_share * num_rows))
    throughput = Throughput(work, world)
    began, seen, agreement = time.monotonic(), training.step, Agreement(out, world, interruption)
    if validate and config.validate_every and not training.validations:
        _validate(training, validate, config, world, log)
    draw = after_step or (lambda _: None)
    with closing(Saver(storage, is_first=world.is_first, keep=config.keep_checkpoints)) as saver:
        while training.step < config.steps:
            step = training.step
            throughput.begin()
            groups = batches.step(step)
            throughput.loaded()
            agreed = agreement.reach(groups, save_failed=saver.failed)
            training.unreadable.update(agreed.unreadable)
            try:
                numbers = train_step(training, objective, groups, config, step, world)
            except NotFinite as error:
                if log:
                    log.write("not_finite", at_step=step + 1, why=str(error))
                raise
            training.step += 1
            planned = batches.planned(step) if log else []
            throughput.done(planned)
            if len(training.unreadable) > limit:
                raise TooManyUnreadable(
                    f"{len(training.unreadable)} of {num_rows} rows cannot be read (at most {limit} may): "
                    f"{', '.join(sorted(training.unreadable)[:5])}; e.g. {'; '.join(sorted(set(agreed.unreadable.values()))[:3])}"
                )
            if log and (training.step % config.log_every == 0 or training.step == config.steps):
                seconds = time.monotonic() - began
                numbers["steps_per_second"] = (training.step - seen) / seconds
                numbers |= throughput.numbers()
                log.write("step", step=training.step, seconds=round(seconds, 3), batch=batch_hash(planned), **numbers)
            last = training.step == config.steps
            if validate and config.validate_every and (training.step % config.validate_every == 0 or last):
                _validate(training, validate, config, world, log)
            leaving = last or agreed.stop or agreed.save  # this one is waited for
            if training.step % config.checkpoint_every == 0 or leaving:
                note_checkpoint(saver.finish(), log)
                document = model_document(training.model, **(extra or {}))
                saver.save(training.step, training.tensors(), state=state | training.described(), config=document)
            if leaving or agreed.save_failed:
                note_checkpoint(saver.finish(), log)
            note_checkpoint(saver.poll(), log)
            with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=config.autocast):
                draw(training.step)
            if agreed.stop:
                if world.is_first:
                    (out / STOP_FILE).unlink(missing_ok=True)  # obeyed; the next start is nobody's to stop
                break
    return training.step == config.steps


def note_checkpoint(saved: Saved | None, log: MetricsLog | None) -> None:
    """Log a save that has ended, if one has."""
    if saved and log:
        log.write(
            "checkpoint",
            at_step=saved.step,
            blocked_seconds=round(saved.blocked_seconds, 3),
            seconds=round(saved.seconds, 3),
            bytes=saved.bytes,
        )


def train_step(
    training: Training, objective: Objective, groups: list[Group], config: LoopConfig, step: int, world: World
) -> dict[str, float]:
    """One update from this worker's groups; returns the global batch's numbers, equal on every worker."""
    rate = learning_rate(config.optimizer, step, config.steps, training.rate_events)
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.zero_grad(set_to_none=True)
    if training.companion:
        training.companion.begin_step(step)
    sums = accumulate(training.model, objective, groups, world, autocast=config.autocast)
    count = sums.pop("count")
    if count == 0:  # every row of the batch failed to decode: nothing to learn, nothing to divide by
        return {"learning_rate": rate, "samples": 0.0}
    if not math.isfinite(sums["loss"]):
        raise NotFinite(_blame(training, objective, groups, config, world, f"loss of step {step + 1}", rate))
    norm = clip_gradient(training.model, config.optimizer.clip_norm)
    if not torch.isfinite(norm):
        raise NotFinite(_blame(training, objective, groups, config, world, f"gradient of step {step + 1}", rate))
    training.optimizer.step()
    training.average.update(training.model)
    means = {name: value / count for name, value in sums.items()}
    if training.companion:
        means |= training.companion.finish_step(world)
    return means | {"gradient_norm": float(norm), "learning_rate": rate, "samples": count}


def accumulate(
    model: nn.Module, objective: Objective, groups: list[Group], world: World, autocast: bool = False
) -> dict[str, float]:
    """Leave in `.grad` the gradient of the mean loss over the global batch's samples that count.

    Each worker adds up weighted losses, gradients are summed over workers, and only then divided by the sum of weights:
    a mean of the workers' means would weigh samples unequally. Workers that share out a model (training.parallel) hold
    the same samples and losses, which count once. Returns the sums of all numbers and `count`.
    """
    sums: dict[str, Tensor] = {}
    count = torch.zeros((), dtype=torch.float64)
    for number, group in enumerate(groups, start=1):
        if isinstance(model, FSDPModule):
            model.set_requires_all_reduce(number == len(groups))  # over copies of the model once, over shards each time
        weights = group.weights.to(world.device)
        with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=autocast):
            losses, numbers = objective(model, _on(group, world.device))
        (losses * weights.to(losses.dtype)).sum().backward()
        for name, values in ({"loss": losses} | numbers).items():
            total = (values.detach().double() * weights.double()).sum().cpu()
            sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + total
        count += group.weights.double().sum()
    names = sorted(sums)
    totals = torch.stack([count, *(sums[name] for name in names)]).to(world.device)
    world.sum_([totals])
    gradients = []
    for parameter in model.parameters():  # those of a sharded model are its shards again only after the backward pass
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    world.sum_([gradient for gradient in gradients if not isinstance(gradient, DTensor)])  # FSDP2 has summed its own
    if totals[0] > 0:
        for gradient in gradients:
            gradient /= totals[0].to(gradient.dtype)
    return {"count": float(totals[0]), **dict(zip(names, totals[1:].tolist(), strict=True))}


def clip_gradient(model: nn.Module, most: float) -> Tensor:
    """Scale `.grad` down to a norm of `most`; returns the norm before, over all parameters and all their shards."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(model.parameters(), most, norm)
    return norm


def _blame(
    training: Training,
    objective: Objective,
    groups: list[Group],
    config: LoopConfig,
    world: World,
    what: str,
    rate: float,
) -> str:
    """What is no number, and the clips whose own loss is none; all of the batch where each alone has one."""
    mine = []
    for group in groups:
        with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=config.autocast):
            losses, _ = objective(training.model, _on(group, world.device))
        mine += [s.clip_id for s, loss in zip(group.samples, losses.tolist(), strict=True) if not math.isfinite(loss)]
    every = [sample.clip_id for group in groups for sample in group.samples]
    blamed, batch = (sorted({c for part in world.gather(found) for c in part}) for found in (mine, every))
    return (
        f"the {what} is no finite number, on clips {', '.join((blamed or batch)[:5])}; checkpoints stay. "
        f"Look at these clips, or lower the learning rate ({rate:.3g})"
    )


def _validate(training: Training, validate: Validate, config: LoopConfig, world: World, log: MetricsLog | None) -> None:
    """Measure, log, and lower the learning rate where the recipe's plateau says so."""
    with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=config.autocast):  # as it trains
        clips = validate_everywhere(validate, training.model, world)
    if not clips:
        return
    values = summarised(clips, training.last_validation)
    training.validations.append((training.step, values["loss"]))
    training.last_validation = losses_by_clip(clips)
    events = plateau_events(config.optimizer, training.validations)
    new = events[len(training.rate_events) :]
    training.rate_events = events
    if log:
        log.write("validation", step=training.step, **values)
        for step, rate in new:
            log.write("learning_rate", step=step, learning_rate=rate, why="the validation loss stopped falling")


def _on(group: Group, device: torch.device) -> Group:
    if group.data.device == device:
        return group
    return Group(
        samples=group.samples, data=group.data.to(device), weights=group.weights.to(device), unreadable=group.unreadable
    )
