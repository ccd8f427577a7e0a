"""Upkeep of a lake: files nobody names are swept, old snapshots expire, many small files become few."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from curation.clips.errors import WrongCall
from curation.clips.iceberg.writing import commit_once
from curation.clips.manifest import SORTED_BY, Lake, narrow
from curation.clips.schema import TABLES
from curation.clips.snapshot import Snapshot
from curation.clips.statistics import FOLDER as STATISTICS
from curation.clips.storage import Found, filesystem, found_below, join, remove_file

MEBIBYTE = 1 << 20


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


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What compaction made of one table: how many files became how many."""

    table: str
    before: int
    after: int


def compact(lake: Lake, megabytes: int = 256) -> list[Compacted]:
    """Write files of less than half of `megabytes` together, sorted, in files of about that size. Rows stay what they are.

    Snapshots there are keep their files; the next commit reads the new ones. A group of files is in memory at once. Decisions are
    left: they are written as one file a data set anyway.
    """
    done = []
    for name in TABLES:
        table = lake.iceberg(name)
        if table is None or name == "decisions":
            continue
        files = [task.file for task in table.scan().plan_files()]
        small = sorted((f for f in files if f.file_size_in_bytes < megabytes * MEBIBYTE / 2), key=lambda f: f.file_path)
        groups: list[list[DataFile]] = []
        size = 0
        for file in small:
            if not groups or size + file.file_size_in_bytes > megabytes * MEBIBYTE:
                groups.append([])
                size = 0
            groups[-1].append(file)
            size += file.file_size_in_bytes
        groups = [group for group in groups if len(group) > 1]
        for group in groups:
            _rewrite(lake, name, group)
        after = len(files) - sum(len(group) - 1 for group in groups)
        done.append(Compacted(table=name, before=len(files), after=after))
    return done


def _rewrite(lake: Lake, name: str, group: list[DataFile]) -> None:
    def load() -> Table:
        table = lake.iceberg(name)
        assert table is not None
        return table

    def write(table: Table, properties: dict[str, str]) -> None:
        schema = narrow(table.schema().as_arrow().empty_table()).schema
        parts = []
        for file in group:
            system, path = filesystem(file.file_path)
            part = pq.ParquetFile(system.open_input_file(path)).read()
            columns = [
                part[field.name].cast(field.type)
                if field.name in part.column_names
                else pa.nulls(len(part), field.type)
                for field in schema
            ]
            parts.append(pa.table(columns, schema=schema))
        rows = pa.concat_tables(parts).sort_by(SORTED_BY.get(name, "clip_id"))
        assert rows.num_rows == sum(file.record_count for file in group)
        with table.transaction() as transaction:
            update = transaction.update_snapshot(snapshot_properties=properties).overwrite()
            with update as rewritten:
                for file in group:
                    rewritten.delete_data_file(file)
                for file in _dataframe_to_data_files(transaction.table_metadata, rows, table.io):
                    rewritten.append_data_file(file)

    commit_once(load, str(uuid.uuid4()), ["0"], write)
