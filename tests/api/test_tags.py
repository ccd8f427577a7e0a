"""Tags over HTTP: given, found again by every read, taken away, and the same that the command line sees."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from api.client import Client, ServiceError
from api.settings import Settings
from curation.clips import Lake
from tests.api.test_diff import write

TAGS = "/v1/datasets/d/tags"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A lake with two snapshots of one data set."""
    lake = Lake(str(tmp_path / "lake"))
    lake.create()
    write(lake, {"a": None, "b": None})
    write(lake, {"a": None, "c": None, "d": None})
    return tmp_path / "lake"


@pytest.fixture
def client(folder: Path, open_service: Any) -> Any:
    with open_service(Settings(data=str(folder))) as opened:
        yield opened


def tagged(client: Any, name: str, number: int) -> Any:
    return client.post(TAGS, json={"name": name, "snapshot": number})


def test_a_tag_is_given_once_never_moves_and_is_taken_away(client: Any) -> None:
    assert client.get(TAGS).json() == []
    made = tagged(client, "train", 1)
    assert made.status_code == 201 and made.json()["snapshot"] == 1
    again = tagged(client, "train", 1)
    assert (again.status_code, again.json()) == (200, made.json())
    moved = tagged(client, "train", 2)
    assert moved.status_code == 409 and "train of d is snapshot 1; a tag never moves" in moved.json()["detail"]
    assert tagged(client, "alpha", 2).status_code == 201
    assert [(tag["name"], tag["snapshot"]) for tag in client.get(TAGS).json()] == [("alpha", 2), ("train", 1)]
    assert client.delete(f"{TAGS}/train").status_code == 204
    gone = client.delete(f"{TAGS}/train")
    assert gone.status_code == 404 and "there are: alpha" in gone.json()["detail"]
    assert tagged(client, "train", 2).status_code == 201


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "1st", "snapshot": 1}, 422), ({"name": "a/b", "snapshot": 1}, 422), ({"name": "a\n", "snapshot": 1}, 422),
        ({"name": "x" * 65, "snapshot": 1}, 422), ({"name": "train"}, 422), ({"name": "train", "snapshot": "1"}, 422),
        ({"name": "train", "snapshot": 9}, 404), ({"name": "train", "snapshot": 1, "force": True}, 422),
    ],
)  # fmt: skip
def test_a_wrong_tag_is_refused_and_nothing_is_named(client: Any, body: dict[str, Any], status: int) -> None:
    assert client.post(TAGS, json=body).status_code == status
    assert client.get(TAGS).json() == []


def test_every_read_takes_a_tag_beside_a_number(client: Any) -> None:
    tagged(client, "train", 1)
    reads = ("rows", "rows?fate=kept", "files", "parquet", "recipe", "funnel", "corejection", "quarantine")
    for read in reads:
        join = "&" if "?" in read else "?"
        by_tag = client.get(f"/v1/datasets/d/{read}{join}tag=train")
        by_number = client.get(f"/v1/datasets/d/{read}{join}snapshot=1")
        assert by_tag.status_code == 200 and by_tag.json() == by_number.json(), read
        assert by_tag.headers["etag"] == by_number.headers["etag"]
        assert by_tag.headers["etag"] != client.get(f"/v1/datasets/d/{read}").headers["etag"]
    assert client.get("/v1/datasets/d/funnel?tag=train").json()["snapshot"] == 1
    assert client.post("/v1/datasets/d/filter?tag=train", json={"table": "ledger"}).json()["snapshot"] == 1
    assert client.get("/v1/datasets/d/whatif?tag=train").json()["snapshot"] == 1, "no rule is called tag"
    newer = f"/v1/clips/{'c' * 32}?dataset=d"
    assert client.get(f"{newer}&tag=train").status_code == 404 == client.get(f"{newer}&snapshot=1").status_code
    etag = client.get("/v1/datasets/d/rows?tag=train").headers["etag"]
    assert client.get("/v1/datasets/d/rows?tag=train", headers={"if-none-match": etag}).status_code == 304


def test_a_tag_and_a_number_must_agree(client: Any) -> None:
    tagged(client, "train", 1)
    assert client.get("/v1/datasets/d/rows?tag=train&snapshot=1").json()["snapshot"] == 1
    refused = client.get("/v1/datasets/d/rows?tag=train&snapshot=2")
    assert refused.status_code == 422 and "tag=train is snapshot 1, not 2" in refused.json()["detail"]
    unknown = client.get("/v1/datasets/d/rows?tag=nothing")
    assert unknown.status_code == 404 and "there are: train" in unknown.json()["detail"]
    clip = client.get(f"/v1/clips/{'a' * 32}?tag=train")
    assert clip.status_code == 422 and "dataset=" in clip.json()["detail"]


def test_differences_between_tags(client: Any) -> None:
    tagged(client, "before", 1)
    by_number = client.get("/v1/datasets/d/diff?from=1&to=2").json()
    assert (by_number["before"], by_number["after"], by_number["kept_in_both"]) == (1, 2, 1)
    assert client.get("/v1/datasets/d/diff?from=before&to=2").json() == by_number
    assert client.get("/v1/datasets/d/diff?from=nothing&to=2").status_code == 404
    assert client.get("/v1/datasets/d/diff?from=-1&to=2").status_code == 422


def test_the_command_line_and_the_client_see_the_same(
    client: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Client("", http=client)
    assert service.tag("d", "train", 1).snapshot == 1
    assert main(["manifest", "tag", "--out", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"dataset": "d", "name": "train", "number": 1}]
    assert main(["manifest", "tag", "late", "--out", str(folder), "--json"]) == 0
    assert [(tag.name, tag.snapshot) for tag in service.tags("d")] == [("late", 2), ("train", 1)]
    assert [row["clip_id"][0] for row in service.rows("d", table="ledger", snapshot="train")] == ["a", "b"]
    assert service.diff("d", "train", "late") == service.diff("d", 1, 2)
    service.untag("d", "late")
    with pytest.raises(ServiceError, match="there are: train"):
        service.untag("d", "late")
