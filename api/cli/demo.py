"""`cinemill demo`: the whole way from raw footage to a generated clip, on the clips that come with it."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from curation.clips.errors import WrongCall

if TYPE_CHECKING:
    from api.demo import Demo, Step

os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # before torch loads; see training.cluster.WORKER_ENVIRONMENT

MINUTES, MEMORY_GIB, DISK_GIB = 5, 6.0, 0.5  # on two cores
PLAN = """Cinemill demo: real clips in, a generated clip out.

  1  curate                 {samples} -> {out}/lake: shots, filters, copies, captions; every clip gets its reason
  2  train the autoencoder  -> {out}/tae: video to latents and back
  3  train the transformer  -> {out}/video: latents from noise and words
  4  generate a clip        -> {out}/generated.mp4
  5  write the report       -> {out}/report.html

About {minutes} minutes on 2 cores without a GPU, {memory:.0f} GiB of memory, {disk:.1f} GiB of disk. Nothing leaves this machine.
Here: {here}.
Ctrl-C stops it; the same command goes on where it was, and reuses what is there.
"""
PHASES = {
    "identify": "reading footage",
    "measure": "shots, filters, pictures",
    "decide": "deciding",
    "commit": "writing the manifest",
    "starting": "starting workers",
    "encoding": "clips to latents",
    "training": "training",
    "evaluating": "evaluating",
    "sampling": "sampling",
    "pictures": "pictures",
}


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for everything it makes.", metavar="FOLDER")] = Path("demo"),
    samples: Annotated[str, typer.Option(help="Footage: a folder, a video, or a list.", metavar="SOURCE")] = "samples",
    prompt: Annotated[
        str | None, typer.Option(help="What to generate; a caption of the data set by default.", metavar="TEXT")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Curation recipe: demo, or a .yaml/.toml file.")] = "demo",
    tae_recipe: Annotated[str, typer.Option(help="Autoencoder recipe, or a file.")] = "tae_demo",
    video_recipe: Annotated[str, typer.Option(help="Transformer recipe, or a file.")] = "video_demo",
) -> None:
    """The whole way on real clips: curate, train two small models, generate, and show all of it on one page."""
    from api.demo import DemoSettings, run_demo
    from curation.recipes import load_recipe
    from training.cluster import RunFailed
    from training.recipes import load_tae_recipe, load_video_recipe

    if prompt is not None and not prompt.strip():
        raise WrongCall("--prompt is empty; leave it out to use a caption of the data set")
    curation = load_recipe(recipe)
    try:
        tae, video = load_tae_recipe(tae_recipe), load_video_recipe(video_recipe)
    except ValueError as error:
        raise WrongCall(str(error)) from error
    settings = DemoSettings(samples=samples, out=out.absolute(), recipe=curation, tae=tae, video=video, prompt=prompt)
    print(PLAN.format(samples=samples, out=out, minutes=MINUTES, memory=MEMORY_GIB, disk=DISK_GIB, here=_machine(out)))
    sys.stdout.flush()
    try:
        with Shown(sys.stderr.isatty()) as shown:
            made = run_demo(settings, shown)
    except RunFailed as error:
        print(f"cinemill: {' '.join(str(error).split())}; the same command tries again", file=sys.stderr)
        raise typer.Exit(1) from None
    _summary(made, out)


def _machine(out: Path) -> str:
    """Cores, memory and disk of this machine, with a word where they are short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    if free < DISK_GIB:
        raise WrongCall(
            f"{free:.1f} GiB free at {place}; the demo needs {DISK_GIB} there. Free some, or choose another --out"
        )
    short = " (less than it wants: it may be slow or be stopped by the system)" if memory < MEMORY_GIB * 0.95 else ""
    slow = " (it will take longer)" if cores < 2 else ""
    return f"{cores} cores{slow}, {memory:.0f} GiB of memory{short}, {free:.0f} GiB of disk free"


