"""Proof that a layout over workers trains as one worker does: a small copy of the recipe, in float64, on the CPU.

One process computes a few steps; every layout repeats them with its own processes over gloo on the loopback. Losses,
every parameter's gradient, the weights after the steps and their moving average must agree to rounding. In float64 a
term that is missing, doubled or from the wrong place cannot hide in it.
"""

import hashlib
import logging
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException, start_processes

from models.attention import use_backend
from models.text.tokens import TextTokens, stack
from models.video.transformer import TransformerConfig, VideoTransformer
from training.data.buckets import Bucket
from training.data.groups import Group, share
from training.data.plan import Sample
from training.loop import LoopConfig, Training, train_step
from training.objectives.flow import FlowObjective
from training.optim import OptimizerConfig
from training.parallel.apply import parallelize, whole_tensors
from training.parallel.mesh import ParallelConfig
from training.parallel.shrink import TEXT_TOKENS, sample_shapes, shrink
from training.recipes import VideoRecipe
from training.world import World

TARGET = 1e-10  # of every relative difference
MICRO_BATCH = 2  # of up to three samples a shape: gradients add up over unequal parts
Layout = tuple[ParallelConfig, int]  # and the number of workers


def _layout(workers: int, **degrees: Any) -> Layout:
    return ParallelConfig(**degrees), workers


LAYOUTS: dict[str, Layout] = {
    "recompute full": _layout(1, recompute="full"),
    "recompute save-attention": _layout(1, recompute="save-attention"),
    "dp 2": _layout(2),
    "fsdp 2": _layout(2, dp_shard=2),
    "tp 2": _layout(2, tp=2),
    "cp 2": _layout(2, cp=2),
    "dp 4": _layout(4),
    "fsdp 4": _layout(4, dp_shard=4),
    "tp 4": _layout(4, tp=4),
    "cp 4": _layout(4, cp=4),
    "tp 2 cp 2": _layout(4, tp=2, cp=2),
    "fsdp 2 cp 2": _layout(4, dp_shard=2, cp=2),
    "fsdp 2 tp 2": _layout(4, dp_shard=2, tp=2),
    "replicate 2 shard 2": _layout(4, dp_shard=2),
}


class NothingToCompare(RuntimeError):
    """A parameter without a gradient would agree with anything."""


