"""A shard: a list of videos of bounded bytes, measured and staged as Parquet, whole or not at all. The unit that is lost when a worker dies."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.clips.manifest import Lake
from curation.clips.schema import CLIPS, EMBEDDINGS, VIDEOS, arrow_schema
from curation.clips.storage import exists, filesystem, join, write_bytes
from curation.clips.strip import write_strips
from curation.contracts import signals
from curation.decide import EARLY_RUNGS
from curation.measure import Measurement, ShotFrames, Video, facts_of_row, facts_row, measure
from curation.prison import Prison, peak_memory
from curation.recipes import Recipe
from curation.shots.detectors import REFEREE_SHARE

MAX_BYTES = 512 << 20
MAX_VIDEOS = 64
MIN_SHARDS = 12
MAX_COST_SECONDS = 120.0  # CPU seconds; what a killed worker loses at most, unless one video alone costs more


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What every worker of a run is told: where the lake is, the recipe, and how to measure. order: see `curation.order`."""

    lake_uri: str
    catalog: str
    recipe: dict[str, Any]
    ladder: bool
    key: str
    order: tuple[str, ...] = ()


def cut_shards(videos: Sequence[Video], cost_per_second: float) -> list[list[Video]]:
    """Lists of videos of bounded bytes, count and cost, in order; enough of them that no worker waits long for the last.

    The number of workers has no say: a run that lost a node finds its shards again. cost_per_second: CPU seconds that a second of video takes, as measured before.
    """
    most = min(MAX_COST_SECONDS, cost_per_second * sum(video.seconds for video in videos) / MIN_SHARDS)
    shards: list[list[Video]] = []
    size, cost = 0, 0.0
    for video in videos:
        own = cost_per_second * video.seconds
        if not shards or size + video.size > MAX_BYTES or cost + own > most or len(shards[-1]) >= MAX_VIDEOS:
            shards.append([])
            size, cost = 0, 0.0
        shards[-1].append(video)
        size, cost = size + video.size, cost + own
    return shards


def shard_name(videos: Iterable[Video], key: str) -> str:
    text = key + "".join(f"/{video.video_id}@{video.uri}" for video in videos)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def clips_schema() -> pa.Schema:
    """The clips table with every filter's signals, float64 each."""
    return arrow_schema(CLIPS, {name: pa.float64() for name in signals()})


def staged(lake_uri: str, name: str, table: str) -> str:
    return join(lake_uri, "staging", name, f"{table}.parquet")


def read_staged(lake_uri: str, name: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    system, path = filesystem(staged(lake_uri, name, table))
    return pq.read_table(path, filesystem=system, columns=columns)


def run_shard(videos: Sequence[Video], job: ShardJob, prison: Prison) -> dict[str, Any]:
    """Measure the videos of a shard and stage the rows; a shard that was staged before is not done again.

    Returns a few numbers: name, videos, clips, quarantined, video_seconds, and the CPU seconds and peak memory it took (0 if it was
    staged before). The last file written, videos.parquet, makes it complete.
    """
    name = shard_name(videos, job.key)
    prison.peak_bytes = 0
    if not exists(staged(job.lake_uri, name, "videos")):
        recipe = Recipe.model_validate(job.recipe)
        known = _known_clips(videos, job)
        measured: list[Measurement] = []
        left = 0.0  # frames that TransNetV2 may still be shown; counted anew in every shard, so that shards are the same again
        for video in videos:
            clips = known.get(video.video_id, {})
            measured.append(measure(video, recipe, job.ladder, prison, job.lake_uri, clips, left, job.order))
            row = measured[-1].video
            left += REFEREE_SHARE * (row.get("num_frames") or 0) - (row.get("referee_frames") or 0)
        _stage(name, measured, job)
    columns = ["cause", "duration_seconds", "early_seconds", "decode_seconds", "model_seconds", "rung"]
    rows = read_staged(job.lake_uri, name, "videos").select(columns).to_pylist()
    totals = {cost: sum((row[cost] or 0.0 for row in rows), 0.0) for cost in columns if cost.endswith("_seconds")}
    return {
        "name": name,
        "videos": len(rows),
        "clips": read_staged(job.lake_uri, name, "clips").num_rows,
        "quarantined": sum(row["cause"] is not None for row in rows),
        "stopped_early": sum(row["rung"] in EARLY_RUNGS for row in rows),
        "peak_bytes": prison.peak_bytes + peak_memory(),
        **totals,
    }


def _known_clips(videos: Sequence[Video], job: ShardJob) -> dict[str, dict[str, dict[str, Any]]]:
    """Clips of these videos measured before, by video; which of their signals are out of date is measure's to see."""
    ids = [video.video_id for video in videos]
    known: dict[str, dict[str, dict[str, Any]]] = {}
    for row in Lake(job.lake_uri, job.catalog).head("clips", where=("video_id", ids)).to_pylist():
        known.setdefault(row["video_id"], {})[row["clip_id"]] = row
    return known


def _stage(name: str, measured: Sequence[Measurement], job: ShardJob) -> None:
    strips = [m.strip for m in measured if m.strip is not None]
    held = hashlib.sha256("/".join(strip.video_id for strip in strips).encode()).hexdigest()[:8]
    strip_uri = join(
        "strips", f"{name}-{held}.parquet"
    )  # a shard that is run again for one video must not replace the others'
    if strips:
        write_strips(join(job.lake_uri, strip_uri), strips)
    for m in measured:
        if m.strip is not None:
            m.video["strip_uri"] = strip_uri
    videos_schema = arrow_schema(VIDEOS, {"known": pa.bool_()})
    _write(staged(job.lake_uri, name, "clips"), [c for m in measured for c in m.clips], clips_schema())
    embeddings = sorted((e for m in measured for e in m.embeddings), key=lambda row: row["clip_id"])
    _write(staged(job.lake_uri, name, "embeddings"), embeddings, arrow_schema(EMBEDDINGS))
    _write(staged(job.lake_uri, name, "videos"), [m.video for m in measured], videos_schema)


def _write(uri: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    write_bytes(uri, sink.getvalue().to_pybytes())


PLAIN = ("uri", "video_id", "sha256", "size", "strip_uri")


def as_item(videos: Sequence[Video]) -> dict[str, Any]:
    """A shard as a row for Ray Data: ids and facts, never pixels; under a kilobyte a video, shots of earlier runs apart."""
    none = ShotFrames(detector="", cuts=[], gradual=[], referee_frames=0)
    return {
        "videos": [
            {name: getattr(v, name) for name in PLAIN} | facts_row(v.facts) | (v.shots or none).as_columns()
            for v in videos
        ]
    }


def from_item(item: dict[str, Any]) -> list[Video]:
    return [
        Video(**{name: row[name] for name in PLAIN}, facts=facts_of_row(row), shots=ShotFrames.of_row(row))
        for row in item["videos"]
    ]
