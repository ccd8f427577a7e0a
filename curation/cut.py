"""Kept clips become files, last of all: curation.clips.cutting in a prison, a source video at a time, and the index of the files.

OUT/clips/<first 2 hex>/<clip_id>.mp4 (or .mkv) hold the clips of every data set of the lake; OUT/clips/<dataset>@<number>.parquet,
written last, says which file holds which clip of a snapshot, and where in it. What was cut is not cut again.
"""

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import workers
from curation.clips import Lake, Snapshot, UnreadableVideo, WrongCall
from curation.clips.cutting import CutFile, Span, Way
from curation.clips.cutting import cut as cut_spans
from curation.clips.schema import CUTS, arrow_schema
from curation.clips.storage import exists, files_below, filesystem, join, local_copy, remove_folder, write_bytes
from curation.measure import ATTEMPTS
from curation.pipeline import Progress, Report
from curation.prison import Prison

# wall time that a second of a clip may take, on one core: 1080p took up to 6 s on a busy machine
SECONDS_PER_CLIP_SECOND = 60.0
ROWS_PER_VIDEO = "clips/parts"  # what each video gave, until the index is written


def require_one_way(lake: Lake, way: Way) -> None:
    """Raise `WrongCall` where the lake's clips were cut the other way: a clip has one file, and older indices describe it."""
    for name, rows in _indices(lake).items():
        other = set(rows["asked"].to_pylist()) - {way}
        if other:
            raise WrongCall(
                f"the clips of {lake.uri} were cut with --cut {other.pop()} ({name}); stay with it, take another --out, "
                f"or remove {join(lake.uri, 'clips')} first"
            )


def cut_clips(snapshot: Snapshot, way: Way, address: str | None = None, progress: Report | None = None) -> pa.Table:
    """Cut the kept clips of a snapshot and write its index; the index's rows (schema.CUTS), by clip_id.

    A clip that cannot be cut has its error in its row, and is tried again by the next call. Raises `WrongCall` (require_one_way).
    """
    lake, report, started = snapshot.lake, progress or (lambda _: None), time.monotonic()
    require_one_way(lake, way)
    with lake.committer():
        clips = snapshot.kept_clips().to_pylist()
        rows = {clip_id: row for clip_id, row in cut_before(lake).items() if row["error"] is None}
        damaged = {r["video_id"] for r in snapshot.table("videos", ["video_id", "damaged"]).to_pylist() if r["damaged"]}
        jobs = _jobs(lake.uri, [c for c in clips if c["clip_id"] not in rows], way, damaged)
        counts = {"cut": 0, "failed": 0}

        def say(done: int) -> None:
            seconds = time.monotonic() - started
            report(Progress(stage="cut", done=done, total=len(clips), seconds=seconds, counts=dict(counts)))

        done = len(clips) - sum(len(job["clips"]) for job in jobs)
        say(done)
        if jobs:
            workers.connect(address)
        for summary in workers.run_in_prisons(cut_video, jobs) if jobs else ():
            counts = {name: counts[name] + summary[name] for name in counts}
            done += summary["cut"] + summary["failed"]
            say(done)
        for job in jobs:
            rows |= {row["clip_id"]: row for row in _read(join(lake.uri, job["part"])).to_pylist()}
        table = pa.Table.from_pylist([rows[clip["clip_id"]] for clip in clips], schema=arrow_schema(CUTS))
        _write(index_uri(snapshot), table)
        remove_folder(join(lake.uri, ROWS_PER_VIDEO))
    return table


def index_uri(snapshot: Snapshot) -> str:
    """Where the index of a snapshot's cut clips lies."""
    return join(snapshot.lake.uri, "clips", f"{snapshot.dataset}@{snapshot.number}.parquet")


