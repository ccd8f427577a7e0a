"""DuckDB behind bars: SQL of ours over the Parquet files of one lake, with limits on memory, threads, disk and time."""

import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from api.settings import Settings
from curation.clips.storage import filesystem, is_local, join, normalise

warnings.filterwarnings("ignore", message="Arrow output on a DB-API result")  # few rows are copied knowingly

AT_A_TIME = 4
"""Queries that run at the same time; the others wait, for `query_seconds` at most."""
CURSORS_PER_DATABASE = 500
"""DuckDB 2.0 keeps 6 kB of every join until thousands have run; they live no longer than so many requests."""


class TooSlow(Exception):
    """A query was interrupted, or no place came free in time."""


class QueryEngine:
    """One database in memory that may read the tables of the lake and nothing else, and cannot be talked into more."""

    def __init__(self, settings: Settings):
        self.seconds = settings.query_seconds
        self._settings = settings
        self._places = threading.BoundedSemaphore(AT_A_TIME)
        self._spill = tempfile.TemporaryDirectory(prefix="cinemill-query-")
        self._lock = threading.Lock()
        self._database = self._opened()
        self._cursors = 0

    def _opened(self) -> duckdb.DuckDBPyConnection:
        settings, lake = self._settings, normalise(self._settings.data)
        readable = [str(Path(join(lake, "tables")).resolve()), join(lake, "tables")] if is_local(lake) else []
        database = duckdb.connect()
        for setting in (
            f"memory_limit = {text(settings.query_memory)}",
            f"threads = {settings.query_threads}",
            f"temp_directory = {text(self._spill.name)}",
            f"max_temp_directory_size = {text(settings.query_disk)}",
            "parquet_metadata_cache = true",  # a snapshot's files never change
            "preserve_insertion_order = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "python_enable_replacements = false",
            f"allowed_directories = [{', '.join(text(folder) for folder in readable)}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            database.execute(f"SET {setting}")
        return database

    def _connection(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._cursors == CURSORS_PER_DATABASE:
                self._database, self._cursors = self._opened(), 0  # the old one goes with the last of its cursors
            self._cursors += 1
            return self._database.cursor()

    def close(self) -> None:
        self._database.close()
        self._spill.cleanup()

    @contextmanager
    def cursor(self) -> Iterator["Reader"]:
        """A connection of one request. Everything in it together may take `query_seconds`; then it raises TooSlow."""
        if not self._places.acquire(timeout=self.seconds):
            raise TooSlow
        cursor = self._connection()
        watchdog = threading.Timer(self.seconds, cursor.interrupt)
        watchdog.start()
        try:
            yield Reader(cursor, time.monotonic() + self.seconds)
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise TooSlow from None
        finally:
            watchdog.cancel()
            cursor.close()
            self._places.release()


class Reader:
    """Runs single SELECT statements."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, until: float):
        self._cursor = cursor
        self._until = until
        self._registered = 0

    def files(self, files: Sequence[str], schema: pa.Schema, kinds: Mapping[str, str] | None = None) -> str:
        """SQL of a table function over exactly these Parquet files; columns that a file lacks are null in it.

        schema: of the table, which has no rows where it has no files. kinds: DuckDB's type of columns that none of the files need have.
        Files in a bucket are read through Arrow, which has the credentials; DuckDB itself never touches the network.
        """
        if not files:
            return self.register(schema.empty_table())
        if not all(is_local(file) for file in files):
            system, _ = filesystem(files[0])
            paths = [filesystem(file)[1] for file in files]
            return self.register(pads.dataset(paths, schema=schema, filesystem=system, format="parquet"))
        way = ", union_by_name = true" if len(files) > 1 else ""  # which costs as much again to plan
        sql = f"read_parquet([{', '.join(text(file) for file in files)}]{way})"
        lacking = set(kinds or ()).difference(*(_columns(file) for file in files))
        nulls = ", ".join(f"NULL::{kind} AS {name_of(name)}" for name, kind in (kinds or {}).items() if name in lacking)
        return f"(SELECT *, {nulls} FROM {sql})" if nulls else sql

    def register(self, rows: Any) -> str:
        """A name by which this request's SQL may read an Arrow table or data set."""
        self._registered += 1
        name = f"registered_{self._registered}"
        self._cursor.register(name, rows)
        return name

    def table(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The rows of one SELECT."""
        return self._cursor.sql(self._one_select(sql), params=list(parameters)).to_arrow_table()

    def small_table(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The same for few rows: copied once more, but planned once (a quarter of the time of a page with 87 columns)."""
        return self._cursor.execute(self._one_select(sql), list(parameters)).to_arrow_table()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The same as tuples."""
        return self._cursor.execute(self._one_select(sql), list(parameters)).fetchall()

    def _one_select(self, sql: str) -> str:
        """The second wall: every statement is ours, and still none but a single SELECT or DESCRIBE runs."""
        if time.monotonic() > self._until:  # an interrupt between two statements is lost
            raise TooSlow
        kinds = [statement.type for statement in self._cursor.extract_statements(sql)]
        assert kinds == [duckdb.StatementType.SELECT], f"{kinds}: {sql}"
        return sql


@lru_cache(maxsize=10_000)  # a lake's files never change
def _columns(file: str) -> frozenset[str]:
    """Names of the columns of a Parquet file."""
    return frozenset(pq.read_schema(file).names)


def text(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def name_of(column: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + column.replace('"', '""') + '"'