class Shown:
    """Receives api.demo.Step: bars on stderr when it is a terminal, a line a stage anywhere."""

    def __init__(self, alive: bool) -> None:
        self.alive = alive
        self.bars = Progress(
            TextColumn("   {task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(stderr=True, highlight=False),
            disable=not self.alive,
        )
        self.tasks: dict[str, tuple[TaskID, int]] = {}  # by phase; how many units it counts
        self.stage = 0

    def __enter__(self) -> "Shown":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def __call__(self, step: "Step") -> None:
        if step.state == "runs":
            self._runs(step)
            return
        if step.state in ("begins", "reused"):
            self.stage += 1
            self._close()
        if step.state == "done":
            self._close()
            self._say(f"   done in {_minutes(step.seconds)}")
        else:
            self._say(f"{self.stage}  {step.stage}{': reused' if step.state == 'reused' else ''}")

    def _runs(self, step: "Step") -> None:
        known = step.total if step.phase != "starting" else 0
        if step.phase not in self.tasks:
            self._finish()
            self.tasks[step.phase] = self.bars.add_task(PHASES.get(step.phase, step.phase), total=None, note=""), known
        task, _ = self.tasks[step.phase]
        self.tasks[step.phase] = task, known
        self.bars.update(task, total=known or None, completed=step.done if known else 0, note=step.note)

    def _finish(self) -> None:
        """A phase that another one follows is full."""
        for task, known in self.tasks.values():
            self.bars.update(task, total=known or 1, completed=known or 1)

    def _close(self) -> None:
        """A finished stage leaves its line, not its bars."""
        for task, _ in self.tasks.values():
            self.bars.remove_task(task)
        self.tasks = {}

    def _say(self, line: str) -> None:
        if self.alive:
            self.bars.console.print(line, markup=False)
        else:
            print(line, flush=True)


def _summary(demo: "Demo", out: Path) -> None:
    """What was made, the figures, and what to do next."""
    counts = demo.snapshot.commit.counts
    print("\nWhat it made")
    for kind in ("videos", "clips"):
        print(
            f"  {kind:<12}{counts[f'{kind}_in']} in = {counts[f'{kind}_kept']} kept + {counts[f'{kind}_rejected']} rejected "
            f"+ {counts[f'{kind}_duplicate']} duplicate + {counts[f'{kind}_quarantined']} quarantined"
        )
    tae, flow = (json.loads((run / "evaluation.json").read_text()) for run in (demo.tae, demo.video))
    print("  autoencoder PSNR of each clip, beside the best linear transform of the same shape:")
    for clip in tae["clips"]:
        held_out = "" if clip["split"] == "train" else "   (held out)"
        print(
            f"    {Path(clip['uri']).name:<40}{clip['psnr']:6.1f} dB   linear {clip['psnr_linear']:5.1f} dB{held_out}"
        )
    for split, values in flow["summary"].items():
        print(f"  flow loss   {values['loss']:.3f} on {values['clips']} {split} clips{_bars(values)}")
    print(f'  prompt      "{demo.made.prompt}"')
    total = sum(demo.timings.values())
    said = (
        "everything was there" if len(demo.reused) == 5 else f"reused: {', '.join(demo.reused)}" if demo.reused else ""
    )
    print(f"  time        {_minutes(total)} of work{f' ({said})' if said else ''}\n")
    print("Where it is")
    for name, what in (
        ("report.html", "the page that shows it all: open it in a browser"),
        ("generated.mp4", "the generated clip"),
        ("lake", f"the manifest, snapshot {demo.snapshot.name}"),
        ("tae", "the autoencoder: final/, metrics, reconstructions"),
        ("video", "the transformer: final/, metrics, samples"),
    ):
        print(f"  {out / name!s:<30} {what}")
    print("\nNext")
    print(f"  cinemill serve --data {shlex.quote(str(out / 'lake'))}     the dashboard, on http://127.0.0.1:8000")


def _bars(values: dict[str, float]) -> str:
    """The Gaussian denoisers' losses on the same clips."""
    names = {"gaussian_loss_per_position": "place by place", "gaussian_loss": "knowing these whole clips"}
    known = [f"{values[name]:.3f} {words}" for name, words in names.items() if name in values]
    return f"   best Gaussian denoiser: {', '.join(known)}" if known else ""


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
