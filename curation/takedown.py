"""A source that must go: out of every data set by a new snapshot, out of every later run, and named to every training run that saw it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation import ledger
from curation.clips import Commit, Lake, Snapshot, WrongCall, open_snapshot
from curation.clips.schema import DECISIONS, arrow_schema
from curation.clips.storage import normalise
from curation.redecide import append_captions, redecide


@dataclass(frozen=True, kw_only=True)
class SawIt:
    """A training run that saw the source. clips: of its snapshot, of the source; through: the run whose weights it took them by."""

    run: str
    snapshot: str
    clips: list[str]
    through: str | None = None
    unknown: str | None = None  # why it could not be told


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """What left: identities of the videos, new snapshots, and the training runs that saw them."""

    source: str
    video_ids: list[str]
    snapshots: list[str]
    runs: list[SawIt]

    def as_json(self) -> str:
        return json.dumps(asdict(self))


def take_down(lake: Lake, source: str, why: str, runs: Sequence[str] = ()) -> Takedown:
    """Take a source down: a URI, a video_id, or a source_id. Every URI of the same bytes goes with it.

    Data sets are decided again without it, from their own measurements: a copy that had given way to it may come back. Rows leave
    all tables; snapshots of before keep theirs until they expire. runs: folders with training runs, searched for run.json.
    Calling it again finishes what was interrupted. Raises `WrongCall` where nothing is known of the source.
    """
    names = {source, normalise(source)}
    with lake.committer():
        snapshots = [Snapshot(lake, commit) for commit in lake.commits()]
        ids = _videos(snapshots, names)
        if not ids and source not in lake.log.taken_down():
            raise WrongCall(f"{source} is no URI, video_id or source_id of any video in {lake.uri}")
        for name in sorted({source, *ids, *(name for name in names if _is_uri(snapshots, name))}):
            lake.log.take_down(name, why)
        newest = {snapshot.dataset: snapshot for snapshot in snapshots}
        made = _without(lake, list(newest.values()), ids)
    return Takedown(
        source=source,
        video_ids=sorted(ids),
        snapshots=[Snapshot(lake, commit).name for commit in made],
        runs=runs_that_saw(ids, runs),
    )


def _videos(snapshots: Sequence[Snapshot], names: set[str]) -> set[str]:
    ids: set[str] = set()
    for snapshot in snapshots:
        columns = [name for name in ("uri", "video_id", "source_id") if name in snapshot.columns("videos")]
        for row in snapshot.table("videos", columns).to_pylist():
            if names & set(row.values()):
                ids.add(row["video_id"])
    return ids


def _is_uri(snapshots: Sequence[Snapshot], name: str) -> bool:
    return any(name in snapshot.table("videos", ["uri"])["uri"].to_pylist() for snapshot in snapshots)


def _without(lake: Lake, newest: Sequence[Snapshot], ids: set[str]) -> list[Commit]:
    """New snapshots of the data sets that hold these videos."""
    left: list[tuple[Snapshot, list[dict[str, Any]]]] = []
    clip_ids: set[str] = set()
    for snapshot in newest:
        rows = snapshot.table("decisions", ["kind", "video_id", "clip_id"]).to_pylist()
        if any(row["video_id"] in ids for row in rows):
            clip_ids |= {row["clip_id"] for row in rows if row["video_id"] in ids and row["clip_id"]}
            decisions = [row | {"dataset": snapshot.dataset} for row in redecide(snapshot, without=ids)]
            append_captions(lake, snapshot.table("clips").to_pylist(), decisions)
            left.append((snapshot, decisions))
    for snapshot, decisions in left:
        if decisions:
            lake.replace("decisions", "dataset", pa.Table.from_pylist(decisions, schema=arrow_schema(DECISIONS)))
        else:
            lake.delete("decisions", "dataset", [snapshot.dataset])
    for table in ("videos", "clips"):
        lake.delete(table, "video_id", sorted(ids))
    for table in ("embeddings", "captions"):
        lake.delete(table, "clip_id", sorted(clip_ids))
    return [
        lake.commit(
            snapshot.dataset,
            recipe_hash=snapshot.commit.recipe_hash,
            recipe=snapshot.commit.recipe,
            code_version=snapshot.commit.code_version,
            counts=ledger.counts_of(decisions),
            measured_by=snapshot.commit.measured_by,
        )
        for snapshot, decisions in left
    ]


def runs_that_saw(ids: set[str], folders: Sequence[str]) -> list[SawIt]:
    """Training runs below the folders whose snapshot held kept clips of these videos, and runs that took their weights from those."""
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise WrongCall(f"{folder} is no folder; --runs names folders with training runs")
        found |= {
            path.parent.resolve(): json.loads(path.read_text()) for path in sorted(Path(folder).rglob("run.json"))
        }
    saw: dict[Path, SawIt] = {}
    for path, run in found.items():
        try:
            rows = (
                open_snapshot(run["snapshot"]).table("decisions", ["kind", "video_id", "clip_id", "fate"]).to_pylist()
            )
        except WrongCall as error:
            saw[path] = SawIt(run=str(path), snapshot=run["snapshot"], clips=[], unknown=str(error))
            continue
        clips = [r["clip_id"] for r in rows if r["kind"] == "clip" and r["fate"] == "kept" and r["video_id"] in ids]
        if clips:
            saw[path] = SawIt(run=str(path), snapshot=run["snapshot"], clips=sorted(clips))
    while heirs := {path: by for path, run in found.items() if path not in saw and (by := _heir_of(run, saw))}:
        for path, by in heirs.items():
            saw[path] = SawIt(run=str(path), snapshot=found[path]["snapshot"], clips=[], through=str(by))
    return [saw[path] for path in sorted(saw)]


def _heir_of(run: dict[str, Any], saw: dict[Path, SawIt]) -> Path | None:
    for origin in (run.get("tae"), run.get("start")):
        if origin is None:
            continue
        for path, seen in saw.items():
            if Path(origin).resolve().is_relative_to(path) and seen.unknown is None:
                return path
    return None
