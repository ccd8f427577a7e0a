"""The database behind the routes: what it may read, and that no query holds it for long."""

import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from api.query import QueryEngine, TooSlow
from api.settings import Settings

SLOW = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = 7"


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    (tmp_path / "lake" / "tables").mkdir(parents=True)
    made = QueryEngine(
        Settings(data=str(tmp_path / "lake"), query_seconds=0.3, query_memory="64MiB", query_disk="1MiB")
    )
    yield made
    made.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('{lake}/../secret.parquet')",
        "SELECT * FROM read_parquet('{lake}/tables/../../secret.parquet')",
        "SELECT * FROM read_parquet('{lake}/tables/link.parquet')",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
        "COPY (SELECT 1) TO '/tmp/stolen.csv'",
        "ATTACH '{lake}/tables/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 64",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "CREATE TABLE t AS SELECT 1",
        "DROP TABLE t",
        "SELECT 1; SELECT 2",
        "CALL duckdb_settings()",
    ],
)
def test_it_reads_the_lakes_tables_and_nothing_else(engine: QueryEngine, tmp_path: Path, sql: str) -> None:
    duckdb.sql("SELECT 42 AS answer").write_parquet(str(tmp_path / "secret.parquet"))
    (tmp_path / "lake" / "tables" / "link.parquet").symlink_to(tmp_path / "secret.parquet")
    with pytest.raises((duckdb.Error, AssertionError)), engine.cursor() as reader:
        reader.rows(sql.format(lake=tmp_path / "lake"))


def test_what_lies_in_the_tables_is_read(engine: QueryEngine, tmp_path: Path) -> None:
    inside = tmp_path / "lake" / "tables" / "inside.parquet"
    duckdb.sql("SELECT 42 AS answer").write_parquet(str(inside))
    with engine.cursor() as reader:
        assert reader.rows(f"SELECT answer FROM {reader.files([str(inside)], None)}") == [(42,)]  # type: ignore[arg-type]


def test_a_query_that_takes_too_long_is_interrupted_and_the_next_one_runs(engine: QueryEngine) -> None:
    begun = time.monotonic()
    with pytest.raises(TooSlow), engine.cursor() as reader:
        reader.rows(SLOW)
    assert time.monotonic() - begun < 5
    with engine.cursor() as reader:
        assert reader.rows("SELECT 1") == [(1,)]


def test_memory_has_a_limit(engine: QueryEngine) -> None:
    with pytest.raises(TooSlow), engine.cursor() as reader:
        reader.rows("SELECT list(md5(range::VARCHAR)) FROM range(100000000)")


def test_a_slow_query_is_a_problem_that_says_what_to_do(settings: Any, open_service: Any, demo_snapshot: str) -> None:
    with open_service(settings.model_copy(update={"query_seconds": 1e-6})) as hurried:
        answer = hurried.get("/v1/datasets/demo/statistics")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "fewer columns" in answer.json()["detail"] and answer.headers["retry-after"]


def test_a_database_gives_way_to_a_new_one_under_its_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.query.CURSORS_PER_DATABASE", 3)
    engine = QueryEngine(Settings(data=str(tmp_path)))
    with engine.cursor() as old:
        for number in range(10):
            with engine.cursor() as reader:
                assert reader.rows("SELECT ?", [number]) == [(number,)]
                with pytest.raises(duckdb.Error):
                    reader.rows("SELECT * FROM read_text('/etc/passwd')")
        assert old.rows("SELECT 1") == [(1,)]
    engine.close()
