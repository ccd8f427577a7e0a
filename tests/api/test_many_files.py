"""Rows of a lake whose tables lie in many files: overlapping or sorted, some older than a column, of two data sets."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from curation.clips import Lake
from curation.clips.schema import TABLES, arrow_schema

CLIPS, BATCHES = 240, 4
Row = dict[str, Any]


def clip(i: int) -> Row:
    """A drawn clip; from the third batch on it has a score that is new."""
    found = {
        "clip_id": hashlib.sha256(f"clip {i}".encode()).hexdigest()[:32], "video_id": f"{i % 7:032x}", "duration_seconds": float(i),
        "start_seconds": 0.0, "end_seconds": float(i), "sharpness": None if i % 5 == 0 else float((i * 37) % 101),
    }  # fmt: skip
    return found | ({"novelty": float(i)} if i % BATCHES >= 2 else {})


def is_described(row: Row) -> bool:
    """Whether it has a caption."""
    return bool(row["duration_seconds"] % 3)


def table(name: str, rows: list[Row]) -> pa.Table:
    extra = {key: pa.float64() for row in rows for key in row if key in ("sharpness", "novelty")}
    return pa.Table.from_pylist(rows, schema=arrow_schema(TABLES[name], extra))


@pytest.fixture(scope="module", params=["interleaved", "sorted"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Data set `all` has every clip, `some` a third of them."""
    lake = Lake(str(tmp_path_factory.mktemp("many") / "lake"))
    lake.create()
    with lake.committer():
        clips = [clip(i) for i in range(CLIPS)]
        ordered, size = sorted(clips, key=lambda row: row["clip_id"]), CLIPS // BATCHES
        for batch in range(BATCHES):
            rows = clips[batch::BATCHES] if request.param == "interleaved" else ordered[batch * size :][:size]
            lake.append("clips", table("clips", rows))
            described = [
                {"clip_id": row["clip_id"], "caption": f"clip of {row['duration_seconds']} s"}
                for row in rows
                if is_described(row)
            ]
            lake.append("captions", table("captions", described))
        lake.append(
            "videos",
            table("videos", [{"uri": f"/f/{i}.mp4", "video_id": f"{i:032x}", "damaged": i == 3} for i in range(7)]),
        )
        for dataset, step in (("all", 1), ("some", 3)):
            decided = [
                {
                    "dataset": dataset, "kind": "clip", "uri": f"/f/{i % 7}.mp4", "video_id": f"{i % 7:032x}", "clip_id": clip(i)["clip_id"],
                    "fate": "rejected" if i % 4 == 0 else "kept", "failed_rules": [], "unmeasured": [],
                }
                for i in range(0, CLIPS, step)
            ]  # fmt: skip
            decided += [
                {"dataset": dataset, "kind": "video", "uri": f"/f/{i}.mp4", "video_id": f"{i:032x}", "fate": "kept"} for i in range(7)
            ]  # fmt: skip
            lake.replace("decisions", "dataset", table("decisions", decided))
            counts = {"clips_in": len(decided) - 7, "videos_in": 7}
            lake.commit(
                dataset, recipe_hash="h", recipe={"name": dataset}, code_version="0", counts=counts, measured_by="m"
            )
    return lake


@pytest.fixture(scope="module")
def service(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Any:
    settings = Settings(data=lake.uri, state_dir=tmp_path_factory.mktemp("state"))
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8000") as client:
        yield client


def walked(service: TestClient, dataset: str, limit: int, **asked: Any) -> list[Row]:
    """All rows that a filter leaves, page by page."""
    rows: list[Row] = []
    after = None
    while True:
        page = service.post(
            f"/v1/datasets/{dataset}/filter", json={"limit": limit, "after": after, "count": True, **asked}
        ).json()
        rows += page["rows"]
        if (after := page["next"]) is None:
            assert page["matching"] == len(rows)
            return rows


def expected(dataset: str) -> list[Row]:
    chosen = range(0, CLIPS, 1 if dataset == "all" else 3)
    return sorted((clip(i) | {"i": i} for i in chosen), key=lambda row: row["clip_id"])


@pytest.mark.parametrize("dataset", ["all", "some"])
@pytest.mark.parametrize("limit", [7, 1000])
def test_every_row_is_whole_wherever_its_parts_lie(service: TestClient, dataset: str, limit: int) -> None:
    rows = walked(service, dataset, limit)
    wanted = expected(dataset)
    assert [row["clip_id"] for row in rows] == [row["clip_id"] for row in wanted]
    for row, clip in zip(rows, wanted, strict=True):
        i = clip["i"]
        assert (row["duration_seconds"], row["sharpness"], row["novelty"]) == (
            i,
            clip["sharpness"],
            clip.get("novelty"),
        )
        assert (row["fate"], row["uri"]) == ("rejected" if i % 4 == 0 else "kept", f"/f/{i % 7}.mp4")
        assert row["caption"] == (f"clip of {float(i)} s" if is_described(row) else None)


@pytest.mark.parametrize("dataset", ["all", "some"])
def test_filters_and_orders_see_every_file(service: TestClient, dataset: str) -> None:
    wanted = expected(dataset)
    sharp = {"column": "sharpness", "is": ">", "value": 50}
    new = {"all": [sharp, {"column": "novelty", "is": "not null"}, {"column": "fate", "is": "=", "value": "kept"}]}
    for where, passes in (
        (sharp, lambda row: (row["sharpness"] or 0) > 50),
        (new, lambda row: (row["sharpness"] or 0) > 50 and "novelty" in row and row["i"] % 4),
        ({"column": "caption", "is": "null"}, lambda row: not is_described(row)),
    ):
        left = [row["clip_id"] for row in wanted if passes(row)]
        assert left and [row["clip_id"] for row in walked(service, dataset, 9, where=where)] == left
    for order, sign in (("sharpness", 1), ("-sharpness", -1)):
        keyed = [(row["sharpness"] is None, sign * (row["sharpness"] or 0), row["clip_id"]) for row in wanted]
        rows = walked(service, dataset, 11, order=order, columns=["clip_id", "caption"])
        assert [row["clip_id"] for row in rows] == [key for _, _, key in sorted(keyed)]


def test_a_ledger_joins_what_lies_in_videos(service: TestClient) -> None:
    rows = walked(service, "some", 5, table="ledger")
    assert len(rows) == CLIPS // 3 + 7
    assert all(row["damaged"] == (row["uri"] == "/f/3.mp4") for row in rows)


@pytest.mark.parametrize("lake", ["sorted"], indirect=True)
def test_a_page_opens_no_file_beyond_its_range(lake: Lake, service: TestClient, tmp_path: Path) -> None:
    """The last of the files is away: pages and clips of the others are answered all the same."""
    last = max(lake.snapshot("all").keyed_files("clips"), key=lambda file: file.ends["clip_id"])
    away = Path(last.uri).rename(tmp_path / "away.parquet")
    try:
        first = expected("all")[0]["clip_id"]
        assert first < last.ends["clip_id"][0]
        assert service.get(f"/v1/clips/{first}").status_code == 200
        assert len(service.get("/v1/datasets/all/rows?table=clips&limit=9").json()["rows"]) == 9
        assert service.get(f"/v1/clips/{expected('all')[-1]['clip_id']}").status_code == 503
    finally:
        away.rename(last.uri)