def _jobs(lake_uri: str, clips: Sequence[dict[str, Any]], way: Way, damaged: set[str]) -> list[dict[str, Any]]:
    """A job a source video. `part` names what it leaves, by everything it was told."""
    of_video: dict[str, list[dict[str, Any]]] = {}
    for clip in clips:
        of_video.setdefault(clip["uri"], []).append(clip)
    jobs = []
    for uri, some in of_video.items():
        text = "/".join([way, uri, *(clip["clip_id"] for clip in some)])
        jobs.append(
            {
                "lake_uri": lake_uri,
                "uri": uri,
                "way": way,
                "damaged": some[0]["video_id"] in damaged,
                "part": join(ROWS_PER_VIDEO, f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"),
                "clips": [{name: clip[name] for name in SPAN} for clip in some],
            }
        )
    return jobs


SPAN = ("clip_id", "stream_index", "start_pts", "end_pts", "time_base_numerator", "time_base_denominator", "num_frames")


def cut_video(job: dict[str, Any], prison: Prison) -> dict[str, int]:
    """Cut the clips of one video, on a worker: their files, then the part with their rows, which makes them count as done.

    Returns how many were cut, and how many failed. Nothing of the footage's doing raises.
    """
    part = join(job["lake_uri"], job["part"])
    if not exists(part):
        _write(part, pa.Table.from_pylist(_cut_rows(job, prison), schema=arrow_schema(CUTS)))
    errors = _read(part)["error"].null_count
    return {"cut": errors, "failed": len(job["clips"]) - errors}


def _cut_rows(job: dict[str, Any], prison: Prison) -> list[dict[str, Any]]:
    spans = [
        Span(
            clip_id=clip["clip_id"],
            stream_index=clip["stream_index"],
            start_pts=clip["start_pts"],
            end_pts=clip["end_pts"],
            time_base=Fraction(clip["time_base_numerator"], clip["time_base_denominator"]),
            num_frames=clip["num_frames"],
        )
        for clip in job["clips"]
    ]
    with tempfile.TemporaryDirectory(prefix="cinemill-cut-") as folder:
        try:
            with local_copy(job["uri"]) as path:
                seconds = 120 + Path(path).stat().st_size / 100_000
                seconds += SECONDS_PER_CLIP_SECOND * float(sum(span.end - span.start for span in spans))
                files = _cut(prison, seconds, path, spans, folder, job)
        except (UnreadableVideo, OSError, ValueError) as error:  # FFmpeg's errors are one or the other
            files = [CutFile(clip_id=span.clip_id, way=job["way"], error=str(error)) for span in spans]
        return [_row(file, span, folder, job) for file, span in zip(files, spans, strict=True)]


def _cut(
    prison: Prison, seconds: float, path: str, spans: Sequence[Span], folder: str, job: dict[str, Any]
) -> list[CutFile]:
    """Like measuring: a child that dies is tried once more, and then its clips are given up."""
    for attempt in range(ATTEMPTS):
        try:
            files: list[CutFile] = prison.run(
                cut_spans, path, spans, folder, job["way"], job["damaged"], seconds=seconds
            )
            return files
        except UnreadableVideo as error:
            if error.cause != "decoder_killed" or attempt + 1 == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _row(file: CutFile, span: Span, folder: str, job: dict[str, Any]) -> dict[str, Any]:
    """Put a clip's file into the lake, whole or not at all; its row of the index."""
    row = asdict(file) | {"asked": job["way"], "source_uri": job["uri"], "uri": None, "bytes": None}
    base = row.pop("time_base")
    name = row.pop("file")
    if name is None:
        return {k: v for k, v in row.items() if k in ("clip_id", "asked", "way", "why", "error", "source_uri")}
    data = (Path(folder) / name).read_bytes()
    row["uri"] = join("clips", file.clip_id[:2], name)
    row["bytes"] = len(data)
    write_bytes(join(job["lake_uri"], row["uri"]), data)
    return row | {
        "time_base_numerator": base.numerator,
        "time_base_denominator": base.denominator,
        "start_seconds": float(file.start_pts * base),
        "end_seconds": float(file.end_pts * base),
    }


# --- the index -------------------------------------------------------------------------------------------------------


def _indices(lake: Lake) -> dict[str, pa.Table]:
    """Every index and every video's part in the lake, by path below clips/."""
    folder = join(lake.uri, "clips")
    return {name: _read(join(folder, name)) for name in files_below(folder) if name.endswith(".parquet")}


def cut_before(lake: Lake) -> dict[str, dict[str, Any]]:
    """Rows of all indices whose file lies there in its full length, by clip_id."""
    sizes = {f"clips/{name}": size for name, size in files_below(join(lake.uri, "clips")).items()}
    rows = [row for table in _indices(lake).values() for row in table.to_pylist() if row["uri"] is not None]
    return {row["clip_id"]: row for row in rows if sizes.get(row["uri"]) == row["bytes"]}


def _read(uri: str) -> pa.Table:
    system, path = filesystem(uri)
    return pq.read_table(path, filesystem=system)


def _write(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(uri, sink.getvalue().to_pybytes())
