"""What the routes call tables: the ledger, clips and videos of a snapshot, as SQL over its Parquet files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from api.query import QueryEngine, Reader, name_of, text
from curation.clips import Snapshot
from curation.clips.schema import LEDGER, TABLES, arrow_schema

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
class View:
    """One table of one snapshot. columns: name -> (SQL expression, DuckDB's name of its type), in order."""

    snapshot: Snapshot
    table: TableName
    columns: dict[str, tuple[str, str]]
    files: dict[str, list[str]]

    def sources(self, names: Collection[str]) -> set[str]:
        """Which joined tables, beside the decisions, these columns lie in."""
        return {self.columns[name][0].partition(".")[0] for name in names} - {"d"}

    def joined(self, reader: Reader, kind: Kind, names: Collection[str], between: tuple[str, str] | None = None) -> str:
        """`FROM ... WHERE ...` of the rows of one kind with these columns.

        between: first and last clip_id (of clips) or uri (of videos). Every table is told, not only the first, so that DuckDB
        passes over the row groups of each that hold none of them.
        """
        key = "clip_id" if kind == "clip" else "uri"

        def source(alias: str) -> str:
            files = reader.files(self.files[alias], _schema(alias))
            if between is None or (kind == "clip" and alias == "v"):
                return files
            return f"(SELECT * FROM {files} WHERE {key} BETWEEN {text(between[0])} AND {text(between[1])})"

        sql = f"FROM {source('d')} d"
        for alias in sorted(self.sources(names)):
            sql += f" LEFT JOIN {source(alias)} {alias} ON {JOINS[alias]}"
        return f"{sql} WHERE d.dataset = {text(self.snapshot.dataset)} AND d.kind = '{kind}'"

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
        self._known = Remembered(64)
        self.counts = Remembered(10_000)

    def open(self, snapshot: Snapshot, table: TableName) -> View:
        return self._known.get((snapshot.name, table), lambda: self._open(snapshot, table))

    def _open(self, snapshot: Snapshot, table: TableName) -> View:
        files = {alias: snapshot.files(name) for alias, name in TABLE_OF.items()}
        with self.engine.cursor() as reader:
            kinds = {alias: _kinds(reader, alias, files[alias]) for alias in TABLE_OF}
        places: list[tuple[str, str]] = []
        if table == "ledger":
            places = [
                (column.name, "v" if column.name == "damaged" else "c" if column.name in SPAN else "d")
                for column in LEDGER
            ]
        else:
            key, own = ("clip_id", "c") if table == "clips" else ("video_id", "v")
            places = [(key, "d")] + [(name, "d") for name in DECIDED]
            places += [(name, own) for name in kinds[own]]
            if table == "clips":
                places += [("caption", "k"), ("camera_motion", "k")]
        columns: dict[str, tuple[str, str]] = {}
        for name, alias in places:
            columns.setdefault(name, (f"{alias}.{name_of(name)}", kinds[alias][name]))
        return View(snapshot, table, columns, files)


def _kinds(reader: Reader, alias: str, files: list[str]) -> dict[str, str]:
    return {row[0]: row[1] for row in reader.rows(f"DESCRIBE SELECT * FROM {reader.files(files, _schema(alias))}")}


def _schema(alias: str) -> pa.Schema:
    return arrow_schema(TABLES[TABLE_OF[alias]])
