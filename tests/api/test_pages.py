"""Pages: every row exactly once, in the order asked for, whatever the page size; and cursors that cannot be bent."""

import base64
import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient

ROWS = "/v1/datasets/demo/rows"


def pages(client: TestClient, query: str, limit: int) -> list[dict[str, Any]]:
    """All rows, page by page."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        page = client.get(f"{ROWS}?{query}&limit={limit}{after}&count=true").json()
        assert len(page["rows"]) <= limit
        rows += page["rows"]
        if page["next"] is None:
            assert page["matching"] == len(rows)
            return rows
        after = f"&after={page['next']}"


@pytest.mark.parametrize("query", ["table=ledger", "table=clips", "table=videos", "table=clips&order=-sharpness"])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_hold_every_row_once(client: TestClient, query: str, limit: int) -> None:
    whole = client.get(f"{ROWS}?{query}&limit=1000").json()["rows"]
    assert pages(client, query, limit) == whole
    keys = [(row.get("kind"), row["uri"], row["video_id"], row.get("clip_id")) for row in whole]
    assert len(set(keys)) == len(keys) > 1


def test_order_is_by_the_number_and_what_was_not_measured_comes_last(client: TestClient) -> None:
    for order, sign in (("border_share", 1), ("-border_share", -1)):
        values = [row["border_share"] for row in pages(client, f"table=clips&order={order}", 3)]
        measured = [value for value in values if value is not None]
        assert None in values and values[len(measured) :] == [None] * (len(values) - len(measured))
        assert measured == sorted(measured, key=lambda value: sign * value)


def test_filters_together_are_and(client: TestClient, clips: list[dict[str, Any]]) -> None:
    rule = next(clip["rule"] for clip in clips if clip["fate"] == "rejected")
    found = pages(client, f"table=ledger&kind=clip&fate=rejected&rule={rule}", 2)
    assert {row["clip_id"] for row in found} == {
        clip["clip_id"] for clip in clips if (clip["fate"], clip["rule"]) == ("rejected", rule)
    }
    assert pages(client, f"table=clips&fate=kept&rule={rule}", 10) == []


def test_rows_never_leave_out_a_video(client: TestClient) -> None:
    videos = pages(client, "table=videos", 5)
    funnel = client.get("/v1/datasets/demo/funnel").json()
    assert len(videos) == funnel["videos"]["in"]
    unreadable = [video for video in videos if video["fate"] == "quarantined"]
    assert len(unreadable) == funnel["videos"]["quarantined"] > 0
    assert all(video["reason"] for video in unreadable)


def cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "bent",
    ["x", "%00", "....", cursor("a:1"), cursor("nonsense"), cursor("a:-1"), cursor("a:" + "9" * 40), "é", "A" * 8001],
)
def test_a_bent_cursor_is_refused(client: TestClient, bent: str) -> None:
    response = client.get(ROWS, params={"after": bent})
    assert response.status_code == 422 and response.headers["content-type"] == "application/problem+json"


def test_a_cursor_serves_only_its_own_question(client: TestClient) -> None:
    following = client.get(f"{ROWS}?table=clips&limit=2").json()["next"]
    assert client.get(f"{ROWS}?table=clips&limit=2&after={following}").status_code == 200
    for other in ("table=ledger", "table=clips&fate=kept", "table=clips&order=sharpness"):
        response = client.get(f"{ROWS}?{other}&after={following}")
        assert response.status_code == 422 and "belongs to another" in response.json()["detail"]


def test_a_cursor_made_by_hand_gets_no_further_than_a_key(client: TestClient) -> None:
    """The check inside is no secret; whatever key somebody writes there, the answer is a page or a refusal."""
    following = client.get(f"{ROWS}?table=clips&limit=2").json()["next"]
    digest = base64.b64decode(following + "==", altchars=b"-_").decode()[:16]
    for payload in (
        "[0, null]", "[1, null]", "[-1, null]", "[0, []]", '[0, ["x"]]', '[0, ["\' OR 1=1 --"]]', "[0, [1]]", "[0, {}]", "{}",
        "[]", "[0]", "null", "[true, null]", '[0, ["' + "f" * 32 + '"]]', '[0, ["' + "F" * 32 + '"]]', "nonsense", "[0, 1e999]",
    ):  # fmt: skip
        check = hashlib.sha256(f"{digest}{payload}".encode()).hexdigest()[:16]
        status = client.get(f"{ROWS}?table=clips&after={cursor(digest + check + payload)}").status_code
        assert status == (200 if payload in ("[0, null]", '[0, ["' + "f" * 32 + '"]]') else 422), payload
