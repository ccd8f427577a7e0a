"""Did a job succeed? What it was to write says so: a snapshot, a finished run, a file. The exit status alone never does."""

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from api.commands import sources_list, unfinished
from api.counters import Counters, committed_counters
from api.requests import CurateRequest, RethresholdRequest, read_request
from api.schema import Job
from api.settings import Settings
from curation.clips import Commit, Lake
from curation.clips.storage import filesystem

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job that succeeded left. snapshot: the number of its commit. result: what else it has to say."""

    snapshot: int | None = None
    result: dict[str, Any] | None = None
    counters: Counters = field(default_factory=dict)


class Outcomes(Protocol):
    """What the runner asks about the things that jobs write."""

    def of(self, job: Job, status: int, said: dict[str, Any]) -> Outcome | None:
        """The outcome of work that is over, None if it failed. said: the JSON object it printed at its end, or {}."""
        ...


class WrittenOutcomes:
    """Looks into the lake and into the output folders."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def of(self, job: Job, status: int, said: dict[str, Any]) -> Outcome | None:
        by_kind: dict[str, Callable[[Job, Any, int, dict[str, Any]], Outcome | None]] = {
            "curate": self._commit, "rethreshold": self._commit, "train": _run, "generate": _video, "encode": _cache,
            "export": _export, "evaluate": _evaluation, "estimate": _estimate, "fetch": _fetched,
        }  # fmt: skip
        return by_kind[job.kind](job, read_request(job.kind, job.asked), status, said)

    def _commit(
        self, job: Job, asked: CurateRequest | RethresholdRequest, status: int, said: dict[str, Any]
    ) -> Outcome | None:
        """The commit that carries the job's name, in whichever attempt it was written; the newest where nothing was new."""
        if isinstance(asked, RethresholdRequest):
            self._forget_list(job)
            dataset: str | None = asked.into or asked.dataset
        else:  # a recipe's file names its data set inside
            dataset = asked.dataset or (asked.recipe if "/" not in asked.recipe else None)
        commits = self._commits(dataset)
        found = next((commit for commit in commits if commit.run == job.id), None)
        if found is None and status == 0 and commits:
            found = max(commits, key=lambda commit: commit.number)
        wants_files = isinstance(asked, CurateRequest) and asked.cut is not None
        if found is None or (
            wants_files and "cut" not in said
        ):  # files are cut after the commit; another attempt goes on
            return None
        lake = Lake(self.settings.data, self.settings.catalog)
        counters: Counters = {}
        if found.run == job.id:
            try:
                counters = committed_counters(lake.snapshot(found.dataset, found.number))
            except Exception:  # they are told beside the commit, and do not decide about it
                log.exception("job %s: no counters from %s@%s", job.id, found.dataset, found.number)
        return Outcome(
            snapshot=found.number,
            result={name: said[name] for name in ("cut",) if name in said} or None,
            counters=counters,
        )

    def _forget_list(self, job: Job) -> None:
        system, path = filesystem(sources_list(job, self.settings))
        with contextlib.suppress(OSError):
            system.delete_file(path)

    def _commits(self, dataset: str | None) -> list[Commit]:
        settings = self.settings
        return (
            Lake(settings.data, settings.catalog).commits(dataset)
            if Lake.exists(settings.data, settings.catalog)
            else []
        )


def _run(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    """final/ is put in place whole, last of all."""
    final = Path(asked.out, "final")
    if not (final / "config.json").is_file() or not (status == 0 or _since(final / "config.json", job)):
        return None
    return Outcome(result={"final": str(final)} | {name: said[name] for name in ("summary", "note") if name in said})


def _video(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    """The command says what it made only after the file is closed."""
    out = Path(asked.out)
    return (
        Outcome(result=said) if said.get("path") and out.is_file() and out.stat().st_size and _since(out, job) else None
    )


def _cache(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    if not said.get("cache") or not Path(asked.out).is_dir():
        return None
    return Outcome(result=said)


def _export(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    """The file gets its name when it is whole: a Parquet file that says so itself, or a CSV whose writer ended well."""
    fresh, out = unfinished(asked.out), Path(asked.out)
    if fresh.is_file() and (fresh.suffix == ".parquet" or status == 0):
        with contextlib.suppress(pa.ArrowException, OSError):
            if fresh.suffix == ".parquet":
                pq.read_metadata(fresh)
            os.replace(fresh, out)
    elif fresh.is_file() or not (
        out.is_file() and _since(out, job)
    ):  # the latter: renamed before the service was killed
        return None
    if fresh.is_file():
        return None
    rows = {"rows": pq.read_metadata(out).num_rows} if out.suffix == ".parquet" else {}
    return Outcome(result={"path": str(out), "bytes": out.stat().st_size, **rows})


def _evaluation(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    if "summary" not in said:
        return None
    return Outcome(result={name: value for name, value in said.items() if name != "clips"})


def _fetched(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    """The list is put in place when every URL was fetched or has its reason. The first hundred reasons are told here."""
    if "list" not in said or not Path(said["list"]).is_file():
        return None
    return Outcome(
        result=said | {"num_failed": len(said["failed"]), "failed": dict(list(said["failed"].items())[:100])}
    )


def _estimate(job: Job, asked: Any, status: int, said: dict[str, Any]) -> Outcome | None:
    return Outcome(result=said) if "cpu_hours" in said else None


def _since(path: Path, job: Job) -> bool:
    return path.stat().st_mtime >= (job.started_at or job.created_at) - 1.0  # file systems round
