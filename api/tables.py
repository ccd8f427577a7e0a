"""Tables of snapshots as the routes read them: joined, in a fixed order, held in memory while they are used."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from curation.clips import Snapshot

TableName = Literal["ledger", "clips", "videos"]
DECIDED = (
    "uri", "fate", "stage", "rule", "value", "comparison", "threshold", "reason", "duplicate_of", "failed_rules",
    "unmeasured", "split",
)  # fmt: skip
ORDER = ("kind", "uri", "start_seconds", "video_id", "clip_id")
"""Rows come by what they are, where they lie, and when they start."""


class TableCache:
    """A snapshot never changes, so neither do its tables. The least recently used leave beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self._tables: OrderedDict[tuple[str, str], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, snapshot: Snapshot, name: TableName) -> pa.Table:
        """The rows of the data set in their fixed order; clips and videos carry what was decided about them."""
        return self.remember(snapshot, name, lambda: _ordered(_read(snapshot, name)))

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


def _read(snapshot: Snapshot, name: TableName) -> pa.Table:
    if name == "ledger":
        return snapshot.table("ledger")
    decisions = snapshot.table("decisions")
    if name == "videos":
        decided = decisions.filter(pc.equal(decisions["kind"], "video"))
        return beside(decided.select(["video_id", *DECIDED]), snapshot.table("videos"), "uri", "video_id")
    decided = decisions.filter(pc.equal(decisions["kind"], "clip"))
    clips = beside(decided.select(["clip_id", *DECIDED]), snapshot.table("clips"), "clip_id")
    return beside(clips, snapshot.table("captions", ["clip_id", "caption", "camera_motion"]), "clip_id")


def beside(left: pa.Table, right: pa.Table, *keys: str) -> pa.Table:
    """`left` with the columns it lacks from the row of `right` with the same keys, null where there is none."""
    places = pc.index_in(_key(left, keys), value_set=_key(right, keys))
    for column in right.column_names:
        if column not in left.column_names:
            left = left.append_column(column, right[column].combine_chunks().take(places))
    return left


def _key(table: pa.Table, names: Sequence[str]) -> pa.Array:
    parts = [pc.fill_null(table[name].cast(pa.string()), "") for name in names]
    joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "\0")
    return joined.combine_chunks()


def _present(table: pa.Table, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in table.column_names]


def _ordered(table: pa.Table) -> pa.Table:
    by = [(name, "ascending") for name in _present(table, ORDER)]
    return table.take(pc.sort_indices(table.select([name for name, _ in by]), by))


def numeric_columns(table: pa.Table) -> list[str]:
    """Columns that can be compared with a threshold: integers and floats, not their identities."""
    numbers = [
        field.name for field in table.schema if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    ]
    return [
        name for name in numbers if not name.startswith(("start_", "end_", "time_base", "crop_", "cluster", "stream_"))
    ]
