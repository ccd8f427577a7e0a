"""Deciding again from what a snapshot holds: no pixels, no Ray. Reproduction compares, a takedown commits the result."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.caption.template import Template, camera_motion
from curation.clips import Lake, Snapshot
from curation.clips.schema import CAPTIONS, arrow_schema
from curation.content.embedding import EMBEDDER
from curation.decide import decide_clips, decide_video
from curation.recipes import parse_recipe

Row = dict[str, Any]
COMPARED = ("fate", "rule", "threshold", "comparison", "failed_rules", "unmeasured", "duplicate_of", "split")


def redecide(snapshot: Snapshot, without: Collection[str] = ()) -> list[Row]:
    """Decisions of the snapshot's recipe over its own measurements: videos, then clips. without: video_ids that are left out."""
    recipe = parse_recipe(snapshot.commit.recipe, f"the recipe of {snapshot.name}")
    decided = [r for r in snapshot.table("decisions").to_pylist() if r["video_id"] not in without]
    before = {(r["uri"], r["video_id"]): r for r in decided if r["kind"] == "video"}
    videos = [r for r in snapshot.table("videos").to_pylist() if (r["uri"], r["video_id"]) in before]
    originals = {video_id: uri for (uri, video_id), row in before.items() if row["fate"] != "duplicate"}
    clips = [
        clip | {"uri": originals[clip["video_id"]]}
        for clip in snapshot.table("clips").to_pylist()
        if clip["video_id"] not in without
    ]
    embeddings = {
        row["clip_id"]: np.asarray(row["embedding"], np.float32)
        for row in snapshot.table("embeddings").to_pylist()
        if row["embedder"] == EMBEDDER
    }
    clip_rows = decide_clips(clips, embeddings, recipe)
    of_video: dict[str, list[Row]] = {}
    for row in clip_rows:
        of_video.setdefault(row["video_id"], []).append(row)
    video_rows = []
    for video in videos:
        original = originals[video["video_id"]]
        own = of_video.get(video["video_id"], [])
        video_rows.append(decide_video(video, own, None if original == video["uri"] else original, recipe))
    return [*video_rows, *clip_rows]


def measure_again(snapshot: Snapshot, address: str | None = None) -> list[Row]:
    """Decisions of the snapshot's recipe after its footage was read and measured again, in a lake that is thrown away.

    Footage that was taken down since, or lies there no more, is quarantined as missing. address: a running Ray.
    """
    from curation.pipeline import curate  # it imports this module

    recipe = parse_recipe(snapshot.commit.recipe, f"the recipe of {snapshot.name}")
    rows = [r for r in snapshot.table("decisions").to_pylist() if r["kind"] == "video"]
    rows.sort(key=lambda row: (row["fate"] == "duplicate", row["uri"]))  # who entered first had no earlier copy
    with tempfile.TemporaryDirectory(prefix="cinemill-reproduce-") as folder:
        listed = Path(folder, "footage.parquet")
        pq.write_table(pa.table({"uri": [row["uri"] for row in rows]}), listed)
        commit = curate([str(listed)], recipe, str(Path(folder, "lake")), snapshot.dataset, address)
        again: list[Row] = Lake(str(Path(folder, "lake"))).snapshot(commit.dataset).table("decisions").to_pylist()
    return again


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """How two sets of decisions compare: rows in both, kept clips of only one, and rows whose verdict differs."""

    rows: int
    kept: int
    only_before: list[str]
    only_now: list[str]
    different: list[str]

    @property
    def same(self) -> bool:
        return not (self.only_before or self.only_now or self.different)


def compare(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Reproduced:
    """Rows of `decisions`, by clip_id or by URI and video_id; names of rows are these."""
    old, new = _by_name(before), _by_name(now)
    differing = {
        name for name in old.keys() & new.keys() if any(old[name][column] != new[name][column] for column in COMPARED)
    }
    kept_before = {name for name, row in old.items() if row["clip_id"] and row["fate"] == "kept"}
    kept_now = {name for name, row in new.items() if row["clip_id"] and row["fate"] == "kept"}
    return Reproduced(
        rows=len(old.keys() & new.keys()),
        kept=len(kept_before & kept_now),
        only_before=sorted(kept_before - kept_now),
        only_now=sorted(kept_now - kept_before),
        different=sorted(differing | (old.keys() ^ new.keys())),
    )


def _by_name(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["clip_id"] or f"{row['uri']} {row['video_id']}": row for row in rows}


def append_captions(lake: Lake, clips: Sequence[Mapping[str, Any]], decisions: Sequence[Mapping[str, Any]]) -> None:
    """Say what is seen in the kept clips that have no caption yet."""
    captioner = Template()
    name = f"{captioner.name}/{captioner.version}"
    kept = {row["clip_id"] for row in decisions if row["kind"] == "clip" and row["fate"] == "kept"}
    there = {(r["clip_id"], r["captioner"]) for r in lake.head("captions", ["clip_id", "captioner"]).to_pylist()}
    rows = [
        {"clip_id": c["clip_id"], "captioner": name, "caption": captioner.caption(c), "camera_motion": camera_motion(c)}
        for c in clips
        if c["clip_id"] in kept and (c["clip_id"], name) not in there
    ]
    lake.append("captions", pa.Table.from_pylist(rows, schema=arrow_schema(CAPTIONS)))
