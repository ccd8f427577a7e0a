"""Questions to a snapshot's rows at any size: a page by key, an exact count at other thresholds. Server-written SQL over its files."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from curation.clips.errors import WrongCall
from curation.clips.snapshot import Snapshot
from curation.clips.statistics import FROM_DECISIONS
from curation.clips.storage import is_local

MAX_PAGE = 1_000
LAST = "g"  # after every hexadecimal number
COMPARISONS = ("<", "<=", ">", ">=")


class Asked(Protocol):
    """A rule as recipes write it: a row passes when `signal comparison threshold` holds, or was not measured."""

    @property
    def signal(self) -> str: ...
    @property
    def comparison(self) -> str: ...
    @property
    def threshold(self) -> float: ...


class Rows:
    """One snapshot, opened for questions. Not for two threads at once.

    memory: what DuckDB may hold, its words ("1GiB"); more is spilled to its temporary folder.
    """

    def __init__(self, snapshot: Snapshot, memory: str = "1GiB", threads: int = 2):
        self.snapshot = snapshot
        self._db = duckdb.connect(config={"memory_limit": memory, "threads": threads})
        self._db.execute("SET parquet_metadata_cache = true")  # files never change
        for table in ("clips", "decisions"):
            files = snapshot.files(table)
            if files and all(is_local(file) for file in files):
                listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
                self._db.execute(f"CREATE VIEW {table} AS FROM read_parquet([{listed}], union_by_name = true)")
            else:
                self._db.register(table, snapshot.arrow(table))

    def close(self) -> None:
        self._db.close()

    def page(self, limit: int, after: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """At most `limit` clips of the data set whose clip_id comes after `after`, by clip_id, with their decisions.

        columns: of the clips table, all by default. The next page begins after the last clip_id of this one. Raises `WrongCall`.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise WrongCall(f"limit {limit} must be from 1 to {MAX_PAGE}")
        decided = self._decided(after or "", limit)
        ids = decided["clip_id"].to_pylist()
        names = self._known(columns) if columns else [n for n in self._columns if n not in FROM_DECISIONS]
        chosen = ", ".join(f'"{name}"' for name in dict.fromkeys(["clip_id", *names]))
        if not ids:
            decided_names = ", ".join(f"d.{name}" for name in FROM_DECISIONS)
            return self._ask(
                f"SELECT {chosen}, {decided_names} FROM clips JOIN (SELECT clip_id, {', '.join(FROM_DECISIONS)} FROM decisions) d USING (clip_id) LIMIT 0",
                [],
            )
        clips = self._ask(  # the ends of the range let row groups be passed over
            f"SELECT {chosen} FROM clips WHERE clip_id BETWEEN ? AND ? AND clip_id IN (SELECT unnest(?)) ORDER BY clip_id",
            [ids[0], ids[-1], ids],
        )
        places = pc.index_in(clips["clip_id"], value_set=decided["clip_id"])
        for name in FROM_DECISIONS:
            clips = clips.append_column(name, decided[name].take(places))
        return clips

    def _decided(self, after: str, limit: int) -> pa.Table:
        """Decisions of the next clips. Identities are hashes, so where the next `limit` end is known nearly, and no more is read."""
        share = 2 * limit / max(1, self._clips)
        while True:
            end = _further(after, share)
            found = self._ask(
                f"SELECT clip_id, {', '.join(FROM_DECISIONS)} FROM decisions WHERE clip_id > ? AND clip_id <= ? AND dataset = ? "
                "AND kind = 'clip' ORDER BY clip_id LIMIT ?",
                [after, end, self.snapshot.dataset, limit],
            )
            if found.num_rows == limit or end == LAST:
                return found
            share *= 8

    def passing(self, rules: Iterable[Asked]) -> int:
        """Exactly how many clips of the data set fail none of these rules, before copies and balance are asked; unmeasured passes."""
        asked = list(rules)
        self._known([rule.signal for rule in asked])
        for rule in asked:
            if rule.comparison not in COMPARISONS:
                raise WrongCall(f"comparison {rule.comparison!r} is none of {' '.join(COMPARISONS)}")
        conditions = [f'("{rule.signal}" IS NULL OR "{rule.signal}" {rule.comparison} ?)' for rule in asked]
        if not self._owns_all:
            conditions.append("clip_id IN (SELECT clip_id FROM decisions WHERE dataset = ? AND kind = 'clip')")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        values: list[Any] = [rule.threshold for rule in asked]
        counted = self._ask(
            f"SELECT count(*) AS n FROM clips{where}", values + ([] if self._owns_all else [self.snapshot.dataset])
        )
        return int(counted["n"][0].as_py())

    @cached_property
    def _clips(self) -> int:
        """Clips of the data set."""
        counted = self._ask(
            "SELECT count(*) AS n FROM decisions WHERE dataset = ? AND kind = 'clip'", [self.snapshot.dataset]
        )
        return int(counted["n"][0].as_py())

    @cached_property
    def _owns_all(self) -> bool:
        """Whether every clip of the lake is in this data set: then nothing need be joined. A clip has one row, and so one decision."""
        return bool(self._ask("SELECT count(*) AS n FROM clips", [])["n"][0].as_py() == self._clips)

    @cached_property
    def _columns(self) -> list[str]:
        """Columns of the clips table that some file of it has."""
        return list(self._ask("SELECT * FROM clips LIMIT 0", []).column_names)

    def _known(self, names: Sequence[str]) -> list[str]:
        for name in names:
            if name not in self._columns:
                raise WrongCall(f"clips have no column {name!r}; they have {', '.join(sorted(self._columns))}")
        return list(names)

    def _ask(self, query: str, values: list[Any]) -> pa.Table:
        return self._db.sql(query, params=values).to_arrow_table()


def _further(clip_id: str, share: float) -> str:
    """The identity that lies a share of all identities beyond this one; the last of all where there is none."""
    try:
        place = int(clip_id[:8].ljust(8, "0"), 16) + int(share * 2**32) + 1
    except ValueError:
        return LAST
    return LAST if place >= 2**32 else f"{place:08x}"
