"""Training runs below the output folders, as their own files tell of them. Loads no torch, which the service does without."""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from api.pages import plain
from training.lock import check_free
from training.metrics import MetricsTail, read_metrics

DEPTH = 4  # folders below an output folder that are looked through for runs; none inside of a run
TAIL = 1 << 18  # bytes of a log's end that tell how far a run is
MOST_DESCRIPTION = 1 << 24  # bytes of run.json
PICTURES = ("grid", "reconstructions", "samples")  # what training draws and its evaluation writes: stills and videos
SUFFIXES = (".png", ".mp4")
State = Literal["running", "finished", "interrupted"]
Line = Mapping[str, Any]


class BadPlace(ValueError):
    """A cursor that is not of this list."""


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """A folder with a run.json. path: below its output folder; described: what run.json says."""

    id: str
    path: str
    folder: Path
    created_at: datetime
    described: dict[str, Any]

    def lines(self) -> list[dict[str, Any]]:
        """Its log as every reader of ours has it; nothing where it cannot be read."""
        try:
            return [] if (self.folder / "metrics.jsonl").is_symlink() else read_metrics(self.folder)
        except OSError:
            return []

    def last_lines(self) -> list[dict[str, Any]]:
        """The end of its log."""
        log = self.folder / "metrics.jsonl"
        try:
            if log.is_symlink():
                return []
            tail = MetricsTail(self.folder, from_end=False)
            tail.offset = max(0, log.stat().st_size - TAIL)
            return tail.new()
        except OSError:
            return []


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture or video that a run made. step: of training, for those drawn while it went on."""

    id: str
    path: str
    file: Path
    step: int | None
    bytes: int


@dataclass(frozen=True, kw_only=True)
class KeptCheckpoint:
    """A checkpoint that the log tells of. is_there: it is whole; None: it is in a bucket, which is not asked here."""

    step: int
    bytes: float | None
    seconds: float | None
    blocked_seconds: float | None
    written_at: datetime | None
    is_there: bool | None


def find_runs(roots: Sequence[Path]) -> list[FoundRun]:
    """All runs, the newest first. A folder whose run.json says nothing is none; links are not followed."""
    found: dict[Path, FoundRun] = {}
    for root in roots:
        for folder in _folders(root, DEPTH):
            if (run := _read_run(root, folder)) is not None:
                found.setdefault(folder, run)
    return sorted(found.values(), key=lambda run: (run.created_at, run.id), reverse=True)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError:
        return
    if any(entry.name == "run.json" and entry.is_file(follow_symlinks=False) for entry in entries):
        yield folder
    elif depth:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _folders(folder / entry.name, depth - 1)


def _read_run(root: Path, folder: Path) -> FoundRun | None:
    file = folder / "run.json"
    try:
        status = file.stat()
        described = json.loads(file.read_bytes()) if status.st_size <= MOST_DESCRIPTION else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(described, dict) or not isinstance(described.get("recipe"), dict):
        return None
    path = "." if folder == root else str(folder.relative_to(root))
    identity = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]  # two output folders may hold the same path
    return FoundRun(
        id=identity, path=clean(path), folder=folder, created_at=datetime.fromtimestamp(status.st_mtime, UTC),
        described=clean(described),
    )  # fmt: skip


def state_of(run: FoundRun, lines: Sequence[Line]) -> State:
    """Running while a process holds the run's folder; finished when its log's last word is that."""
    try:
        check_free(run.folder)
    except ValueError:
        return "running"
    except OSError:
        pass  # a lock that this service may not try: the log alone tells
    return "finished" if lines and lines[-1]["event"] == "finished" else "interrupted"


def step_of(lines: Sequence[Line]) -> int | None:
    """The step that the log has come to."""
    return next(
        (line.get("step", line.get("at_step")) for line in reversed(lines) if {"step", "at_step"} & set(line)), None
    )


def moment(line: Line) -> datetime | None:
    """When a line was written."""
    time = number(line, "time")
    return None if time is None or not 0 <= time < 2**33 else datetime.fromtimestamp(time, UTC)


def number(line: Line, name: str) -> float | None:
    """A finite number of a line."""
    value = line.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def numbers(line: Line) -> dict[str, float]:
    """All its finite numbers but step and time."""
    told = {name: number(line, name) for name in line if name not in ("step", "time", "at_step") and name.isascii()}
    return {name: value for name, value in told.items() if value is not None}


def checkpoints(run: FoundRun, lines: Sequence[Line]) -> list[KeptCheckpoint]:
    """Those still there, oldest first, as the log told of them."""
    place = run.described.get("checkpoints") or str(run.folder / "checkpoints")
    place = place.removeprefix("file://") if isinstance(place, str) else ""
    told = {line["at_step"]: line for line in lines if line["event"] == "checkpoint"}
    kept = [
        KeptCheckpoint(
            step=step, bytes=number(line, "bytes"), seconds=number(line, "seconds"),
            blocked_seconds=number(line, "blocked_seconds"), written_at=moment(line),
            is_there=None if "://" in place else Path(place, f"step-{step:08d}", "COMMIT").is_file(),
        )
        for step, line in sorted(told.items())
    ]  # fmt: skip
    return [checkpoint for checkpoint in kept if checkpoint.is_there is not False]


def metrics(
    lines: Sequence[Line], event: str, names: Sequence[str] | None, after: int, limit: int
) -> tuple[pa.Table, list[str], int | None]:
    """Numbers by step: `step` int64, `time` (seconds since 1970) and one float64 column a name, null where none was logged.

    Also all names there are, and the step to go on after (None: these were the last).
    """
    rows = sorted((line for line in lines if line["event"] == event and "step" in line), key=lambda line: line["step"])
    told = {line["step"]: numbers(line) for line in rows}
    known = sorted({name for each in told.values() for name in each})
    rows = [line for line in rows if line["step"] > after]
    shown = rows[:limit]
    columns: dict[str, pa.Array] = {
        "step": pa.array([line["step"] for line in shown], pa.int64()),
        "time": pa.array([number(line, "time") for line in shown], pa.float64()),
    }
    for name in known if names is None else dict.fromkeys(names):
        columns.setdefault(name, pa.array([told[line["step"]].get(name) for line in shown], pa.float64()))
    return pa.table(columns), known, shown[-1]["step"] if len(shown) < len(rows) else None


def samples(run: FoundRun) -> list[Sample]:
    """Pictures and videos, by folder, step and name. Nothing outside of the run: links are not followed."""
    found = []
    for top in (run.folder / name for name in PICTURES if not (run.folder / name).is_symlink()):
        for base, _, names in os.walk(top):
            for file in (Path(base, name) for name in names):
                with contextlib.suppress(OSError):  # gone since it was listed
                    if file.suffix in SUFFIXES and stat.S_ISREG((status := file.lstat()).st_mode):
                        found.append(_sample(str(file.relative_to(run.folder)), file, status.st_size))
    return sorted(found, key=lambda sample: (sample.path.partition("/")[0], sample.step or 0, sample.path))


def _sample(path: str, file: Path, size: int) -> Sample:
    step = re.match(r"grid/step-([0-9]{1,18})/", path)
    identity = hashlib.sha256(os.fsencode(path)).hexdigest()[:16] + file.suffix
    return Sample(id=identity, path=clean(path), file=file, step=int(step[1]) if step else None, bytes=size)


def place_after(ids: Sequence[str], after: str | None) -> int:
    """Where the page after an id begins. Raises BadPlace."""
    if after is None:
        return 0
    if after not in ids:
        raise BadPlace("after= is not in this list any more; start again without it")
    return ids.index(after) + 1


def clean(value: Any) -> Any:
    """A value that any writer of JSON takes: no NaN, and text that is UTF-8."""
    return json.loads(json.dumps(plain(value), ensure_ascii=False).encode("utf-8", "replace"))
