"""Texts, neighbours and clusters over the demo lake, against vectors compared by hand; and over lakes of vectors written here."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api import vectors
from api.client import Client
from api.settings import Settings
from curation.clips import Lake
from curation.clips.schema import CLIPS, DECISIONS, EMBEDDINGS, arrow_schema
from curation.recipes import load_recipe

SEARCH = "/v1/datasets/demo/search"
Row = dict[str, Any]


# --- the demo lake -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(demo_lake: Path) -> dict[str, np.ndarray]:
    """clip_id -> vector, of the whole demo lake."""
    rows = Lake(str(demo_lake)).snapshot("demo").table("embeddings").to_pylist()
    return {row["clip_id"]: np.array(row["embedding"], np.float32) for row in rows}


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("a bee on a flower", "bee_720p"),
        ("water bottles", "bottles_static"),
        ("a website on a computer screen", "screencast_hello"),
        ("window blinds", "pattern_sd"),
    ],
)
def test_a_text_finds_the_clip_that_shows_it(client: TestClient, text: str, shows: str) -> None:
    answer = client.get(SEARCH, params={"text": text, "fate": "all", "limit": 100})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    names = [clip["uri"].rpartition("/")[2] for clip in found["clips"]]
    assert names[0].startswith(shows), names
    assert found["embedder"] == "efficientnet-lite0/1" and "MiniLM" in found["model"] and "ImageNet" in found["note"]
    scores = [clip["score"] for clip in found["clips"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) > 5


def test_all_vectors_are_compared_and_each_hit_says_what_it_is(
    client: TestClient, clips: list[Row], measured: dict[str, np.ndarray]
) -> None:
    rows = {row["clip_id"]: row for row in clips}
    for fate in ("all", "kept"):
        found = client.get(SEARCH, params={"text": "a flower", "fate": fate, "limit": 100}).json()
        wanted = {clip_id for clip_id in measured if fate == "all" or rows[clip_id]["fate"] == "kept"}
        assert {clip["clip_id"] for clip in found["clips"]} == wanted and found["compared"] == len(wanted) > 3
        for clip in found["clips"]:
            row = rows[clip["clip_id"]]
            same = ("uri", "start_seconds", "end_seconds", "fate", "rule", "duplicate_of", "caption", "labels")
            assert {name: clip[name] for name in same} == {name: row[name] for name in same}
    assert client.get(found["clips"][0]["poster"]).headers["content-type"] == "image/webp"
    few = client.get(SEARCH, params={"text": "a flower", "limit": 2}).json()
    assert few["clips"] == found["clips"][:2] and few["compared"] == found["compared"]


def test_the_note_says_when_a_text_is_far_from_all_class_names(client: TestClient) -> None:
    far, sure = (
        client.get(SEARCH, params={"text": text}).json() for text in ("love and other feelings", "a bee")
    )  # fmt: skip
    assert "expect" in far["note"] and "expect" not in sure["note"]
    assert sure["read_as"][0]["name"] == "bee"
    assert sure["read_as"][0]["similarity"] > 0.5 > far["read_as"][0]["similarity"]


def test_neighbours_are_those_of_a_comparison_by_hand(
    client: TestClient, clips: list[Row], measured: dict[str, np.ndarray]
) -> None:
    copies = [row for row in clips if row["duplicate_of"]]
    assert copies, "the samples hold a video twice"
    for row in [*copies, clips[0]]:
        found = client.get(f"/v1/clips/{row['clip_id']}/neighbours?limit=100").json()
        cosines = {other: float(vector @ measured[row["clip_id"]]) for other, vector in measured.items()}
        assert found["compared"] == len(found["clips"]) == len(measured) - 1
        for clip in found["clips"]:
            assert clip["score"] == pytest.approx(cosines[clip["clip_id"]], abs=2e-6)
        told = [(clip["score"], clip["clip_id"]) for clip in found["clips"]]
        assert told == sorted(told, key=lambda each: (-each[0], each[1])) and row["clip_id"] not in dict(
            map(reversed, told)
        )
        if row["duplicate_of"]:
            assert found["clips"][0]["clip_id"] == row["duplicate_of"] and found["clips"][0]["score"] > 0.9
            back = client.get(f"/v1/clips/{row['duplicate_of']}/neighbours?limit=1").json()["clips"][0]
            assert (back["clip_id"], back["fate"], back["duplicate_of"]) == (
                row["clip_id"], "duplicate", row["duplicate_of"],
            )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "text"),
        ({"text": ""}, "at least 1 character"),
        ({"text": "x" * 10_000}, "at most 500 characters"),
        ({"text": "\0"}, "no word"),
        ({"text": " \t\n"}, "no word"),
        ({"text": "?!"}, "no word"),
        ({"text": "🎬"}, "no word"),
        ({"text": "a bee", "limit": 0}, "limit"),
        ({"text": "a bee", "limit": 101}, "limit"),
        ({"text": "a bee", "fate": "rejected"}, "fate"),
        ({"text": "a bee", "snapshot": -1}, "snapshot"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_absurd_questions_are_refused_with_what_to_change(client: TestClient, asked: Row, says: str) -> None:
    answer = client.get(SEARCH, params=asked)
    assert answer.status_code == 422 and says in answer.json()["detail"], answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["a bee\0", "'; DROP TABLE d; --", "%", "x" * 500, "ein Käfer", "蜜蜂"])
def test_strange_texts_are_only_texts(client: TestClient, text: str) -> None:
    answer = client.get(SEARCH, params={"text": text, "limit": 1})
    assert answer.status_code == (422 if text == "%" else 200), answer.text


def test_what_is_not_there_is_not_found(client: TestClient) -> None:
    for path in (
        f"/v1/clips/{'0' * 32}/neighbours", "/v1/datasets/nothing/search?text=bee", f"{SEARCH}?text=bee&snapshot=99",
        "/v1/datasets/nothing/clusters", "/v1/datasets/demo/clusters?snapshot=99",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path


def test_answers_belong_to_a_snapshot_and_are_cached_by_it(client: TestClient, clips: list[Row]) -> None:
    for path in (
        f"{SEARCH}?text=bee", f"/v1/clips/{clips[0]['clip_id']}/neighbours", "/v1/datasets/demo/clusters",
    ):  # fmt: skip
        answer = client.get(path, params={"snapshot": 1, "dataset": "demo"} if "clips/" in path else None)
        assert (answer.json()["dataset"], answer.json()["snapshot"]) == ("demo", 1)
        assert client.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_clusters_are_what_the_decisions_say(client: TestClient, demo_lake: Path, clips: list[Row]) -> None:
    decided = Lake(str(demo_lake)).snapshot("demo").table("decisions").to_pylist()
    decided = [row for row in decided if row["kind"] == "clip"]
    labels = {row["clip_id"]: row["labels"] for row in clips}
    found = client.get("/v1/datasets/demo/clusters?limit=100&examples=20").json()
    sizes = Counter(row["cluster"] for row in decided)
    assert found["unclustered"] == sizes.pop(None, 0) > 0 and found["count"] == len(sizes) > 1
    assert [cluster["cluster"] for cluster in found["clusters"]] == sorted(sizes, key=lambda each: (-sizes[each], each))
    for cluster in found["clusters"]:
        members = [row for row in decided if row["cluster"] == cluster["cluster"]]
        kept = sorted(row["clip_id"] for row in members if row["fate"] == "kept")
        assert (cluster["size"], cluster["kept"]) == (len(members), len(kept))
        examples = [example["clip_id"] for example in cluster["examples"]]
        assert examples == (kept or sorted(row["clip_id"] for row in members))[:20]
        counted = Counter(label for row in members for label in labels[row["clip_id"]][:3])
        assert [(label["name"], label["clips"]) for label in cluster["labels"]] == sorted(
            counted.items(), key=lambda item: (-item[1], item[0])
        )[:5]
    assert client.get("/v1/datasets/demo/clusters?after=999").status_code == 422
    pages: list[Row] = []
    asked: dict[str, int] = {"limit": 1, "examples": 20}
    while asked.get("after", 0) is not None:
        page = client.get("/v1/datasets/demo/clusters", params=asked).json()
        pages += page["clusters"]
        asked["after"] = page["next"]
    assert pages == found["clusters"]


def test_the_client_asks_the_same(client: TestClient, clips: list[Row]) -> None:
    service = Client("http://127.0.0.1:8000", http=client)
    assert service.search("demo", "a bee", limit=3)["clips"][0]["uri"].endswith("bee_720p.mp4")
    near = service.neighbours(clips[0]["clip_id"], limit=3, dataset="demo", snapshot=1)
    assert len(near["clips"]) == 3 and near["clip_id"] == clips[0]["clip_id"]
    assert sum(cluster["size"] for cluster in service.clusters("demo")) > 0


# --- lakes of vectors written here ---------------------------------------------------------------------------------------

OURS = "efficientnet-lite0/1"
A, B, C, D, E, F = ("abcdef"[i] * 32 for i in range(6))


def write(lake: Lake, dataset: str, fates: Mapping[str, str]) -> None:
    """Commit a data set of these clips."""
    decisions = [
        {"dataset": dataset, "kind": "clip", "uri": "/v.mp4", "video_id": "v", "clip_id": clip_id, "fate": fate}
        for clip_id, fate in fates.items()
    ]
    spans = [{"clip_id": clip_id, "video_id": "v", "start_seconds": 0.0, "end_seconds": 4.0} for clip_id in fates]
    recipe = load_recipe("demo")
    with lake.committer():
        lake.replace("decisions", "dataset", pa.Table.from_pylist(decisions, schema=arrow_schema(DECISIONS)))
        lake.replace("clips", "clip_id", pa.Table.from_pylist(spans, schema=arrow_schema(CLIPS)))
        lake.commit(
            dataset, recipe_hash=recipe.hash, recipe=recipe.model_dump(mode="json"), code_version="0", counts={},
            measured_by="-",
        )  # fmt: skip


def embed(lake: Lake, rows: Sequence[tuple[str, str, Sequence[float]]]) -> None:
    """One file of clip_id, embedder, vector."""
    table = [
        {"clip_id": clip_id, "embedder": embedder, "embedding": list(vector)} for clip_id, embedder, vector in rows
    ]
    with lake.committer():
        lake.append("embeddings", pa.Table.from_pylist(table, schema=arrow_schema(EMBEDDINGS)))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Lake]:
    def made(uri: str | None = None, catalog: str | None = None) -> Lake:
        lake = Lake(uri or str(tmp_path / "vectors"), catalog)
        lake.create()
        return lake

    return made


@pytest.fixture
def mixed(make: Callable[..., Lake]) -> Lake:
    """Two data sets, three models, ties, a clip without a vector, one that is not a number, over four files."""
    lake = make()
    embed(lake, [(A, "m", [1, 0]), (B, "m", [0, 1]), (A, "other", [0, 0, 1])])
    embed(lake, [(D, "m", [0.6, 0.8]), (C, "m", [0.6, 0.8]), (B, "other", [0, 0, 1]), (E, "other", [1, 0, 0])])
    embed(lake, [("9" * 32, "m", [1, 0])])
    embed(lake, [(F, "m", [float("nan"), 1])])
    write(lake, "left", {A: "kept", B: "rejected", C: "kept", D: "duplicate", E: "kept", F: "kept", "8" * 32: "kept"})
    write(lake, "right", {"9" * 32: "kept", A: "kept"})
    return lake


@pytest.fixture
def served(open_service: Any) -> Iterator[Callable[..., TestClient]]:
    opened: list[TestClient] = []

    def serve(lake: Lake, **more: Any) -> TestClient:
        client = open_service(Settings(data=lake.uri, **more))
        client.__enter__()
        opened.append(client)
        return client

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


@pytest.mark.parametrize("cache", [0, 2**30])
def test_a_search_is_of_one_model_and_one_data_set_and_ties_are_ordered(
    mixed: Lake, served: Callable[..., TestClient], cache: int
) -> None:
    client = served(mixed, vector_cache_bytes=cache)

    def near(clip_id: str, **asked: Any) -> list[tuple[str, float]]:
        answer = client.get(f"/v1/clips/{clip_id}/neighbours", params={"dataset": "left", **asked})
        assert answer.status_code == 200, answer.text
        return [(clip["clip_id"], clip["score"]) for clip in answer.json()["clips"]]

    assert near(A) == [(C, 0.6), (D, 0.6), (B, 0.0)]
    assert near(A, limit=1) == [(C, 0.6)] and near(A, limit=2) == [(C, 0.6), (D, 0.6)]
    assert near(C) == [(D, 1.0), (B, 0.8), (A, 0.6)] and near(D, limit=1) == [(C, 1.0)]
    assert near(A, fate="kept") == [(C, 0.6)]
    assert near(E) == [(A, 0.0), (B, 0.0)], "by its only model"
    assert near(A, dataset="right") == [("9" * 32, 1.0)]
    bare = client.get(f"/v1/clips/{'8' * 32}/neighbours?dataset=left")
    assert bare.status_code == 422 and "has no vector" in bare.json()["detail"]


@pytest.mark.parametrize("cache", [0, 2**30])
def test_many_vectors_are_ranked_as_numpy_ranks_them(
    make: Callable[..., Lake], served: Callable[..., TestClient], cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small numbers in few directions, so that ties cross batches and files."""
    monkeypatch.setattr(vectors, "STREAMED", 64)
    monkeypatch.setattr(vectors, "HELD", 100)
    draw = np.random.default_rng(0)
    values = draw.integers(-2, 3, (1000, 4)).astype(np.float32)
    ids = [f"{number:032x}" for number in draw.permutation(1000)]
    fates = {clip_id: "kept" if value[0] > 0 else "rejected" for clip_id, value in zip(ids, values, strict=True)}
    lake = make()
    for begin in range(0, 1000, 250):
        embed(lake, [(ids[i], "m", values[i]) for i in range(begin, begin + 250)])
    write(lake, "d", fates)
    client = served(lake, vector_cache_bytes=cache)
    for number, fate in ((0, "all"), (500, "kept"), (999, "all")):
        scores = values @ values[number]
        ranked = sorted(
            (-float(scores[i]), ids[i]) for i in range(1000) if i != number and fate in ("all", fates[ids[i]])
        )
        answer = client.get(f"/v1/clips/{ids[number]}/neighbours?limit=100&fate={fate}").json()
        assert [(-clip["score"], clip["clip_id"]) for clip in answer["clips"]] == ranked[:100]
        assert answer["compared"] == len(ranked)


