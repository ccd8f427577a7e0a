"""A shard: a list of videos of bounded bytes, measured and staged as Parquet, whole or not at all. The unit that is lost when a worker dies."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.clips.manifest import Lake
from curation.clips.schema import CLIPS, EMBEDDINGS, VIDEOS, arrow_schema
from curation.clips.storage import exists, filesystem, join, write_bytes
from curation.clips.strip import write_strips
from curation.contracts import signals
from curation.measure import Measurement, Video, measure, signal_versions
from curation.prison import Prison
from curation.recipes import Recipe

MAX_BYTES = 512 << 20
MAX_VIDEOS = 64


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What every worker of a run is told: where the lake is, the recipe, and how to measure."""

    lake_uri: str
    catalog: str
    recipe: dict[str, Any]
    ladder: bool
    key: str


def cut_shards(videos: Sequence[Video], workers: int) -> list[list[Video]]:
    """Lists of videos of bounded bytes and count, in order; at least four shards per worker, so that none waits long for the last."""
    total = sum(video.size for video in videos)
    bound = min(MAX_BYTES, max(1, total // (4 * max(1, workers))))
    shards: list[list[Video]] = []
    size = 0
    for video in videos:
        if not shards or size + video.size > bound or len(shards[-1]) >= MAX_VIDEOS:
            shards.append([])
            size = 0
        shards[-1].append(video)
        size += video.size
    return shards


def shard_name(videos: Iterable[Video], key: str) -> str:
    text = key + "".join(f"/{video.video_id}@{video.uri}" for video in videos)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def clips_schema() -> pa.Schema:
    """The clips table with every filter's signals, float64 each."""
    return arrow_schema(CLIPS, {name: pa.float64() for name in signals()})


def staged(lake_uri: str, name: str, table: str) -> str:
    return join(lake_uri, "staging", name, f"{table}.parquet")


def read_staged(lake_uri: str, name: str, table: str) -> pa.Table:
    system, path = filesystem(staged(lake_uri, name, table))
    return pq.read_table(path, filesystem=system)


def run_shard(videos: Sequence[Video], job: ShardJob, prison: Prison) -> dict[str, Any]:
    """Measure the videos of a shard and stage the rows; a shard that was staged before is not done again.

    Returns a few numbers: name, videos, clips, quarantined, video_seconds. The last file written, videos.parquet, makes it complete.
    """
    name = shard_name(videos, job.key)
    if not exists(staged(job.lake_uri, name, "videos")):
        recipe = Recipe.model_validate(job.recipe)
        known = _known_clips(videos, job)
        measured = [measure(v, recipe, job.ladder, prison, job.lake_uri, known.get(v.video_id, {})) for v in videos]
        _stage(name, measured, job)
    rows = read_staged(job.lake_uri, name, "videos").select(["cause", "duration_seconds"]).to_pylist()
    return {
        "name": name,
        "videos": len(rows),
        "clips": read_staged(job.lake_uri, name, "clips").num_rows,
        "quarantined": sum(row["cause"] is not None for row in rows),
        "video_seconds": sum(row["duration_seconds"] or 0.0 for row in rows),
    }


def _known_clips(videos: Sequence[Video], job: ShardJob) -> dict[str, dict[str, dict[str, Any]]]:
    """Clips of these videos measured before, by video: with today's signal versions and nothing skipped."""
    ids = [video.video_id for video in videos if video.strip_uri is not None]
    if not ids:
        return {}
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for row in Lake(job.lake_uri, job.catalog).head("clips", where=("video_id", ids)).to_pylist():
        if row["signal_versions"] == signal_versions() and not row["skipped_signals"]:
            known.setdefault(row["video_id"], {})[row["clip_id"]] = row
    return known


def _stage(name: str, measured: Sequence[Measurement], job: ShardJob) -> None:
    strips = [m.strip for m in measured if m.strip is not None]
    strip_uri = join("strips", f"{name}.parquet")
    if strips:
        write_strips(join(job.lake_uri, strip_uri), strips)
    for m in measured:
        if m.strip is not None:
            m.video["strip_uri"] = strip_uri
    videos_schema = arrow_schema(VIDEOS, {"known": pa.bool_()})
    _write(staged(job.lake_uri, name, "clips"), [c for m in measured for c in m.clips], clips_schema())
    _write(
        staged(job.lake_uri, name, "embeddings"), [e for m in measured for e in m.embeddings], arrow_schema(EMBEDDINGS)
    )
    _write(staged(job.lake_uri, name, "videos"), [m.video for m in measured], videos_schema)


def _write(uri: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    write_bytes(uri, sink.getvalue().to_pybytes())


def as_item(videos: Sequence[Video]) -> dict[str, Any]:
    """A shard as a row for Ray Data: ids and references, never pixels."""
    return {"videos": [asdict(video) for video in videos]}


def from_item(item: dict[str, Any]) -> list[Video]:
    return [Video(**fields) for fields in item["videos"]]
