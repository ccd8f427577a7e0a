"""Files of a table become few, large, and sorted against one another: a page of rows, or one clip, then lies in one row group."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from curation.clips.iceberg.writing import commit_once
from curation.clips.manifest import SORTED_BY, Lake, narrow
from curation.clips.schema import TABLES
from curation.clips.storage import filesystem

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What compaction made of one table: how many files became how many."""

    table: str
    before: int
    after: int


@dataclass(frozen=True)
class Group:
    """A row group: the smallest and the largest key in it (None: unknown), and how many rows."""

    index: int
    low: str | None
    high: str | None
    rows: int


class Source:
    """A file that gives way, read by ranges of its key."""

    def __init__(self, file: DataFile, key: str, held: ExitStack):
        self.file, self.key = file, key
        system, path = filesystem(file.file_path)
        self.parquet = held.enter_context(pq.ParquetFile(held.enter_context(system.open_input_file(path))))
        metadata = self.parquet.metadata
        column = next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == key)
        self.groups = []
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            found = group.column(column).statistics
            known = found is not None and found.has_min_max
            low, high = (found.min, found.max) if known else (None, None)
            self.groups.append(Group(index, low, high, group.num_rows))

    @property
    def span(self) -> tuple[str, str] | None:
        """First and last key; None where its statistics do not tell."""
        lows, highs = [g.low for g in self.groups], [g.high for g in self.groups]
        if not lows or None in lows or None in highs:
            return None
        return min(filter(None, lows)), max(filter(None, highs))

    def between(self, low: str | None, high: str | None, schema: pa.Schema) -> pa.Table:
        """Rows with low <= key < high; None is no bound."""
        wanted = [
            g.index
            for g in self.groups
            if (low is None or g.high is None or g.high >= low) and (high is None or g.low is None or g.low < high)
        ]
        part = self.parquet.read_row_groups(wanted)
        keys = part[self.key]
        if low is not None:
            part = part.filter(pc.greater_equal(keys, low))
        if high is not None:
            part = part.filter(pc.less(part[self.key], high))
        columns = [
            part[field.name].cast(field.type) if field.name in part.column_names else pa.nulls(len(part), field.type)
            for field in schema
        ]
        return pa.table(columns, schema=schema)


def compact(lake: Lake, megabytes: float = 256) -> list[Compacted]:
    """Write files that are small, or whose ranges of keys overlap, again: sorted together, in files of about `megabytes`.

    Rows stay what they are, and snapshots there are keep their files; the next commit reads the new ones. One new file is in memory
    at once. Decisions are left: they are written as one, sorted, anyway. Call it holding the committer.
    """
    done = []
    for name in TABLES:
        table = lake.iceberg(name)
        if table is None or name == "decisions":
            continue
        files = [task.file for task in table.scan().plan_files()]
        with ExitStack() as held:
            sources = [Source(file, SORTED_BY.get(name, "clip_id"), held) for file in files]
            chosen = _worth_it(sources, megabytes * MEBIBYTE)
            made = _rewrite(lake, name, chosen, megabytes * MEBIBYTE) if len(chosen) > 1 else len(chosen)
        done.append(Compacted(table=name, before=len(files), after=len(files) - len(chosen) + made))
    return done


def _worth_it(sources: Sequence[Source], size: float) -> list[Source]:
    """Files of less than half the size, and those that another one's range reaches into."""
    by_span = sorted((s for s in sources if s.span is not None), key=lambda s: s.span or ("", ""))
    overlapping: set[str] = {s.file.file_path for s in sources if s.span is None}
    widest: Source | None = None
    for source in by_span:
        if widest is not None and source.span is not None and widest.span is not None:
            if source.span[0] <= widest.span[1]:
                overlapping |= {source.file.file_path, widest.file.file_path}
            if source.span[1] <= widest.span[1]:
                continue
        widest = source
    return [s for s in sources if s.file.file_path in overlapping or s.file.file_size_in_bytes < size / 2]


def _bounds(sources: Sequence[Source], size: float) -> list[tuple[str | None, str | None]]:
    """Ranges of keys that hold about `size` bytes each, by where row groups begin."""
    starts = sorted((g.low, g.rows) for s in sources for g in s.groups if g.low is not None)
    pieces = max(1, round(sum(s.file.file_size_in_bytes for s in sources) / size))
    share, before = sum(rows for _, rows in starts) / pieces, 0
    cuts: list[str] = []
    for low, rows in starts:
        if before >= share * (len(cuts) + 1) and (not cuts or low > cuts[-1]):
            cuts.append(low)
        before += rows
    return list(zip([None, *cuts], [*cuts, None], strict=True))


def _rewrite(lake: Lake, name: str, sources: Sequence[Source], size: float) -> int:
    """One commit in which the files give way to new ones; how many these are."""
    key, made = SORTED_BY.get(name, "clip_id"), 0

    def load() -> Table:
        table = lake.iceberg(name)
        assert table is not None
        return table

    def sorted_parts(schema: pa.Schema) -> Iterator[pa.Table]:
        for low, high in _bounds(sources, size):
            rows = pa.concat_tables([source.between(low, high, schema) for source in sources])
            if rows.num_rows:
                yield rows.sort_by(key)

    def write(table: Table, properties: dict[str, str]) -> None:
        nonlocal made
        schema = narrow(table.schema().as_arrow().empty_table()).schema
        with table.transaction() as transaction:
            fresh: list[DataFile] = []
            for rows in sorted_parts(schema):
                fresh += _dataframe_to_data_files(transaction.table_metadata, rows, table.io)
            entered = sum(source.file.record_count for source in sources)
            assert sum(file.record_count for file in fresh) == entered, f"{entered} rows of {name} entered"
            with transaction.update_snapshot(snapshot_properties=properties).overwrite() as update:
                for source in sources:
                    update.delete_data_file(source.file)
                for file in fresh:
                    update.append_data_file(file)
            made = len(fresh)

    commit_once(load, str(uuid.uuid4()), ["0"], write)
    return made
