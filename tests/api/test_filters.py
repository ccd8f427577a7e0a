"""Filters against the same comparisons made by hand, in every form an answer has; and hostile ones."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

FILTER = "/v1/datasets/demo/filter"


def ask(client: TestClient, where: Any, **more: Any) -> list[dict[str, Any]]:
    answer = client.post(FILTER, json={"where": where, "limit": 1000, "count": True, **more})
    assert answer.status_code == 200, answer.text
    assert answer.json()["matching"] == len(answer.json()["rows"])
    return answer.json()["rows"]


def compare(column: str, operator: str, value: Any = None) -> dict[str, Any]:
    return {"column": column, "is": operator, "value": value}


Row = dict[str, Any]
CASES: list[tuple[Any, Callable[[Row], bool]]] = [
    (None, lambda row: True),
    (compare("fate", "=", "kept"), lambda row: row["fate"] == "kept"),
    (compare("fate", "!=", "kept"), lambda row: row["fate"] != "kept"),
    (compare("rule", "null"), lambda row: row["rule"] is None),
    (compare("rule", "not null"), lambda row: row["rule"] is not None),
    (compare("sharpness", ">=", 300), lambda row: row["sharpness"] is not None and row["sharpness"] >= 300),
    (compare("num_frames", "<", 200.5), lambda row: row["num_frames"] < 200.5),
    (compare("has_sound", "=", True), lambda row: row["has_sound"] is True),
    (compare("fate", "in", ["rejected", "duplicate"]), lambda row: row["fate"] in ("rejected", "duplicate")),
    (compare("uri", "contains", "720p"), lambda row: "720p" in row["uri"]),
    (compare("stage", "starts with", "vis"), lambda row: (row["stage"] or "").startswith("vis")),
    (compare("failed_rules", "contains", "motion.static"), lambda row: "motion.static" in row["failed_rules"]),
    (compare("caption", "contains", "a"), lambda row: "a" in (row["caption"] or "")),
    ({"not": compare("rule", "starts with", "motion")}, lambda row: not (row["rule"] or "").startswith("motion")),
    (
        {"any": [compare("fate", "=", "kept"), {"all": [compare("width", ">", 600), compare("fps", "<", 26)]}]},
        lambda row: row["fate"] == "kept" or (row["width"] > 600 and row["fps"] < 26),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("where", "wanted"), CASES, ids=[json.dumps(case[0]) for case in CASES])
def test_a_filter_says_what_the_rows_say(
    client: TestClient, clips: list[Row], where: Any, wanted: Callable[[Row], bool]
) -> None:
    expected = [row["clip_id"] for row in clips if wanted(row)]
    assert [row["clip_id"] for row in ask(client, where)] == expected
    assert [row["clip_id"] for row in ask(client, where, order="width")] == [
        row["clip_id"] for row in sorted(clips, key=lambda row: (row["width"], row["clip_id"])) if wanted(row)
    ]


def test_some_case_takes_some_rows_and_leaves_some(clips: list[Row]) -> None:
    shares = [sum(map(wanted, clips)) for _, wanted in CASES]
    assert sum(0 < share < len(clips) for share in shares) >= 10


def test_filters_page_like_rows(client: TestClient, clips: list[Row]) -> None:
    where = {"any": [compare("sharpness", ">", 0), compare("sharpness", "null")]}
    for order in (None, "sharpness", "-sharpness"):
        found: list[str] = []
        after = None
        while True:
            asked = {"where": where, "limit": 2, "order": order, "after": after, "columns": ["clip_id"]}
            page = client.post(FILTER, json=asked).json()
            assert all(set(row) == {"clip_id"} for row in page["rows"])
            found += [row["clip_id"] for row in page["rows"]]
            after = page["next"]
            if after is None:
                break
        assert sorted(found) == sorted(row["clip_id"] for row in clips) and len(set(found)) == len(found)


def test_rows_come_as_arrow_and_csv_too(client: TestClient, clips: list[Row]) -> None:
    ids = [row["clip_id"] for row in clips]
    asked = {"columns": ["clip_id", "sharpness", "labels"], "limit": 1000}
    stream = client.post(FILTER, json=asked, headers={"accept": "application/vnd.apache.arrow.stream"})
    assert stream.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(stream.content).read_all()
    assert table["clip_id"].to_pylist() == ids and table.schema.field("sharpness").type == pa.float64()
    text = client.post(FILTER, json=asked, headers={"accept": "text/csv;q=0.9, image/png"})
    lines = list(csv.DictReader(io.StringIO(text.text)))
    assert [line["clip_id"] for line in lines] == ids
    assert [json.loads(line["labels"] or "null") for line in lines] == [row["labels"] for row in clips]
    first = client.get("/v1/datasets/demo/rows?table=clips&limit=3", headers={"accept": "text/csv"})
    second = client.get(
        f"/v1/datasets/demo/rows?table=clips&limit=1000&after={first.headers['x-next-cursor']}",
        headers={"accept": "*/*"},
    )
    assert [row["clip_id"] for row in second.json()["rows"]] == ids[3:]
    refused = client.get("/v1/datasets/demo/rows", headers={"accept": "image/png, text/csv;q=0"})
    assert refused.status_code == 406 and "text/csv" in refused.json()["detail"]


def nested(depth: int) -> Any:
    return compare("fate", "=", "kept") if depth == 0 else {"not": nested(depth - 1)}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"where": compare("nothing", "=", 1)}, "no column"),
        ({"where": compare('fate" OR 1=1 --', "=", "kept")}, "no column"),
        ({"where": compare("sharpness", "=", "sharp")}, "a number"),
        ({"where": compare("sharpness", "=", True)}, "a number"),
        ({"where": compare("num_frames", "=", 10**30)}, "out of range"),
        ({"where": compare("fate", "<", 3)}, "a text"),
        ({"where": compare("has_sound", "=", "yes")}, "true or false"),
        ({"where": compare("failed_rules", "=", "x")}, "contains"),
        ({"where": compare("fate", "in", [])}, "list"),
        ({"where": compare("fate", "in", ["x"] * 1001)}, "1000"),
        ({"where": compare("fate", "null", "x")}, "no value"),
        ({"where": compare("fate", "=")}, "one value"),
        ({"where": compare("fate", "like", "%")}, "where"),
        ({"where": compare("fate", "=", "\ud800")}, "where"),
        ({"where": {"all": []}}, "where"),
        ({"where": {"all": [compare("fate", "=", "kept")], "any": []}}, "where"),
        ({"where": {"any": [{"any": [compare("fate", "=", "kept")] * 40}] * 2}}, "64 conditions"),
        ({"where": nested(8)}, "8 deep"),
        ({"where": nested(14)}, "8 deep"),
        ({"where": "fate = 'kept'"}, "where"),
        ({"columns": ["clip_id", "nothing"]}, "no column"),
        ({"columns": []}, "columns"),
        ({"order": "uri"}, "not a number"),
        ({"limit": 1001}, "1000"),
        ({"sql": "SELECT 1"}, "sql"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_filter_is_refused_with_what_to_change(client: TestClient, body: dict[str, Any], says: str) -> None:
    content = json.dumps(body)
    answer = client.post(FILTER, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and says in answer.json()["detail"], answer.text


@pytest.mark.parametrize("text", ["'; DROP TABLE d; --", "kept'", '"', "\0", "%", "\\", "🎬" * 100])
def test_values_are_parameters_and_never_sql(client: TestClient, text: str) -> None:
    for operator in ("=", "contains", "starts with", "<"):
        found = ask(client, {"all": [compare("fate", operator, text), compare("fate", "=", "kept")]})
        assert all(row["fate"] == "kept" for row in found)
    assert ask(client, compare("fate", "=", text)) == []
