"""The lake through Iceberg's REST protocol, read by a client that knows nothing of us: pyiceberg against a real server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, UnauthorizedError

from api.cli import main
from api.settings import Settings
from curation.clips import Lake
from curation.clips.schema import TABLES
from curation.clips.snapshot import narrow
from tests.api.test_diff import clip, write
from tests.api.test_serve import ask, served

CATALOG = "/v1/iceberg/v1"
TABLE = f"{CATALOG}/namespaces/cinemill/tables"


def catalog(url: str, **more: str) -> Any:
    return load_catalog("lake", type="rest", uri=f"{url}/v1/iceberg", **more)


def ordered(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(narrow(table).to_pylist(), key=str)


def letters(table: pa.Table) -> list[str]:
    return sorted(identity[0] for identity in table["clip_id"].to_pylist())


@pytest.fixture(scope="module")
def url(demo_lake: Path, demo_snapshot: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service in a process of its own over the demo lake."""
    with served(demo_lake, CINEMILL_STATE_DIR=str(tmp_path_factory.mktemp("state"))) as opened:
        yield opened


def test_pyiceberg_reads_every_table_as_a_snapshot_gives_it(url: str, demo_lake: Path) -> None:
    lake = catalog(url)
    snapshot = Lake(str(demo_lake)).snapshot("demo")
    assert lake.list_namespaces() == [("cinemill",)] and lake.namespace_exists("cinemill")
    assert lake.list_tables("cinemill") == [("cinemill", name) for name in TABLES]
    for name in TABLES:
        table = lake.load_table(("cinemill", name))
        rows = table.scan().to_arrow()
        assert lake.table_exists(("cinemill", name))
        assert ordered(rows) == ordered(snapshot.table(name)), name
        assert name == "captions" or rows.num_rows, f"{name} has rows to compare"
        if name in snapshot.commit.tables:
            assert table.current_snapshot().snapshot_id == snapshot.commit.tables[name]
            assert table.refs()["demo@1"].snapshot_id == snapshot.commit.tables[name]
    found = lake.load_table("cinemill.clips").scan(row_filter="width > 0", selected_fields=("clip_id",), limit=1)
    assert found.to_arrow().column_names == ["clip_id"]


def test_unknown_names_are_404_in_icebergs_form(url: str) -> None:
    lake = catalog(url)
    with pytest.raises(NoSuchTableError, match="no table 'nothing' in cinemill; there are videos, clips"):
        lake.load_table("cinemill.nothing")
    with pytest.raises(NoSuchTableError):
        lake.load_table("elsewhere.clips")
    with pytest.raises(NoSuchNamespaceError, match="the only one is cinemill"):
        lake.list_tables("elsewhere")
    assert not lake.table_exists("cinemill.nothing") and not lake.namespace_exists("elsewhere")
    assert not lake.table_exists("elsewhere.clips")


def test_a_client_is_told_that_it_cannot_write(url: str) -> None:
    lake = catalog(url)
    before = lake.load_table("cinemill.clips")
    for write_something in (
        lambda: lake.drop_table("cinemill.clips"),
        lambda: lake.create_namespace("mine"),
        lambda: lake.create_table("cinemill.mine", before.schema()),
        lambda: lake.rename_table("cinemill.clips", "cinemill.mine"),
        lambda: before.append(before.scan().to_arrow()),
        lambda: before.delete(),
    ):
        with pytest.raises(NotImplementedError, match="Server does not support endpoint"):
            write_something()
    assert lake.load_table("cinemill.clips").metadata == before.metadata


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{CATALOG}/namespaces"), ("DELETE", f"{CATALOG}/namespaces/cinemill"), ("POST", TABLE),
        ("POST", f"{TABLE}/clips"), ("DELETE", f"{TABLE}/clips?purgeRequested=true"), ("POST", f"{CATALOG}/tables/rename"),
        ("POST", f"{CATALOG}/transactions/commit"), ("PUT", f"{TABLE}/clips"), ("POST", f"{CATALOG}/oauth/tokens"),
    ],
)  # fmt: skip
def test_a_write_that_is_sent_anyway_is_refused_in_words(client: TestClient, method: str, path: str) -> None:
    refused = client.request(method, path, json={"requirements": [], "updates": []})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (405, 405, "UnsupportedOperationException")
    assert "read-only" in error["message"] and refused.headers["allow"] == "GET, HEAD"


