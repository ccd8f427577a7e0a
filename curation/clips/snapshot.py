"""A data set as one commit left it: its exact files, its rows, the ledger, and what training reads."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from curation.clips import statistics
from curation.clips.commits import Commit
from curation.clips.errors import WrongCall
from curation.clips.schema import LEDGER, TABLES, arrow_schema
from curation.clips.statistics import FROM_DECISIONS, Statistics
from curation.clips.storage import filesystem, is_local

if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from curation.clips.manifest import Lake

SPAN = ("start_seconds", "end_seconds")
KEYS = ("clip_id", "uri")  # rows are looked up by these
BATCH = 250_000  # rows that a scan for statistics counts at once
PART = 2_000_000  # and about how many it joins at once


@dataclass(frozen=True)
class KeyedFile:
    """A Parquet file of a snapshot and how many rows it has. ends: key column -> between which two texts its values lie, where known."""

    uri: str
    rows: int
    ends: dict[str, tuple[str, str]]

    def may_hold(self, key: str, first: str, last: str) -> bool:
        """Whether a key from `first` to `last`, both included, can be in it."""
        return key not in self.ends or (self.ends[key][0] <= last and self.ends[key][1] >= first)


class Snapshot:
    """A data set as one commit left it. Nothing in it ever changes."""

    def __init__(self, lake: "Lake", commit: Commit):
        self.lake = lake
        self.commit = commit

    @property
    def number(self) -> int:
        return self.commit.number

    @property
    def dataset(self) -> str:
        return self.commit.dataset

    @property
    def name(self) -> str:
        """URI#DATASET@NUMBER, what every command takes."""
        return f"{self.lake.uri}#{self.dataset}@{self.number}"

    def __repr__(self) -> str:
        return f"Snapshot({self.name})"

    def _scan(self, table: str, columns: Sequence[str] | None = None) -> Any:
        if table not in TABLES:
            raise WrongCall(f"unknown table {table!r}; there are {', '.join(TABLES)} and the view ledger")
        iceberg = self.lake.iceberg(table) if table in self.commit.tables else None
        if iceberg is None:
            return None
        known = {field.name for field in iceberg.schema().fields}
        missing = set(columns or ()) - known
        if missing:
            raise WrongCall(f"table {table} has no column {sorted(missing)[0]!r}; it has {', '.join(sorted(known))}")
        wanted = tuple(columns) if columns else ("*",)
        scan = iceberg.scan(snapshot_id=self.commit.tables[table], selected_fields=wanted)
        return scan.filter(f"dataset == '{self.dataset}'") if table == "decisions" else scan

    def columns(self, table: str) -> list[str]:
        """Names of the columns that a table of this snapshot has."""
        iceberg = self.lake.iceberg(table) if table in self.commit.tables else None
        return [c.name for c in TABLES[table]] if iceberg is None else [f.name for f in iceberg.schema().fields]

    def files(self, table: str) -> list[str]:
        """Exactly the Parquet files of a table in this snapshot: local paths, or URIs in a bucket."""
        return [file.uri for file in self.keyed_files(table)]

    def keyed_files(self, table: str) -> list[KeyedFile]:
        """The same, with what Iceberg's manifests tell of each: no file is opened."""
        scan = self._scan(table)
        if scan is None:
            return []
        ids = {field.name: field.field_id for field in scan.projection().fields if field.name in KEYS}
        found = []
        for task in scan.plan_files():
            lows, highs = task.file.lower_bounds or {}, task.file.upper_bounds or {}
            ends = {key: (lows[i].decode(), highs[i].decode()) for key, i in ids.items() if i in lows and i in highs}
            found.append(KeyedFile(task.file.file_path.removeprefix("file://"), task.file.record_count, ends))
        return sorted(found, key=lambda file: file.uri)

    def schema(self, table: str) -> pa.Schema:
        """Columns of a table as of this snapshot, of which older files may lack some."""
        scan = self._scan(table)
        return arrow_schema(TABLES[table]) if scan is None else narrow_schema(scan.projection().as_arrow())

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """This data set's rows of a table, or of the view `ledger`."""
        if name == "ledger":
            ledger = self.ledger()
            return ledger.select(list(columns)) if columns else ledger
        if name == "decisions":
            return self._rows(name, columns)
        key = "uri" if name == "videos" else "clip_id"
        rows = self._rows(name, None if columns is None else list(dict.fromkeys([*columns, key])))
        mine = self._rows("decisions", [key]).column(key).drop_null().unique()
        with duckdb.connect() as db:
            db.register("rows", rows)
            db.register("mine", pa.table({key: mine}))
            kept = db.sql(
                f'SELECT rows.* FROM rows SEMI JOIN mine USING ("{key}") ORDER BY rows."{key}"'
            ).to_arrow_table()
        return kept.select(list(columns)) if columns else kept

    def _rows(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        scan = self._scan(name, columns)
        if scan is None:
            empty = arrow_schema(TABLES[name]).empty_table()
            return empty.select(list(columns)) if columns else empty
        return narrow(scan.to_arrow())

    # --- statistics ------------------------------------------------------------------------------------------------

    @property
    def statistics_key(self) -> str:
        """Names what the statistics are a function of: the data set's rows."""
        text = json.dumps([self.dataset, self.commit.tables], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @cached_property
    def _statistics(self) -> Statistics:
        found = self.written_statistics()
        return self.scanned_statistics() if found is None else found

    def statistics(self) -> Statistics:
        """Mask counts, histograms and a sample, as the commit wrote them; a lake of before is scanned."""
        return self._statistics

    def written_statistics(self) -> Statistics | None:
        """The same, or None where the commit wrote none, or not of all clips: never a scan."""
        found = statistics.read(self.lake.uri, self.statistics_key)
        return found if found is not None and found.clips == self.commit.counts.get("clips_in", found.clips) else None

    def scanned_statistics(self) -> Statistics:
        """The same by reading every row of the data set: joined a part of the identities at a time, counted a batch at a time."""
        names = [name for name in self.columns("clips") if name not in FROM_DECISIONS]
        chosen = ", ".join(f'c."{name}"' for name in names if name == "clip_id" or name in self._numeric())
        decided = ", ".join(f"d.{name}" for name in FROM_DECISIONS)
        clips, decisions = self.arrow("clips"), self.arrow("decisions")
        parts = clips.count_rows() // PART + 1
        ends = ["", *(f"{i * 2**32 // parts:08x}" for i in range(1, parts)), None]  # identities are hexadecimal hashes
        signals = statistics.rule_signals(self.commit.recipe)

        def batches(db: duckdb.DuckDBPyConnection) -> Iterator[pa.Table]:
            for low, high in itertools.pairwise(ends):
                ranges = [f"{row}.clip_id >= '{low}'" for row in "cd"]
                ranges += [f"{row}.clip_id < '{high}'" for row in "cd" if high is not None]
                reader = db.sql(
                    f"SELECT {chosen}, {decided} FROM clips c JOIN decisions d USING (clip_id) "
                    f"WHERE d.dataset = '{self.dataset}' AND d.kind = 'clip' AND {' AND '.join(ranges)}"
                ).to_arrow_reader(BATCH)
                yield reader.schema.empty_table()
                yield from (pa.table(batch) for batch in reader)

        with duckdb.connect() as db:
            db.register("clips", clips)
            db.register("decisions", decisions)
            return Statistics.merged(Statistics.of(batch, signals) for batch in batches(db))

    def _numeric(self) -> set[str]:
        return set(statistics.score_columns(self.arrow("clips").schema))

    def arrow(self, table: str) -> "pads.Dataset":
        """The files of a table as one Arrow data set, read as they are wanted; columns that older files lack are null there."""
        system, _ = filesystem(self.lake.uri)
        paths = [path if is_local(path) else filesystem(path)[1] for path in self.files(table)]
        import pyarrow.dataset as pads  # takes 1.2 GB of address space, which decoders in prison have not to spare

        return pads.dataset(paths, schema=self.schema(table), format="parquet", filesystem=system)

    def ledger(self) -> pa.Table:
        """What became of everything that entered: one row per video, and one per clip."""
        names = ", ".join(f"{'v' if c.name == 'damaged' else 'c' if c.name in SPAN else 'd'}.{c.name}" for c in LEDGER)
        with duckdb.connect() as db:
            db.register("d", self._rows("decisions"))
            db.register("c", self._rows("clips", ["clip_id", *SPAN]))
            db.register("v", self._rows("videos", ["uri", "video_id", "damaged"]))
            return db.sql(
                f"SELECT {names} FROM d LEFT JOIN c USING (clip_id) LEFT JOIN v ON d.uri = v.uri AND d.video_id = v.video_id "
                "ORDER BY d.kind DESC, d.uri, c.start_seconds, d.clip_id"
            ).to_arrow_table()

    def kept_clips(self) -> pa.Table:
        """What training reads: one row per kept clip, by clip_id, with span, size, crop box, caption and held-out split."""
        with duckdb.connect() as db:
            db.register("d", self._rows("decisions"))
            db.register("c", self.table("clips"))
            db.register("k", self.table("captions"))
            return db.sql(
                "SELECT c.clip_id, c.video_id, d.uri, c.stream_index, c.start_pts, c.end_pts, c.time_base_numerator, "
                "c.time_base_denominator, c.start_seconds, c.end_seconds, c.width, c.height, c.fps, c.num_frames, "
                "k.caption, k.camera_motion, d.split, d.duplicate_group, c.has_sound, "
                "coalesce(c.crop_left, 0)::BIGINT AS crop_left, coalesce(c.crop_top, 0)::BIGINT AS crop_top, "
                "coalesce(c.crop_width, c.width)::BIGINT AS crop_width, coalesce(c.crop_height, c.height)::BIGINT AS crop_height "
                "FROM d JOIN c USING (clip_id) LEFT JOIN k USING (clip_id) WHERE d.kind = 'clip' AND d.fate = 'kept' ORDER BY c.clip_id"
            ).to_arrow_table()


def narrow(table: pa.Table) -> pa.Table:
    """Iceberg reads text as large_string; every reader of ours gets string."""
    return table.cast(narrow_schema(table.schema))


def narrow_schema(schema: pa.Schema) -> pa.Schema:
    """The same of a schema."""
    fields = []
    for item in schema:
        kind = item.type
        if pa.types.is_large_string(kind):
            kind = pa.string()
        elif pa.types.is_large_list(kind) or pa.types.is_list(kind):
            inner = kind.value_type
            kind = pa.list_(pa.string() if pa.types.is_large_string(inner) else inner)
        fields.append(pa.field(item.name, kind))
    return pa.schema(fields)
