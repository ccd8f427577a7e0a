"""Random batches in the place of a data set: latents, captions without words, and each sample's own random keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.text.tokens import TextTokens
from models.video.transformer import TransformerConfig, VideoTransformer
from training.data.buckets import Bucket
from training.data.groups import Group
from training.data.plan import Sample
from training.loop import LoopConfig, Training
from training.objectives.flow import FlowObjective
from training.optim import OptimizerConfig

OPTIMIZER = OptimizerConfig(learning_rate=1e-4, weight_decay=0.1)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The same random states for every caption, as long as an encoder pads to; a third of them is padding."""

    widths: tuple[int, ...]
    length: int
    device: torch.device

    def __call__(self, captions: Sequence[str]) -> list[TextTokens]:
        """Every encoder's tokens."""
        generator = torch.Generator().manual_seed(0)
        mask = (torch.arange(self.length) < max(1, self.length * 2 // 3)).expand(len(captions), -1)
        states = [torch.randn(1, self.length, width, generator=generator) for width in self.widths]
        return [TextTokens(s.expand(len(captions), -1, -1), mask).to(self.device) for s in states]


@dataclass(frozen=True, kw_only=True)
class RandomBatches:
    """A plan and a loader in one: `samples` random clips of one shape at every step, a function of the step alone."""

    model: TransformerConfig
    clip: Bucket
    device: torch.device
    samples: int = 1

    def planned(self, step: int) -> list[Sample]:
        """The step's samples."""
        return [
            Sample(slot=slot, row=slot, clip_id=f"{slot}", bucket=self.clip, caption=f"{slot}", seed=0, step=step)
            for slot in range(self.samples)
        ]

    def step(self, step: int) -> list[Group]:
        """One group, on the device."""
        generator = torch.Generator(self.device).manual_seed(step)
        shape = (self.model.latent_channels, -(-self.clip.frames // 8), self.clip.height // 8, self.clip.width // 8)
        data = torch.randn(self.samples, *shape, generator=generator, device=self.device)
        return [Group(samples=tuple(self.planned(step)), data=data, weights=torch.ones(self.samples))]


def build(config: TransformerConfig, device: torch.device) -> VideoTransformer:
    """Random weights in float32, the same for the same device; the last layer, which begins at zero, is drawn too."""
    torch.manual_seed(0)
    with device:
        model = VideoTransformer(config)
    torch.nn.init.normal_(model.patch_out.weight, std=config.width**-0.5)
    return model


def objective(config: TransformerConfig, text_tokens: int, device: torch.device) -> FlowObjective:
    """The flow's, on texts of random states."""
    texts = Texts(widths=config.text_widths, length=text_tokens, device=device)
    return FlowObjective(encode=texts, text_dropout=0.0)


def start(model: VideoTransformer, steps: int, *, autocast: bool) -> tuple[Training, LoopConfig]:
    """What the loop's steps take."""
    loop = LoopConfig(steps=steps, optimizer=OPTIMIZER, checkpoint_every=steps, autocast=autocast)
    return Training.start(model, OPTIMIZER), loop
