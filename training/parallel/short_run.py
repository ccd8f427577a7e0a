"""A short run of a small copy of a recipe, in float64, on generated data: what layouts over workers are compared by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

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

MICRO_BATCH = 2  # of up to three samples a shape: gradients add up over unequal parts


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
