"""Know before you pay: which mesh, recomputation and micro-batches a recipe takes on so many GPUs, how long and how dear."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

from models.memory import RECOMPUTE, Recompute
from training.accelerators import ACCELERATORS, GIB, Accelerator
from training.costs import STATE, AutoencoderCosts, Costs, Layout, TransformerCosts, largest_micro_batch
from training.data.buckets import Bucket
from training.recipes import STAGES, TAE_RECIPES, TAERecipe, VideoRecipe, load_tae_recipe, load_video_recipe

MOST_GPUS = 1 << 15  # where the search for a number of GPUs that would do ends


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
            "steps": [step.described() for step in self.steps],
            "num_steps": self.recipe.steps,
            "mfu": self.mfu,
            "hours": self.hours,
            "gpu_hours": self.gpu_hours,
            "mean_gpu_hours": self.mean_gpu_hours,
            "model_flops": self.recipe.steps * self.longest.model_flops,
            "cost": self.gpu_hours * price,
        }


def plan_recipes(
    recipe: str | None,
    stages: str | None,
    gpus: int,
    gpu: str,
    *,
    text_tokens: int = 128,
    cp: int | None = None,
    tp: int | None = None,
    recompute: str | None = None,
) -> list[StagePlan]:
    """Plans of one recipe (a name or a file) or of a whole chain ("paper", "demo"); ValueError says what is wrong."""
    if (recipe is None) == (stages is None):
        raise ValueError("say what to plan: either --recipe NAME_OR_FILE or --stages paper")
    for name, value, known in (
        ("--gpu", gpu, ACCELERATORS),
        ("--recompute", recompute, RECOMPUTE),
        ("--stages", stages, STAGES),
    ):
        if value is not None and value not in known:
            raise ValueError(f"{name} {value} is not one of {', '.join(known)}")
    recipes = [stage() for stage in STAGES[stages]] if stages else [_recipe(recipe or "")]
    return [
        plan_stage(each, ACCELERATORS[gpu], gpus, text_tokens=text_tokens, cp=cp, tp=tp, recompute=cast(Any, recompute))
        for each in recipes
    ]


def _recipe(name_or_file: str) -> TAERecipe | VideoRecipe:
    if name_or_file in TAE_RECIPES:
        return load_tae_recipe(name_or_file)
    try:
        return load_video_recipe(name_or_file)
    except ValueError as error:
        try:
            return load_tae_recipe(name_or_file)
        except ValueError:
            raise error from None


class DoesNotFit(ValueError):
    """No choice holds the recipe in memory; the message says which knob helps."""


def plan_stage(
    recipe: TAERecipe | VideoRecipe,
    accelerator: Accelerator,
    gpus: int,
    *,
    text_tokens: int = 128,
    cp: int | None = None,
    tp: int | None = None,
    recompute: Recompute | None = None,
) -> StagePlan:
    """The fastest layout on at most `gpus` GPUs that holds every bucket, and of equally fast ones the smallest.

    `text_tokens` is the padded length of each encoder's text; cp, tp and recompute are searched where None. Raises
    DoesNotFit, or ValueError for a number of GPUs or a split that cannot be.
    """
    if gpus < 1:
        raise ValueError(f"{gpus} GPUs train nothing; ask for at least one")
    search = _Search(recipe, accelerator, text_tokens)
    layouts = list(search.layouts(gpus, cp, tp, recompute))
    if not layouts:
        raise ValueError(search.impossible(gpus, cp, tp))
    fitting = [(layout, steps) for layout in layouts if (steps := search.steps(layout))]
    if not fitting:
        raise DoesNotFit(search.knob(layouts, gpus, cp, tp, recompute))
    layout, steps = min(fitting, key=lambda found: (round(found[1][0].seconds, 9), found[0].gpus))
    return StagePlan(
        recipe=recipe, accelerator=accelerator, parameters=search.costs.parameters, layout=layout, steps=steps
    )


class _Search:
    def __init__(self, recipe: TAERecipe | VideoRecipe, accelerator: Accelerator, text_tokens: int):
        self.recipe, self.device, self.text_tokens = recipe, accelerator, text_tokens
        size = 2 if recipe.autocast else 4  # bytes of the compute type
        self.costs: Costs = (
            TransformerCosts(recipe.model, accelerator, text_tokens, size)
            if isinstance(recipe, VideoRecipe)
            else AutoencoderCosts(recipe.model, accelerator, size)
        )
        shapes = sorted(recipe.buckets.buckets(), key=_most_tokens)
        self.images = [b for b in shapes if b.frames == 1]
        self.videos = list({b.tokens: b for b in shapes if b.frames > 1}.values())  # equal tokens cost the same

    def layouts(self, gpus: int, cp: int | None, tp: int | None, recompute: Recompute | None) -> Iterator[Layout]:
        """Every layout on up to `gpus` GPUs worth a look; whole nodes where there are several."""
        node, batch = self.device.per_node, self.recipe.batch
        for c, t in itertools.product((1, 2, 4, 8, 16), (1, 2, 4, 8)):
            if cp not in (None, c) or tp not in (None, t):
                continue
            most = gpus // (c * t)
            groups = {most >> k for k in range(most.bit_length())}
            groups |= {_smallest(batch.videos or batch.images, n) for n in groups}
            for n in sorted(groups):
                if n * c * t > node and n * c * t % node:
                    n = -(-n * c * t // node) * node // (c * t)
                if n * c * t <= gpus:
                    shapes = [*self.videos, *self.images]
                    found = self.costs.layouts(n, c, t, shapes)
                    yield from (layout for layout in found if recompute in (None, layout.recompute))

    def steps(self, layout: Layout) -> tuple[Step, ...]:
        """A step of each shape, most tokens first; none where one does not fit."""
        steps = []
        for bucket in self.videos if self.recipe.batch.videos else self.images[:1]:
            if (step := self.step(layout, bucket)) is None:
                return ()
            steps.append(step)
        return tuple(steps)

    def step(self, layout: Layout, bucket: Bucket) -> Step | None:
        """A global batch of this shape's videos and the recipe's images, or None where a single sample does not fit."""
        costs, batch = self.costs, self.recipe.batch
        parts = [(bucket, batch.videos)] if batch.videos else []
        kinds = min(len(self.images), batch.images)  # a batch's images are of all sizes
        parts += [(self.images[k], batch.images // kinds + (k < batch.images % kinds)) for k in range(kinds)]
        model = executed = passes = 0
        seconds, micro = costs.update_seconds(layout), {}
        for shape, samples in parts:
            if not (most := largest_micro_batch(costs, layout, shape)):
                return None
            share = -(-samples // layout.groups)  # of each group; the last ones may run samples of no weight
            times = -(-share // most)
            micro[shape] = -(-share // times)
            work = costs.work(layout, shape, micro[shape])
            model += samples * costs.model_flops(shape)
            executed += times * layout.groups * work.executed_flops
            seconds += times * work.seconds
            passes += times
        memory = max((costs.memory(layout, *part) for part in micro.items()), key=lambda parts: sum(parts.values()))
        return Step(
            bucket=bucket,
            micro_batches=micro,
            micro_steps=passes,
            memory=memory,
            model_flops=model,
            executed_flops=executed,
            seconds=seconds,
        )

    def impossible(self, gpus: int, cp: int | None, tp: int | None) -> str:
        """Why there is no layout at all."""
        recipe = self.recipe
        asked = ", ".join(f"{name} {n}" for name, n in (("cp", cp), ("tp", tp)) if n)
        start = f"{recipe.name} does not split over {gpus} GPUs with {asked}"
        if isinstance(recipe, TAERecipe):
            return f"{start}: an autoencoder is whole on every GPU; leave out --cp, --tp and --recompute"
        tokens = ", ".join(str(n) for n in sorted({b.tokens for b in [*self.videos, *self.images]}))
        return (
            f"{start}: cp x tp is at most the number of GPUs, cp a power of 2 up to 16, tp one up to 8 that divides "
            f"{recipe.model.heads} heads and a feed-forward of {recipe.model.ffn_width}; together they divide the tokens of every bucket, "
            f"images too ({tokens})"
        )

    def knob(
        self, layouts: list[Layout], gpus: int, cp: int | None, tp: int | None, recompute: Recompute | None
    ) -> str:
        """The least that any layout holds, and the first change that makes it fit."""
        longest = (self.videos if self.recipe.batch.videos else self.images)[0]
        layout = min(layouts, key=lambda layout: sum(self.costs.memory(layout, longest, 1).values()))
        parts = self.costs.memory(layout, longest, 1)
        state = sum(parts[name] for name in STATE)
        what = "weights, gradients, optimizer and average" if state > sum(parts.values()) / 2 else "activations"
        return (
            f"{self.recipe.name} does not fit on {gpus} x {self.device.name}: one sample of {longest.name} holds at least "
            f"{sum(parts.values()) / GIB:,.0f} GiB a GPU ({layout}, recompute {layout.recompute}), {self.costs.budget / GIB:,.0f} are usable; "
            f"most of it is {what}. {self._help(gpus, cp, tp, recompute)}"
        )

    def _help(self, gpus: int, cp: int | None, tp: int | None, recompute: Recompute | None) -> str:
        for mode in RECOMPUTE:
            if recompute not in (None, mode) and self._fits(gpus, cp, tp, mode):
                return f"It fits with --recompute {mode}"
        if (cp or tp) and self._fits(gpus, None, None, None):
            layout = next(layout for layout in self.layouts(gpus, None, None, None) if self.steps(layout))
            return f"It fits with --cp {layout.cp} --tp {layout.tp} --recompute {layout.recompute}"
        more = 2 * gpus
        while more <= MOST_GPUS and not self._fits(more, cp, tp, recompute):
            more *= 2
        if more <= MOST_GPUS:
            return f"It fits with --gpus {more}"
        for other in ACCELERATORS.values():
            if other.memory > self.device.memory:
                search = _Search(self.recipe, other, self.text_tokens)
                if any(search.steps(layout) for layout in search.layouts(gpus, cp, tp, recompute)):
                    return f"It fits with --gpu {other.name}"
        return "No number of GPUs helps; choose a smaller model or smaller buckets in a recipe file"

    def _fits(self, gpus: int, cp: int | None, tp: int | None, recompute: Recompute | None) -> bool:
        return any(self.steps(layout) for layout in self.layouts(gpus, cp, tp, recompute))


def _most_tokens(bucket: Bucket) -> int:
    return -bucket.tokens


def _smallest(samples: int, groups: int) -> int:
    """The fewest groups that compute as many samples each as so many would."""
    return -(-samples // -(-samples // groups))
