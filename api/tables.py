"""What the routes call tables: the ledger, clips and videos of a snapshot, as SQL over its Parquet files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from api.query import QueryEngine, Reader, name_of, text
from curation.clips import Snapshot
from curation.clips.schema import LEDGER, TABLES, arrow_schema
from curation.clips.snapshot import KeyedFile

TableName = Literal["ledger", "clips", "videos"]
Kind = Literal["clip", "video"]
DECIDED = (
    "uri", "fate", "stage", "rule", "value", "comparison", "threshold", "reason", "duplicate_of", "failed_rules",
    "unmeasured", "split",
)  # fmt: skip
PARTS: dict[TableName, tuple[Kind, ...]] = {"ledger": ("clip", "video"), "clips": ("clip",), "videos": ("video",)}
"""Rows come by kind, clips by clip_id and videos by uri and video_id."""
KEYS: dict[Kind, tuple[str, ...]] = {"clip": ("d.clip_id",), "video": ("d.uri", "coalesce(d.video_id, '')")}
JOINS = {
    "c": "c.clip_id = d.clip_id",
    "k": "k.clip_id = d.clip_id",
    "v": "v.uri = d.uri AND coalesce(v.video_id, '') = coalesce(d.video_id, '')",
}
TABLE_OF = {"d": "decisions", "c": "clips", "k": "captions", "v": "videos"}
SPAN = ("start_seconds", "end_seconds")
IDENTITIES = ("start_", "end_", "time_base", "crop_", "cluster", "stream_")


class Remembered:
    """What was worked out of snapshots, which never change. The least recently used leaves beyond `most` entries."""

    def __init__(self, most: int):
        self.most = most
        self._held: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()  # outside of the lock: two may make the same, none waits for another's
        with self._lock:
            self._held[key] = made
            while len(self._held) > self.most:
                self._held.popitem(last=False)
        return made


class TableCache:
    """Arrow tables worked out of snapshots. The least recently used leave beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self._tables: OrderedDict[tuple[str, str], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, snapshot: Snapshot, name: str, make: Callable[[], pa.Table]) -> pa.Table:
        """What `make` returns, made at most once while it stays in memory."""
        key = (snapshot.name, name)
        with self._lock:  # also keeps two requests from loading the same table at once
            table = self._tables.pop(key, None)
            if table is None:
                table = make().combine_chunks()
            self._tables[key] = table
            while len(self._tables) > 1 and sum(held.nbytes for held in self._tables.values()) > self.limit_bytes:
                self._tables.popitem(last=False)
        return table


@dataclass(frozen=True)
class Source:
    """One of the tables that rows are joined from. kinds: column -> DuckDB's name of its type."""

    schema: pa.Schema
    kinds: dict[str, str]
    files: list[KeyedFile]

    @property
    def rows(self) -> int:
        """Of the whole table, whichever data sets they belong to."""
        return sum(file.rows for file in self.files)

    def between(self, reader: Reader, key: str, ends: tuple[str, str] | None) -> str:
        """SQL of the table; of its rows with keys between two ends, both included, if they are given. Other files are not opened."""
        files = [file.uri for file in self.files if ends is None or file.may_hold(key, *ends)]
        sql = reader.files(files, self.schema, self.kinds)
        return sql if ends is None else f"(SELECT * FROM {sql} WHERE {key} BETWEEN {text(ends[0])} AND {text(ends[1])})"


@dataclass(frozen=True)
class View:
    """One table of one snapshot. columns: name -> (SQL expression, DuckDB's name of its type), in order."""

    snapshot: Snapshot
    table: TableName
    columns: dict[str, tuple[str, str]]
    sources: dict[str, Source]

    def aliases(self, names: Collection[str]) -> set[str]:
        """Which sources these columns lie in."""
        return {self.columns[name][0].partition(".")[0] for name in names}

    def mine(self, kind: Kind) -> str:
        """The condition that a decision is of this data set and kind."""
        return f"d.dataset = {text(self.snapshot.dataset)} AND d.kind = '{kind}'"

    def joined(self, reader: Reader, kind: Kind, names: Collection[str], ends: tuple[str, str] | None = None) -> str:
        """`FROM ... WHERE ...` of the rows of one kind with these columns.

        ends: first and last clip_id (of clips) or uri (of videos). Every table is told, not only the first, so that files and row
        groups of each that hold none of them are passed over.
        """
        key = KEYS[kind][0].partition(".")[2]
        sql = f"FROM {self.sources['d'].between(reader, key, ends)} d"
        for alias in sorted(self.aliases(names) - {"d"}):
            source = self.sources[alias]
            other = "uri" if alias == "v" else key
            sql += (
                f" LEFT JOIN {source.between(reader, other, ends if other == key else None)} {alias} ON {JOINS[alias]}"
            )
        return f"{sql} WHERE {self.mine(kind)}"

    @property
    def owns_clips(self) -> bool:
        """Whether every clip of the lake is in this data set: what is asked of clips alone need not be joined then."""
        return self.sources["c"].rows == self.snapshot.commit.counts.get("clips_in")

    @property
    def numbers(self) -> list[str]:
        """Columns that can be compared with a threshold: integers and floats, not identities."""
        return [
            name
            for name, (_, kind) in self.columns.items()
            if kind in ("BIGINT", "DOUBLE", "FLOAT", "INTEGER") and not name.startswith(IDENTITIES)
        ]


class Views:
    """Opens tables of snapshots."""

    def __init__(self, engine: QueryEngine):
        self.engine = engine
        self._known = Remembered(256)
        self.counts = Remembered(10_000)

    def open(self, snapshot: Snapshot, table: TableName) -> View:
        return self._known.get((snapshot.name, table), lambda: self._open(snapshot, table))

    def _open(self, snapshot: Snapshot, table: TableName) -> View:
        sources = {
            alias: self._known.get((snapshot.name, alias), partial(self._source, snapshot, alias)) for alias in TABLE_OF
        }
        places: list[tuple[str, str]] = []
        if table == "ledger":
            places = [
                (column.name, "v" if column.name == "damaged" else "c" if column.name in SPAN else "d")
                for column in LEDGER
            ]
        else:
            key, own = ("clip_id", "c") if table == "clips" else ("video_id", "v")
            places = [(key, "d")] + [(name, "d") for name in DECIDED]
            places += [(name, own) for name in sources[own].kinds]
            if table == "clips":
                places += [("caption", "k"), ("camera_motion", "k")]
        columns: dict[str, tuple[str, str]] = {}
        for name, alias in places:
            columns.setdefault(name, (f"{alias}.{name_of(name)}", sources[alias].kinds[name]))
        return View(snapshot, table, columns, sources)

    def _source(self, snapshot: Snapshot, alias: str) -> Source:
        name = TABLE_OF[alias]
        schema = snapshot.schema(name)
        # what this version knows and an older lake lacks is null there
        for field in arrow_schema(TABLES[name]):
            schema = schema if field.name in schema.names else schema.append(field)
        with self.engine.cursor() as reader:
            told = reader.rows(f"DESCRIBE SELECT * FROM {reader.register(schema.empty_table())}")
        kinds = {row[0]: row[1] for row in told}
        return Source(schema, kinds, snapshot.keyed_files(name))