@dataclass(frozen=True, kw_only=True)
class Small:
    """What is computed: a small model, its shapes, and how many steps."""

    model: TransformerConfig
    buckets: tuple[Bucket, ...]
    optimizer: OptimizerConfig
    text_dropout: float
    seed: int
    steps: int

    @classmethod
    def of(cls, recipe: VideoRecipe, unit: int, steps: int) -> "Small":
        """Of a recipe, for layouts whose degrees divide `unit`."""
        model, buckets = shrink(recipe, unit)
        optimizer = replace(
            recipe.optimizer,
            learning_rate=1e-2,
            warmup_steps=0,
            schedule="constant",
            plateau=None,
            eps=1e-3,  # with 1e-8 an element whose gradient is next to nothing turns its rounding into a step
        )
        return cls(
            model=model,
            buckets=tuple(buckets),
            optimizer=optimizer,
            text_dropout=recipe.text_dropout,
            seed=recipe.seed,
            steps=steps,
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the steps came to; tensors are whole, by parameter name, and on the first worker alone."""

    losses: list[float]
    norms: list[float]  # of the gradient, before clipping
    gradients: dict[str, Tensor]  # of the first step
    updates: dict[str, Tensor]  # of all steps together
    average: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A layout beside one worker: max |difference| / max |value|, the worst step's or parameter's."""

    name: str
    workers: int
    seconds: float
    loss: float = math.nan
    norm: float = math.nan
    gradients: dict[str, float]
    update: float = math.nan
    average: float = math.nan
    skipped: str | None = None  # why this recipe cannot be laid out so
    failed: str | None = None  # what a worker raised

    @property
    def worst(self) -> tuple[str, float]:
        """The parameter whose gradient is furthest off."""
        return max(self.gradients.items(), key=lambda item: item[1], default=("", math.nan))

    @property
    def passed(self) -> bool:
        """Whether everything agrees; a layout that the recipe does not allow is neither proved nor refuted."""
        numbers = (self.loss, self.norm, self.worst[1], self.update, self.average)
        return self.skipped is not None or (self.failed is None and all(number <= TARGET for number in numbers))


def verify(
    recipe: VideoRecipe,
    layouts: dict[str, Layout] | None = None,
    *,
    steps: int = 2,
    show: Callable[[Compared], None] | None = None,
    prepare: Callable[[], None] | None = None,
) -> list[Compared]:
    """Compare every layout with one worker. `prepare` runs in each worker before all else (tests break things with it)."""
    layouts = LAYOUTS if layouts is None else layouts
    unit = math.lcm(*(config.cp * config.tp for config, _ in layouts.values()))
    small = Small.of(recipe, unit, steps)
    with torch.random.fork_rng(devices=[]):
        expected = compute(small, ParallelConfig(), World())
    if silent := [name for name, gradient in expected.gradients.items() if not gradient.any()]:
        raise NothingToCompare(f"the gradient of {', '.join(silent[:5])} is zero; nothing would be proved about it")
    found = []
    for name, (config, workers) in layouts.items():
        found.append(_compare(small, expected, name, config, workers, prepare))
        if show:
            show(found[-1])
    return found


def compute(small: Small, config: ParallelConfig, world: World) -> Outcome:
    """The steps, as one worker of `world`."""
    model = draw_model(small)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    parallelize(model, config, world)
    training = Training.start(model, small.optimizer)
    objective = FlowObjective(encode=Texts(small.model.text_widths), text_dropout=small.text_dropout)
    loop = LoopConfig(steps=small.steps, optimizer=small.optimizer, checkpoint_every=small.steps)
    losses, norms, gradients = [], [], {}
    with use_backend("math"):
        for step in range(small.steps):
            numbers = train_step(training, objective, batch(small, step, world), loop, step, world)
            losses.append(numbers["loss"])
            norms.append(numbers["gradient_norm"])
            if step == 0:
                gradients = whole_tensors({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    weights = whole_tensors(model.state_dict())
    return Outcome(
        losses=losses,
        norms=norms,
        gradients=gradients,
        updates={name: value - first[name] for name, value in weights.items()},
        average=whole_tensors(training.average.values),
    )


def draw_model(small: Small) -> VideoTransformer:
    """Float64 weights from the seed. What begins at zero is drawn too: a zero last layer hides the gradient of all others."""
    torch.manual_seed(small.seed)
    model = VideoTransformer(small.model).double()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = nn.init.normal_(torch.empty_like(parameter), std=0.1)
            parameter.copy_(torch.where(parameter == 0, drawn, parameter))
    return model


def batch(small: Small, step: int, world: World) -> list[Group]:
    """This worker's share of a batch of every bucket, cut into micro-batches, with padding at weight zero."""
    samples = [
        Sample(slot=slot, row=slot, clip_id=f"{slot}", bucket=bucket, caption=f"{slot} of {step}", seed=small.seed, step=step)
        for slot, bucket in enumerate(sample_shapes(small.buckets, step))
    ]  # fmt: skip
    groups = []
    for members in share(samples, world.share, world.shares):
        for start in range(0, len(members), MICRO_BATCH):
            part = members[start : start + MICRO_BATCH]
            data = [torch.from_numpy(s.key("window").normal(_latent_shape(small.model, s.bucket))) for s, _ in part]
            weights = torch.tensor([weight for _, weight in part])
            groups.append(Group(samples=tuple(s for s, _ in part), data=torch.stack(data).double(), weights=weights))
    return groups


def _latent_shape(model: TransformerConfig, bucket: Bucket) -> tuple[int, int, int, int]:
    return model.latent_channels, -(-bucket.frames // 8), bucket.height // 8, bucket.width // 8


@dataclass(frozen=True)
class Texts:
    """Random states in the place of the encoders', of another length for every caption; one token for the empty one."""

    widths: tuple[int, ...]

    def __call__(self, captions: Sequence[str]) -> list[TextTokens]:
        """Captions to each encoder's tokens, padded to the longest."""
        return [stack([self._one(caption, number) for caption in captions]) for number in range(len(self.widths))]

    def _one(self, caption: str, number: int) -> TextTokens:
        seed = hashlib.blake2b(f"{number} {caption}".encode(), digest_size=8).digest()
        generator = np.random.default_rng(int.from_bytes(seed, "big"))
        length = int(generator.integers(1, TEXT_TOKENS + 1)) if caption else 1
        states = torch.from_numpy(generator.standard_normal((1, length, self.widths[number])))
        return TextTokens(states, torch.ones(1, length, dtype=torch.bool))


def _compare(
    small: Small,
    expected: Outcome,
    name: str,
    config: ParallelConfig,
    workers: int,
    prepare: Callable[[], None] | None,
) -> Compared:
    began = time.monotonic()

    def result(**values: Any) -> Compared:
        seconds = time.monotonic() - began
        return Compared(name=name, workers=workers, seconds=seconds, **({"gradients": {}} | values))

    try:
        config.check(small.model, small.buckets, None, workers)
    except ValueError as error:
        return result(skipped=str(error))
    with tempfile.TemporaryDirectory() as folder:
        # Forked from one server that has imported everything: 2 s a layout, against 6 s for processes that import anew.
        multiprocessing.set_forkserver_preload([__name__])
        try:
            start_processes(
                _worker, (workers, folder, small, config, prepare), nprocs=workers, start_method="forkserver"
            )
        except ProcessRaisedException as error:
            return result(failed=str(error).strip().splitlines()[-1])
        found: Outcome = torch.load(Path(folder) / "outcome.pt", weights_only=False)
    pairs = [(found.losses, expected.losses), (found.norms, expected.norms)]
    loss, norm = (_apart(*(torch.tensor(x, dtype=torch.float64) for x in pair)) for pair in pairs)
    return result(
        loss=loss,
        norm=norm,
        gradients={n: _apart(found.gradients[n], g) for n, g in expected.gradients.items()},
        update=max(_apart(found.updates[n], u) for n, u in expected.updates.items()),
        average=max(_apart(found.average[n], a) for n, a in expected.average.items()),
    )


def _apart(found: Tensor, expected: Tensor) -> float:
    difference = float((found - expected).abs().max() / expected.abs().max())
    return difference if math.isfinite(difference) else math.inf


def _worker(
    rank: int, size: int, folder: str, small: Small, config: ParallelConfig, prepare: Callable[[], None] | None
) -> None:
    torch.set_num_threads(1)
    # Making a tensor whole that tp and fsdp both cut takes two all-gathers, which DTensor warns of; here it may.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    if prepare:
        prepare()
    if size > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    outcome = compute(small, config, World(rank=rank, size=size, workers_per_share=config.workers_per_share))
    if rank == 0:
        torch.save(outcome, Path(folder) / "outcome.pt")
    if size > 1:
        dist.destroy_process_group()
