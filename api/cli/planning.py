"""What `cinemill train plan` prints: tables of memory, time and cost before a run."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from training.accelerators import GIB, PRICE, SOURCES
from training.stage_plan import StagePlan, Step

WIDTH = 132  # of a table where the output is no terminal


def print_plan(plan: StagePlan, price: float, gpus: int) -> None:
    """One recipe: what is chosen, memory by part, every bucket, and what the stage costs."""
    console, layout, step = _console(), plan.layout, plan.longest
    console.print(
        f"{plan.recipe.name}: {_parameters(plan)} parameters on {layout.gpus:,} of {gpus:,} {plan.accelerator.name} GPUs"
    )
    console.print(f"parallel: {layout}; MFU {plan.mfu:.1%} in {step.bucket.name}")

    memory = Table("GiB on each GPU", "", title=None, box=None, pad_edge=False)
    memory.columns[1].justify = "right"
    for name, size in step.memory.items():
        memory.add_row(name, _digits(size / GIB))
    memory.add_row("together", _digits(step.bytes / GIB), style="bold")
    memory.add_row("the GPU has", f"{plan.accelerator.memory / GIB:.0f}")
    console.print(memory)

    buckets = _table(
        "batch of", "tokens", "at once", "micro-steps", "GiB", "model PFLOP", "executed PFLOP", "seconds", "MFU"
    )
    for each in plan.steps:
        rate = each.model_flops / each.seconds / (layout.gpus * plan.accelerator.peak)
        buckets.add_row(
            each.bucket.name, f"{each.bucket.tokens:,}", str(each.micro_batches[each.bucket]), f"{each.micro_steps:,}",
            _digits(each.bytes / GIB), _digits(each.model_flops / 1e15), _digits(each.executed_flops / 1e15),
            _digits(each.seconds), f"{rate:.1%}",
        )  # fmt: skip
    console.print(buckets)
    images = {b.name: n for b, n in step.micro_batches.items() if b.frames == 1 and b != step.bucket}
    if images:
        console.print("images at once: " + ", ".join(f"{name} {size}" for name, size in images.items()))
    console.print(
        f"{plan.recipe.steps:,} steps: {_digits(plan.hours)} hours, {_digits(plan.gpu_hours)} GPU-hours, ${_digits(plan.gpu_hours * price)} "
        f"if every batch is of the longest shape; {_digits(plan.mean_gpu_hours)} GPU-hours if all shapes are equally frequent"
    )


def print_chain(plans: Sequence[StagePlan], price: float) -> None:
    """A chain of stages, one line each, and the totals."""
    table = _table(
        "stage", "GPUs", "dp x cp x tp", "recompute", "at once", "GiB", "s/step", "steps", "MFU", "model FLOP", "GPU-hours", "mean", "$"
    )  # fmt: skip
    for plan in plans:
        layout, step = plan.layout, plan.longest
        table.add_row(
            plan.recipe.name, f"{layout.gpus:,}", f"{layout.groups} x {layout.cp} x {layout.tp}", layout.recompute,
            str(_at_once(step)), _digits(step.bytes / GIB), _digits(step.seconds), f"{plan.recipe.steps:,}", f"{plan.mfu:.0%}",
            f"{plan.recipe.steps * step.model_flops:.1e}", _digits(plan.gpu_hours), _digits(plan.mean_gpu_hours),
            _digits(plan.gpu_hours * price),
        )  # fmt: skip
    hours = sum(plan.gpu_hours for plan in plans)
    table.add_row(
        "together", *[""] * 8, f"{sum(p.recipe.steps * p.longest.model_flops for p in plans):.1e}", _digits(hours),
        _digits(sum(plan.mean_gpu_hours for plan in plans)), _digits(hours * price), style="bold",
    )  # fmt: skip
    console = _console()
    console.print(table)
    console.print(
        "GPU-hours if every batch is of the longest shape (as the paper's own estimate counts); mean: if all shapes are equally frequent"
    )


def print_sources(price: float) -> None:
    """Where the rates are from."""
    console = _console()
    console.print("Estimates: kernels at published rates, none of them measured by this project.", style="dim")
    for name, source in SOURCES.items():
        said = f"{price:g} dollars per GPU-hour, as given" if name == "price" and price != PRICE else source
        console.print(f"  {name}: {said}", style="dim")


def _digits(value: float) -> str:
    """Whole above a hundred, else three significant digits."""
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _parameters(plan: StagePlan) -> str:
    return f"{plan.parameters / 1e9:.2f} B" if plan.parameters > 1e8 else f"{plan.parameters / 1e6:.2f} M"


def _at_once(step: Step) -> int:
    return step.micro_batches[step.bucket]


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=WIDTH)


def _table(*columns: str) -> Table:
    table = Table(*columns[:1], box=None, pad_edge=False)
    for column in columns[1:]:
        table.add_column(column, justify="right")
    return table
