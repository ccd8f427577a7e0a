"""Know before you pay: which mesh, recomputation and micro-batches a recipe takes on so many GPUs, how long and how dear."""

import itertools
from collections.abc import Iterator
from typing import Any, cast

from models.memory import RECOMPUTE, Recompute
from training.accelerators import ACCELERATORS, GIB, Accelerator
from training.costs import STATE, AutoencoderCosts, Costs, Layout, TransformerCosts, largest_micro_batch
from training.data.buckets import Bucket
from training.recipes import STAGES, TAE_RECIPES, TAERecipe, VideoRecipe, load_tae_recipe, load_video_recipe
from training.stage_plan import StagePlan, Step

MOST_GPUS = 1 << 15  # where the search for a number of GPUs that would do ends


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
    if (layout := search.best(layouts)) is None:
        raise DoesNotFit(search.knob(layouts, gpus, cp, tp, recompute))
    return StagePlan(
        recipe=recipe,
        accelerator=accelerator,
        parameters=search.costs.parameters,
        layout=layout,
        steps=tuple(step for shape in search.shapes if (step := search.step(layout, shape))),
    )


def check_layout(
    recipe: TAERecipe | VideoRecipe, accelerator: Accelerator, layout: Layout, *, text_tokens: int = 128
) -> None:
    """Raise DoesNotFit where the recipe's own micro-batches do not fit on GPUs laid out so; touches no device."""
    search = _Search(recipe, accelerator, text_tokens)
    for shape, samples in search.parts(search.shapes[0]):
        share = -(-samples // layout.groups)
        size = min(share, recipe.micro_batch or share)
        held = sum(search.costs.memory(layout, shape, size).values())
        if held > search.costs.budget:
            most = largest_micro_batch(search.costs, layout, shape)
            how = f"`cinemill train plan --recipe {recipe.name} --gpus {layout.gpus}` looks for a layout that fits"
            raise DoesNotFit(
                f"{recipe.name} does not fit: {size} x {shape.name} at once hold {held / GIB:,.1f} GiB a GPU ({layout}), "
                f"{search.costs.budget / GIB:,.1f} are usable; {f'set micro_batch: {most}' if most else how}"
            )


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
        self.shapes = self.videos if recipe.batch.videos else self.images[:1]  # of a batch, most tokens first

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
                if n * c * t <= gpus and n <= max(batch.videos, batch.images):  # nobody without a sample
                    shapes = [*self.videos, *self.images]
                    found = self.costs.layouts(n, c, t, shapes)
                    yield from (layout for layout in found if recompute in (None, layout.recompute))

    def best(self, layouts: list[Layout]) -> Layout | None:
        """The shortest step of the most tokens, which is also the one that holds most; None where it fits nowhere."""
        times = [(step.seconds, layout) for layout in layouts if (step := self.step(layout, self.shapes[0]))]
        return min(times, key=lambda found: (round(found[0], 9), found[1].gpus))[1] if times else None

    def parts(self, bucket: Bucket) -> list[tuple[Bucket, int]]:
        """Shapes and numbers of samples of a batch whose videos have this shape; its images are of all sizes."""
        batch, kinds = self.recipe.batch, min(len(self.images), self.recipe.batch.images)
        images = [(self.images[k], batch.images // kinds + (k < batch.images % kinds)) for k in range(kinds)]
        return [(bucket, batch.videos), *images] if batch.videos else images

    def step(self, layout: Layout, bucket: Bucket) -> Step | None:
        """A global batch of this shape's videos and the recipe's images, or None where a single sample does not fit."""
        costs, micro = self.costs, {}
        model = executed = passes = 0
        seconds = costs.update_seconds(layout)
        for shape, samples in self.parts(bucket):
            if not (most := largest_micro_batch(costs, layout, shape)):
                return None
            share = -(-samples // layout.groups)  # of each group; the last ones may run samples of no weight
            times = -(-share // most)
            micro[shape] = -(-share // times)
            model += samples * costs.model_flops(shape)
            whole, rest = divmod(share, micro[shape])  # the last micro-batch is smaller, as the loader cuts it
            for number, size in ((whole, micro[shape]), (1, rest)):
                if number and size:
                    work = costs.work(layout, shape, size)
                    executed += number * layout.groups * work.executed_flops
                    seconds += number * work.seconds
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
        longest = self.shapes[0]
        layout = min(layouts, key=lambda layout: sum(self.costs.memory(layout, longest, 1).values()))
        parts = self.costs.memory(layout, longest, 1)
        state = sum(parts[name] for name in STATE)
        what = "weights, gradients, optimizer and average" if state > sum(parts.values()) / 2 else "activations"
        return (
            f"{self.recipe.name} does not fit on {gpus} x {self.device.name}: one sample of {longest.name} holds at least "
            f"{sum(parts.values()) / GIB:,.0f} GiB a GPU ({layout}), {self.costs.budget / GIB:,.0f} are usable; "
            f"most of it is {what}. {self._help(gpus, cp, tp, recompute)}"
        )

    def _help(self, gpus: int, cp: int | None, tp: int | None, recompute: Recompute | None) -> str:
        if recompute and (layout := self.best(list(self.layouts(gpus, cp, tp, None)))):
            return f"It fits with --recompute {layout.recompute}"
        if (cp or tp) and (layout := self.best(list(self.layouts(gpus, None, None, None)))):
            return f"It fits with --cp {layout.cp} --tp {layout.tp} --recompute {layout.recompute}"
        larger = [other for other in ACCELERATORS.values() if other.memory > self.device.memory]
        for other in larger:
            search = _Search(self.recipe, other, self.text_tokens)
            if search.best(list(search.layouts(gpus, cp, tp, recompute))):
                return f"It fits with --gpu {other.name}"
        more = 2 * gpus
        while more <= MOST_GPUS:
            if self.best(list(self.layouts(more, cp, tp, recompute))):
                return f"It fits with --gpus {more}"
            more *= 2
        return "No number of GPUs helps; choose a smaller model or smaller buckets in a recipe file"


def _most_tokens(bucket: Bucket) -> int:
    return -bucket.tokens


def _smallest(samples: int, groups: int) -> int:
    """The fewest groups that compute as many samples each as so many would."""
    return -(-samples // -(-samples // groups))
