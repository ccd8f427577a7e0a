"""What a plan says: for every shape of a stage what a step holds and takes, and what the stage costs."""

from dataclasses import asdict, dataclass
from typing import Any

from training.accelerators import Accelerator
from training.costs import Layout
from training.data.buckets import Bucket
from training.recipes import TAERecipe, VideoRecipe


@dataclass(frozen=True, kw_only=True)
class Step:
    """A global batch whose videos have one shape: what it holds and takes."""

    bucket: Bucket  # of the videos; in a text-to-image stage the largest image's
    micro_batches: dict[Bucket, int]  # samples computed at once on a GPU (a group of cp x tp), images' shapes too
    micro_steps: int  # forward and backward passes of each GPU
    memory: dict[str, int]  # bytes on each GPU, by part, of the fullest micro-step
    model_flops: int  # of all GPUs
    executed_flops: int
    seconds: float

    @property
    def bytes(self) -> int:
        """On each GPU."""
        return sum(self.memory.values())

    def described(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "bucket": self.bucket.name,
            "tokens": self.bucket.tokens,
            "micro_batches": {bucket.name: size for bucket, size in self.micro_batches.items()},
            "micro_steps": self.micro_steps,
            "memory": self.memory,
            "bytes": self.bytes,
            "model_flops": self.model_flops,
            "executed_flops": self.executed_flops,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """The layout for a recipe and a step of each of its shapes, most tokens first."""

    recipe: TAERecipe | VideoRecipe
    accelerator: Accelerator
    parameters: int
    layout: Layout
    steps: tuple[Step, ...]

    @property
    def longest(self) -> Step:
        """The step of the most tokens."""
        return self.steps[0]

    @property
    def hours(self) -> float:
        """Of the whole stage if every batch had the most tokens, as the paper's own estimate counts."""
        return self.recipe.steps * self.longest.seconds / 3600

    @property
    def gpu_hours(self) -> float:
        """The same, times the GPUs in use."""
        return self.hours * self.layout.gpus

    @property
    def mean_gpu_hours(self) -> float:
        """If all shapes were equally frequent."""
        seconds = sum(step.seconds for step in self.steps) / len(self.steps)
        return self.recipe.steps * seconds / 3600 * self.layout.gpus

    @property
    def mfu(self) -> float:
        """Model FLOP/s over the data sheet's peak, in the longest step."""
        return self.longest.model_flops / self.longest.seconds / (self.layout.gpus * self.accelerator.peak)

    def described(self, price: float) -> dict[str, Any]:
        """Plain values for JSON; `price` is in dollars per GPU-hour."""
        return {
            "recipe": self.recipe.name,
            "gpu": self.accelerator.name,
            "gpus": self.layout.gpus,
            "parameters": self.parameters,
            "layout": asdict(self.layout),
            "parallel": str(self.layout),
            "steps": [step.described() for step in self.steps],
            "num_steps": self.recipe.steps,
            "mfu": self.mfu,
            "hours": self.hours,
            "gpu_hours": self.gpu_hours,
            "mean_gpu_hours": self.mean_gpu_hours,
            "model_flops": self.recipe.steps * self.longest.model_flops,
            "cost": self.gpu_hours * price,
        }
