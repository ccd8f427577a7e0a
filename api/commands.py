"""A job's request as a line of the command line; what people type, the service runs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from api.requests import (
    CurateRequest,
    EncodeRequest,
    EstimateRequest,
    EvaluateRequest,
    ExportRequest,
    FetchRequest,
    GenerateRequest,
    RethresholdRequest,
    TrainRequest,
    read_request,
)
from api.schema import Job
from api.settings import Settings
from curation.clips import Lake
from curation.clips.storage import filesystem, join

ON_CLUSTER = ("curate", "estimate", "rethreshold", "encode", "train")
"""Kinds whose command takes --address: the others work in one process."""


def writes(asked: Any, settings: Settings) -> str | None:
    """What a job writes to, so that no two jobs do at the same time. None: nothing that others could write."""
    if isinstance(asked, CurateRequest | RethresholdRequest):
        return f"lake {settings.data_folder or settings.data}"
    return getattr(asked, "out", None)


def arguments(job: Job, settings: Settings) -> list[str]:
    """The command line of a job, after the command's name. Writes the list of videos that a rethreshold reads."""
    asked = read_request(job.kind, job.asked)
    match asked:
        case CurateRequest():
            words = ["curate", *asked.sources, *_options(asked, "recipe", "dataset", "limit", "sample", "cut")]
            words += ["--retry-quarantined"] if asked.retry_quarantined else []
            return [*words, f"--run={job.id}", "--out", settings.data, *_catalog(settings), "--json"]
        case FetchRequest():
            return ["fetch", *asked.sources, *_options(asked, "out", "connections", "max_gib", "max_seconds"), "--json"]
        case EstimateRequest():
            told = ("recipe", "limit", "sample", "probe", "probe_seconds", "workers", "price_per_cpu_hour")
            priced = asked.model_copy(
                update={"price_per_cpu_hour": asked.price_per_cpu_hour or settings.price_per_cpu_hour}
            )
            return ["jobs", "estimate", *asked.sources, *_options(priced, *told), "--json"]
        case RethresholdRequest():
            listed = _write_list(job, asked, settings)
            words = ["curate", listed, f"--recipe={asked.recipe}", f"--dataset={asked.into or asked.dataset}"]
            return [*words, f"--run={job.id}", "--out", settings.data, *_catalog(settings), "--json"]
        case EncodeRequest():
            return ["train", "encode", *_manifest(asked, settings), *_options(asked, "tae", "out", "recipe"), "--json"]
        case TrainRequest():
            told = ("out", "recipe", "tae", "cache", "workers", "parallel", "restarts")
            words = ["train", asked.model, *_manifest(asked, settings), *_options(asked, *told)]
            words += [f"--from={asked.start}"] if asked.start else []
            return [*words, *(["--resume"] if Path(asked.out, "run.json").exists() else []), "--json"]
        case GenerateRequest():
            told = ("checkpoint", "prompt", "out", "steps", "guidance", "seed", "schedule")
            return ["generate", *_options(asked, *told, "frames", "height", "width", "fps", "tae"), "--json"]
        case EvaluateRequest():
            words = [
                "evaluate",
                asked.model,
                *_options(asked, "checkpoint", "tae", "against"),
                *_manifest(asked, settings),
            ]
            return [*words, *([f"--samples={asked.samples}"] if asked.samples else []), "--json"]
        case ExportRequest():
            where = ["--out", settings.data, *_catalog(settings), *_options(asked, "dataset", "snapshot", "table")]
            return ["manifest", "export", str(unfinished(asked.out)), *where]
    raise ValueError(f"no command for a job of kind {job.kind!r}")


def unfinished(out: str) -> Path:
    """Where an export is written before it is known to be whole."""
    return Path(out).with_name(f".unfinished-{Path(out).name}")


def sources_list(job: Job, settings: Settings) -> str:
    """Where the list of a rethreshold's videos lies: in the lake, which every node can read."""
    return join(settings.data, "staging", f"sources-{job.id}.parquet")


def _write_list(job: Job, asked: RethresholdRequest, settings: Settings) -> str:
    rows = Lake(settings.data, settings.catalog).snapshot(asked.dataset).table("decisions", ["kind", "uri"]).to_pylist()
    uris = list(dict.fromkeys(row["uri"] for row in rows if row["kind"] == "video"))
    listed = sources_list(job, settings)
    system, path = filesystem(listed)
    system.create_dir(str(Path(path).parent))
    pq.write_table(pa.table({"uri": pa.array(uris, pa.string())}), path, filesystem=system)
    return listed


def _options(asked: Any, *names: str) -> list[str]:
    """--name=value in one word: no value can be taken for an option."""
    told = ((name, getattr(asked, name)) for name in names)
    return [f"--{name.replace('_', '-')}={value}" for name, value in told if value not in (None, "")]


def _manifest(asked: Any, settings: Settings) -> list[str]:
    return [f"--manifest={settings.data}#{asked.dataset}@{asked.snapshot}"]


def _catalog(settings: Settings) -> list[str]:
    return [f"--catalog={settings.catalog}"] if settings.catalog else []
