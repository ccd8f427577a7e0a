"""What commands of training and generation have in common: their words for a wrong call, their bars, their reports."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from api.cli.progress import tell_service
from curation.clips.errors import WrongCall

if TYPE_CHECKING:
    from training.cluster import Progress

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # before torch loads; see training.cluster.WORKER_ENVIRONMENT

Manifest = Annotated[
    str,
    typer.Option(
        help="A lake; with #DATASET for one of several, @NUMBER for one snapshot.", metavar="URI[#DATASET][@NUMBER]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]


class said_plainly(contextlib.AbstractContextManager):
    """Inside, a ValueError is the caller's: it becomes one line on stderr and exit code 2."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError) and not isinstance(error, WrongCall):
            raise WrongCall(str(error)) from error


def run_shown(go: "Callable[[Callable[[Progress], None]], Path]", quiet: bool) -> Path:
    """Train with a bar; a worker's failure is told in its own words."""
    from training.cluster import RunFailed

    try:
        with bars_on_stderr(quiet) as bars, said_plainly():
            return go(PhaseBars(bars))
    except RunFailed as error:
        print(f"cinemill: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(1) from None


LABELS = {
    "starting": "starting workers",
    "encoding": "clips to latents",
    "training": "training",
    "evaluating": "evaluating",
}


def progress_note(progress: "Progress") -> str:
    """Loss, speed, MFU where the device's peak is known, and the time left: what stands behind the bar."""
    numbers = progress.numbers
    if "loss" not in numbers:
        return ""
    words = [f"loss {numbers['loss']:.4f}"]
    for unit in ("tokens", "frames"):
        if rate := numbers.get(f"{unit}_per_second"):
            words.append(f"{rate:,.0f} {unit}/s")
    if "mfu" in numbers:
        words.append(f"MFU {100 * numbers['mfu']:.0f} %")
    if progress.phase == "training" and numbers.get("steps_per_second"):
        left = timedelta(seconds=round((progress.total - progress.done) / numbers["steps_per_second"]))
        words.append(f"ETA {left}")
    return "  ".join(words)


class PhaseBars:
    """Receives training.cluster.Progress; one bar a phase."""

    def __init__(self, bars: Bars):
        self.bars = bars
        self.tasks: dict[str, Any] = {}
        self.started = time.monotonic()
        self.told = ("", -1)

    def __call__(self, progress: "Progress") -> None:
        if self.told != (progress.phase, progress.done):  # it is called several times a second
            self.told = (progress.phase, progress.done)
            seconds = time.monotonic() - self.started
            tell_service(*self.told, progress.total, seconds, numbers=progress.numbers, costs=progress.costs)
        if progress.phase not in self.tasks:
            total = progress.total if progress.phase in ("encoding", "training") else None
            self.tasks[progress.phase] = self.bars.add_task(LABELS[progress.phase], total=total, note="")
        note = progress_note(progress)
        self.bars.update(self.tasks[progress.phase], completed=progress.done, note=note)
        for phase, task in self.tasks.items():
            if phase != progress.phase and not self.bars.tasks[task].finished:
                total = self.bars.tasks[task].total or 1
                self.bars.update(task, total=total, completed=total)


@contextlib.contextmanager
def bars_on_stderr(quiet: bool) -> Iterator[Bars]:
    """Progress bars, where stderr is a terminal."""
    bars = Bars(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
    )
    with bars:
        yield bars


def print_flow(report: dict[str, Any]) -> None:
    """Losses by split beside the bars they are measured against, and samples beside their clips."""
    for split, values in report["summary"].items():
        bars = ", ".join(
            f"{words} {values[name]:.4f}"
            for name, words in (
                ("gaussian_loss", "best Gaussian denoiser of whole clips"),
                ("gaussian_loss_per_position", "of single places"),
                ("mean_velocity_loss", "mean velocity"),
            )
            if name in values
        )
        print(f"  {values['clips']} {split} clips: flow loss {values['loss']:.4f} ({bars})")
    for made in report.get("samples", ()):
        other = "" if made["psnr_other"] is None else f", best other clip {made['psnr_other']:.1f} dB"
        print(
            f"  sample of {made['clip_id'][:8]}: {made['psnr']:.1f} dB to its clip "
            f"(reconstruction: {made['psnr_reconstruction']:.1f} dB){other}"
        )
    print_note(report)


def print_note(report: dict[str, Any]) -> None:
    """What the report wants to be known of it."""
    if report.get("note"):
        print(f"  note: {report['note']}")
