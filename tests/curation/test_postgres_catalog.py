"""A lake whose catalog is a real PostgreSQL: commits, one writer at a time, and a catalog that does not answer."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from api.cli import main
from curation.clips import Lake, WrongCall, open_snapshot
from curation.clips.database import database_url

pytestmark = pytest.mark.postgres


@pytest.fixture
def catalog(postgres: str) -> str:
    """The URL, as people write it, of a database with nothing in it."""
    server = sa.create_engine(database_url(postgres), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS lake WITH (FORCE)"))
        connection.execute(sa.text("CREATE DATABASE lake"))
    server.dispose()
    return postgres.rpartition("/")[0] + "/lake"


def write(lake: Lake, name: str) -> int:
    rows = {"clip_id": [name], "embedder": ["e"], "embedding": pa.array([[1.0, 0.0]], pa.list_(pa.float32()))}
    lake.append("embeddings", pa.table(rows))
    return lake.commit("d", recipe_hash="h", recipe={}, code_version="0", counts={}, measured_by="m", run=name).number


def _hold(uri: str, catalog: str, ready: Connection) -> None:
    with Lake(uri, catalog).committer():
        ready.send("held")
        ready.recv()


def test_a_lake_in_a_folder_has_its_catalog_in_postgresql(
    tmp_path: Path, catalog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = str(tmp_path / "lake")
    lake = Lake(uri, catalog)
    assert lake.commits() == []
    lake.create()
    with lake.committer():
        assert [write(lake, "first"), write(lake, "second")] == [1, 2]
    assert [commit.run for commit in Lake(uri, catalog).commits()] == ["first", "second"]
    assert len(open_snapshot(f"{uri}#d@1", catalog).files("embeddings")) == 1
    assert main(["manifest", "files", "--out", uri, "--catalog", catalog, "--table", "embeddings"]) == 0
    assert len(capsys.readouterr().out.split()) == 2


def test_the_lock_of_a_killed_writer_is_free_and_that_of_a_living_one_is_not(tmp_path: Path, catalog: str) -> None:
    uri, context = str(tmp_path / "lake"), multiprocessing.get_context("forkserver")
    lake = Lake(uri, catalog)
    lake.create()
    here, there = context.Pipe()
    writer = context.Process(target=_hold, args=(uri, catalog, there))
    writer.start()
    assert here.recv() == "held"
    with pytest.raises(WrongCall, match="another run is writing"), lake.committer(wait=0.2):
        pass
    writer.kill()
    writer.join()
    with lake.committer(wait=10):
        assert write(lake, "after") == 1


def test_a_catalog_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(WrongCall, match=r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x does not answer") as caught:
        Lake(str(tmp_path / "lake"), "postgresql://me:secret@127.0.0.1:1/x").create()
    assert "secret" not in str(caught.value)
    with pytest.raises(WrongCall, match="mysql:// is not known"):
        Lake(str(tmp_path / "lake"), "mysql://x/y")