def test_every_error_below_the_catalog_is_icebergs(client: TestClient) -> None:
    for answer, status, kind in (
        (client.get(f"{TABLE}/x"), 404, "NoSuchTableException"),
        (client.get(f"{CATALOG}/namespaces/x/tables/clips"), 404, "NoSuchNamespaceException"),
        (client.get(f"{CATALOG}/namespaces/cinemill%1Fx"), 404, "NoSuchNamespaceException"),
        (client.get(f"{CATALOG}/views"), 404, "NotFoundException"),
        (client.get(f"{TABLE}/{'x' * 2000}"), 422, "ValidationException"),
        (client.post(TABLE, content=b"\xff"), 422, "ValidationException"),
        (client.get(TABLE, headers={"host": "evil.example"}), 421, "BadRequestException"),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (status, status, kind)
        assert error["message"] and set(answer.json()) == {"error"}


@pytest.fixture
def written(tmp_path: Path) -> Lake:
    """Two commits of one data set, one tagged, and what a later run has written and not committed."""
    lake = Lake(str(tmp_path / "lake"))
    lake.create()
    write(lake, {"a": None, "b": None})
    write(lake, {"a": None, "c": None, "d": None})
    lake.tag(lake.snapshot("d", 1), "train")
    rows = lake.snapshot("d").table("decisions")
    lake.append("decisions", rows.append_column("score_of_tomorrow", pa.array([0.5] * len(rows))))
    return lake


def test_what_was_not_committed_is_not_there_and_what_was_stays(written: Lake, tmp_path: Path) -> None:
    assert len(written.head("decisions")) == 6, "there is something not to see"
    with served(tmp_path / "lake") as url:
        table = catalog(url).load_table("cinemill.decisions")
        assert letters(table.scan().to_arrow()) == ["a", "c", "d"]
        assert "score_of_tomorrow" not in table.schema().column_names
        refs = table.refs()
        assert set(refs) == {"main", "d@1", "d@2", "d@train"} and len(table.snapshots()) == 2
        assert refs["main"].snapshot_id == refs["d@2"].snapshot_id == table.current_snapshot().snapshot_id
        assert table.history()[-1].snapshot_id == table.current_snapshot().snapshot_id
        for ref in ("d@1", "d@train"):
            assert letters(table.scan(snapshot_id=refs[ref].snapshot_id).to_arrow()) == ["a", "b"]
            assert letters(table.scan().use_ref(ref).to_arrow()) == ["a", "b"]
        write(written, {"a": None})
        table = table.refresh()
        assert letters(table.scan().to_arrow()) == ["a"] and len(table.snapshots()) == 3
        assert catalog(url).list_tables("cinemill") == [("cinemill", "decisions")], "no commit wrote the others"


def test_before_the_first_commit_there_is_a_namespace_and_no_table(
    tmp_path: Path, open_service: Callable[[Settings], TestClient]
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    with open_service(Settings(data=lake.uri)) as client:
        for _ in ("nothing at all", "written, not committed"):
            assert client.get(f"{CATALOG}/namespaces").json() == {"namespaces": [["cinemill"]]}
            assert client.get(TABLE).json() == {"identifiers": []}
            assert "nothing was committed" in client.get(f"{TABLE}/clips").json()["error"]["message"]
            lake.create()
            lake.append("clips", pa.table({"clip_id": [clip("a")]}))


def test_tokens_are_asked_for_and_reading_is_enough(
    demo_lake: Path, demo_snapshot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CINEMILL_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("CINEMILL_REQUIRE_TOKENS", "true")
    tokens = {}
    for scope in ("admin", "read", "annotate"):
        assert main(["token", "create", scope, "--scope", scope, "--data", str(demo_lake)]) == 0
        tokens[scope] = capsys.readouterr().out.strip()
    with served(demo_lake) as url:
        assert catalog(url, token=tokens["read"]).load_table("cinemill.clips").scan().to_arrow().num_rows
        with pytest.raises(UnauthorizedError, match="NotAuthorizedException: this service asks for a token"):
            catalog(url)
        with pytest.raises(UnauthorizedError, match="not known"):
            catalog(url, token="cinemill_" + "A" * 43)
        status, body = ask(f"{url}{TABLE}", authorization=f"Bearer {tokens['annotate']}")
        assert status == 403 and b'"type":"ForbiddenException"' in body and b"scope read" in body


def test_a_lake_in_a_bucket_is_read_with_the_clients_own_credentials(s3: str, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'catalog.db'}"
    lake = Lake(f"{s3}/iceberg", database)
    lake.create()
    write(lake, {"a": None, "b": None})
    with served(Path("unused"), "--data", lake.uri, CINEMILL_CATALOG=database, CINEMILL_STATE_DIR=str(tmp_path)) as url:
        opened = catalog(url)
        assert opened.properties["s3.endpoint"].startswith("http://127.0.0.1:")
        assert not [name for name in opened.properties if "key" in name or "secret" in name]
        table = opened.load_table("cinemill.decisions")
        assert table.location().startswith("s3://") and letters(table.scan().to_arrow()) == ["a", "b"]
