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
        if progress.stage not in self.tasks:
            label = LABELS.get(progress.stage, progress.stage)
            self.tasks[progress.stage] = self.bars.add_task(label, total=max(1, progress.total), note="")
        note = ", ".join(f"{n} {name}" for name, n in progress.counts.items() if progress.stage in ("measure", "cut"))
        done = progress.done if progress.total else 1
        self.bars.update(self.tasks[progress.stage], completed=done, total=max(1, progress.total), note=note)