def test_vectors_that_texts_cannot_be_compared_with_are_refused(mixed: Lake, served: Callable[..., TestClient]) -> None:
    answer = served(mixed).get("/v1/datasets/left/search?text=bee")
    assert answer.status_code == 422
    assert all(word in answer.json()["detail"] for word in ("vectors of m, other only", OURS, "neighbours"))


def test_a_lake_without_vectors_says_so(make: Callable[..., Lake], served: Callable[..., TestClient]) -> None:
    lake = make()
    write(lake, "d", {A: "kept"})
    client = served(lake)
    assert "have no vectors" in client.get("/v1/datasets/d/search?text=bee").json()["detail"]
    assert client.get(f"/v1/clips/{A}/neighbours").status_code == 422
    found = client.get("/v1/datasets/d/clusters").json()
    assert (found["clusters"], found["unclustered"], found["next"]) == ([], 1, None)


def test_too_many_and_too_slow_say_what_to_do(
    mixed: Lake, served: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served(mixed)
    client.app.state.service.vectors.seconds = 1e-9  # type: ignore[attr-defined]
    slow = client.get(f"/v1/clips/{A}/neighbours?dataset=left")
    assert slow.status_code == 503 and "CINEMILL_VECTOR_CACHE_BYTES" in slow.json()["detail"]
    assert slow.headers["retry-after"] == "10"
    monkeypatch.setattr(vectors, "MOST_VECTORS", 5)
    many = served(mixed).get("/v1/datasets/left/search?text=bee")
    assert many.status_code == 422 and "/parquet" in many.json()["detail"]


def test_a_lake_in_a_bucket_is_searched_too(
    s3: str, make: Callable[..., Lake], served: Callable[..., TestClient], tmp_path: Path
) -> None:
    catalog = f"sqlite:///{tmp_path}/catalog.db"
    lake = make(f"{s3}/vectors", catalog)
    embed(lake, [(A, "m", [1, 0]), (B, "m", [0, 1]), (C, "m", [0.6, 0.8])])
    write(lake, "d", {A: "kept", B: "kept", C: "kept"})
    for cache in (0, 2**30):
        client = served(lake, catalog=catalog, vector_cache_bytes=cache, state_dir=tmp_path / f"state{cache}")
        found = client.get(f"/v1/clips/{A}/neighbours").json()
        assert [(clip["clip_id"], clip["score"]) for clip in found["clips"]] == [(C, 0.6), (B, 0.0)]
