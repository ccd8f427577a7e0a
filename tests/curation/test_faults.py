"""The n-th call to the file system or to the database fails while a batch is committed, for every n: error, half a file, or death."""

import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from pyiceberg.io.pyarrow import PyArrowFile

from curation.clips import Lake
from curation.clips.iceberg.upkeep import sweep
from tests.curation.test_upkeep import ROWS, commit, new_lake, vectors

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["curation.clips.manifest"])
DIED = 77


class Faults:
    """Counts what a lake asks of its stores, and strikes at the chosen call: by an error, or by the end of the process."""

    def __init__(self, at: int | None = None, dies: bool = False):
        self.at, self.dies, self.calls = at, dies, 0

    def point(self, error: Exception, halfway: Callable[[], object] = lambda: None) -> None:
        self.calls += 1
        if self.calls - 1 == self.at:
            halfway()
            if self.dies:
                os._exit(DIED)
            raise error


class FaultyCursor(sqlite3.Cursor):
    faults: ClassVar[Faults]

    def execute(self, *words: Any) -> Any:
        self.faults.point(sqlite3.OperationalError("disk I/O error"))
        return super().execute(*words)


class FaultyConnection(sqlite3.Connection):
    faults: ClassVar[Faults]

    def cursor(self, *_: Any) -> Any:
        return super().cursor(FaultyCursor)

    def commit(self) -> None:
        self.faults.point(sqlite3.OperationalError("disk I/O error"))
        super().commit()


@contextmanager
def injected(lake: Lake, faults: Faults) -> Iterator[None]:
    """Every file that Iceberg creates, and every statement and commit of the catalog, passes by."""
    create = PyArrowFile.create

    def faulty_create(file: PyArrowFile, overwrite: bool = False) -> Any:
        path = Path(file.location.removeprefix("file://"))
        faults.point(OSError(5, "Input/output error"), lambda: path.write_bytes(b"PAR1 half of a file"))
        return create(file, overwrite)

    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> sqlite3.Connection:
        return sqlite3.connect(Path(lake.uri) / "catalog.db", factory=FaultyConnection, check_same_thread=False)

    engines = [lake._catalog.engine, lake.log.engine]  # made before faults begin
    FaultyCursor.faults = FaultyConnection.faults = faults
    for engine in engines:
        sa.event.listen(engine, "do_connect", connect)
        engine.dispose()
    PyArrowFile.create = faulty_create  # type: ignore[method-assign]
    try:
        yield
    finally:
        PyArrowFile.create = create  # type: ignore[method-assign]
        for engine in engines:
            sa.event.remove(engine, "do_connect", connect)
            engine.dispose()


def write(lake: Lake) -> None:
    with lake.committer(wait=10):
        lake.append("embeddings", vectors(1), batch=("run", "1"))
        commit(lake)


def copied(lake: Lake, original: Path) -> None:
    """The lake as it was before the batch, at the same place, since Iceberg keeps absolute paths."""
    shutil.rmtree(lake.uri)
    shutil.copytree(original, lake.uri)


def require_whole_and_writable(uri: str) -> None:
    """Readers see the batch or nothing of it; the same words again write it once; what nothing names is swept."""
    lake = Lake(uri)
    commits = len(lake.commits())
    assert commits in (1, 2)
    before = lake.snapshot("d").files("embeddings")
    assert len(before) == commits, "a commit without its batch, or half of one"
    assert lake.head("embeddings").num_rows in (ROWS, 2 * ROWS)
    write(lake)
    assert lake.head("embeddings").num_rows == 2 * ROWS and len(lake.snapshot("d").files("embeddings")) == 2
    with lake.committer(wait=10):
        sweep(lake, hours=0)
    assert Lake(uri).head("embeddings").num_rows == 2 * ROWS


def _calls(lake: Lake) -> int:
    counted = Faults()
    with injected(lake, counted):
        write(lake)
    return counted.calls


@pytest.fixture
def started(tmp_path: Path) -> tuple[Lake, Path]:
    """A lake with one batch, and a copy of it."""
    lake = new_lake(tmp_path)
    lake.append("embeddings", vectors(0), batch=("run", "0"))
    commit(lake)
    shutil.copytree(lake.uri, tmp_path / "original")
    return lake, tmp_path / "original"


def test_an_error_of_any_call_leaves_all_or_nothing(started: tuple[Lake, Path]) -> None:
    lake, original = started
    calls = _calls(lake)
    assert calls >= 15
    refused = 0
    for at in range(calls):
        copied(lake, original)
        fresh = Lake(lake.uri)
        with injected(fresh, Faults(at)):
            try:
                write(fresh)
            except (OSError, sa.exc.SQLAlchemyError):
                refused += 1
        require_whole_and_writable(lake.uri)
    print(f"{calls} calls, an error at each: {refused} told, the others healed; 0 lost, 0 partial, 0 doubled")


def _die_at(uri: str, at: int) -> None:
    lake = Lake(uri)
    with injected(lake, Faults(at, dies=True)):
        write(lake)


@pytest.mark.slow
def test_death_at_any_call_leaves_all_or_nothing(started: tuple[Lake, Path]) -> None:
    lake, original = started
    calls = _calls(lake)
    for at in range(calls):
        copied(lake, original)
        writer = CONTEXT.Process(target=_die_at, args=(lake.uri, at))
        writer.start()
        writer.join()
        assert writer.exitcode == DIED
        require_whole_and_writable(lake.uri)
    print(f"{calls} calls, death at each: 0 lost, 0 partial, 0 doubled")
