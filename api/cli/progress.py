"""Progress of a run: bars on stderr for people, JSON lines for the service that started it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LABELS = {
    "identify": "reading footage",
    "measure": "shots, filters, pictures",
    "decide": "deciding",
    "commit": "writing the manifest",
    "cut": "cutting clips",
}


STAGES = {"early_seconds": "the cheap rungs", "decode_seconds": "decoding", "model_seconds": "models"}


def status_line(progress: Any) -> str:
    """What came out so far; and, while footage is measured, which stage is the limit and why the others wait for it."""
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in progress.counts.items() if number)
    costs = {name: progress.costs.get(name, 0.0) for name in STAGES}
    total = sum(costs.values())
    if not total:
        return counts
    limit = max(costs, key=lambda name: costs[name])
    others = ", ".join(f"{STAGES[n]} {v / total:.0%}" for n, v in costs.items() if n != limit and v / total >= 0.01)
    cores = f"{progress.costs['workers']:.0f} core{'s' if progress.costs['workers'] > 1 else ''}"
    return (
        f"{counts}; limit: {STAGES[limit]} {costs[limit] / total:.0%} ({others or 'nothing else'} on the same {cores}), "
        f"{total / max(progress.costs['duration_seconds'], 1e-9):.2f} CPU s per second of video, "
        f"{progress.costs['peak_bytes'] / 2**20:.0f} MiB a worker"
    )


def tell_service(stage: str, done: int, total: int, seconds: float, **more: Any) -> None:
    """A line for the service that started this command, if one did."""
    from api.settings import progress_file

    if file := progress_file():
        with open(file, "a") as lines:
            lines.write(json.dumps({"stage": stage, "done": done, "total": total, "seconds": seconds, **more}) + "\n")


class CurationProgress:
    """Receives curation.pipeline.Progress; a bar a stage when stderr is a terminal, a line a report when a file is named."""

    def __init__(self, file: Path | None = None, quiet: bool = False):
        self.file = file
        self.bars = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> "CurationProgress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def __call__(self, progress: Any) -> None:
        if self.file is not None:
            with self.file.open("a") as lines:
                lines.write(json.dumps(asdict(progress)) + "\n")
        if progress.stage == "start":
            if not self.bars.disable:
                need = progress.costs["bytes_needed"] / 2**30
                words = f"{progress.costs['workers']:.0f} workers, which need at most {need:.1f} GiB of memory with all beside them"
                self.bars.console.print(words, highlight=False)
            return
        if progress.stage not in self.tasks:
            label = LABELS.get(progress.stage, progress.stage)
            self.tasks[progress.stage] = self.bars.add_task(label, total=max(1, progress.total), note="")
        note = status_line(progress) if progress.stage in ("measure", "cut") else ""
        done = progress.done if progress.total else 1
        self.bars.update(self.tasks[progress.stage], completed=done, total=max(1, progress.total), note=note)
