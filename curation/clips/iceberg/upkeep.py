"""Upkeep of a lake: files nobody names are swept, old snapshots expire."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from curation.clips.errors import WrongCall
from curation.clips.manifest import Lake
from curation.clips.schema import TABLES
from curation.clips.snapshot import Snapshot
from curation.clips.statistics import FOLDER as STATISTICS
from curation.clips.storage import Found, filesystem, found_below, join, remove_file


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep removed, or would remove: paths inside the lake, and their bytes together."""

    files: list[str]
    bytes: int


def sweep(lake: Lake, hours: float = 24.0, dry_run: bool = False) -> Swept:
    """Remove files older than `hours` that no snapshot names: of killed runs, of refused and of expired commits.

    Looks at tables, statistics and strips; staged measurements stay, a run that is started again continues from them. A younger
    file may belong to a commit that is being made. Call it holding the committer.
    """
    before = time.time() - hours * 3600
    named = set(_named(lake))
    orphans: list[tuple[str, Found]] = []
    for folder in ("tables", STATISTICS, "strips"):
        for path, found in found_below(join(lake.uri, folder)).items():
            inside = f"{folder}/{path}"
            if inside not in named and found.modified <= before:
                orphans.append((inside, found))
    if not dry_run:
        for path, _ in orphans:
            remove_file(join(lake.uri, path))
    return Swept(files=sorted(path for path, _ in orphans), bytes=sum(found.bytes for _, found in orphans))


def _named(lake: Lake) -> Iterator[str]:
    """Every path inside the lake that a snapshot needs: of all commits, and of the tables as they are now."""
    start = f"{lake.uri}/"
    for name in TABLES:
        table = lake.iceberg(name)
        if table is None:
            continue
        locations = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
        data: set[str] = set()
        for snapshot in table.metadata.snapshots:
            locations.add(snapshot.manifest_list)
            for manifest in snapshot.manifests(table.io):
                if manifest.manifest_path not in locations:
                    locations.add(manifest.manifest_path)
                    entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
                    data |= {entry.data_file.file_path for entry in entries}
        yield from (path.removeprefix("file://").removeprefix(start) for path in locations | data)
        if name == "videos":
            yield from _strips(path for path in data)
    yield from _strips(
        join(lake.uri, "staging", path)
        for path in found_below(join(lake.uri, "staging"))
        if path.endswith("/videos.parquet")
    )
    for commit in lake.commits():
        key = Snapshot(lake, commit).statistics_key
        yield from (f"{STATISTICS}/{key}.json", f"{STATISTICS}/{key}.parquet")


def _strips(files: Iterator[str]) -> Iterator[str]:
    """Strips that rows of `videos` name."""
    for uri in files:
        system, path = filesystem(uri)
        yield from pq.read_table(path, columns=["strip_uri"], filesystem=system)["strip_uri"].drop_null().to_pylist()


def expire(lake: Lake, keep: int, hours: float = 24.0) -> list[int]:
    """Forget all but the `keep` newest snapshots of every data set, and those with a tag. Returns the numbers that went.

    What only they needed is an orphan then, which `sweep` removes. Iceberg's snapshots younger than `hours` stay: a batch of a run
    that tries again is found by them. Raises `WrongCall` for keep below 1.
    """
    if keep < 1:
        raise WrongCall(f"keep {keep} must be at least 1: a data set has a newest snapshot")
    tagged = {tag.number for tag in lake.log.tags()}
    gone: list[int] = []
    for dataset in lake.datasets():
        commits = lake.commits(dataset)
        gone += [commit.number for commit in commits[:-keep] if commit.number not in tagged]
    lake.log.remove(gone)
    before = time.time() - hours * 3600
    commits = lake.commits()
    for name in TABLES:
        table = lake.iceberg(name)
        if table is None:
            continue
        needed = {commit.tables.get(name) for commit in commits} | {table.metadata.current_snapshot_id}
        old = [
            s.snapshot_id
            for s in table.metadata.snapshots
            if s.snapshot_id not in needed and s.timestamp_ms / 1000 <= before
        ]
        if old:
            table.maintenance.expire_snapshots().by_ids(old).commit()
    return sorted(gone)
