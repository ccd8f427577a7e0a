"""Every route on a real snapshot: it answers, it is described, and its errors have one shape."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from curation.contracts import signals

DATASET = "/v1/datasets/demo"


def problem_of(response: Any, status: int) -> dict[str, Any]:
    """The body, after checking that it is a problem and nothing more."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and body["type"] and body["title"] and body["detail"] and body["instance"]
    assert set(body) <= {"type", "title", "status", "detail", "instance", "errors"}
    assert "Traceback" not in response.text
    return body


def test_every_route_answers(client: TestClient, clips: list[dict[str, Any]]) -> None:
    """A route that is not in this table, or a line without its route, fails."""
    clip = f"/v1/clips/{clips[0]['clip_id']}"
    asked = {
        "/healthz": "/healthz",
        "/readyz": "/readyz",
        "/metrics": "/metrics",
        "/v1/health": "/v1/health",
        "/v1/jobs": "/v1/jobs",
        "/v1/jobs/estimate": None,  # these four: test_jobs*.py
        "/v1/jobs/{job_id}": None,
        "/v1/jobs/{job_id}/cancel": None,
        "/v1/jobs/{job_id}/events": None,
        "/v1/recipes": "/v1/recipes",
        "/v1/recipes/schema": "/v1/recipes/schema",
        "/v1/recipes/{recipe}": "/v1/recipes/demo",
        "/v1/recipes/validate": None,  # below
        "/v1/datasets": "/v1/datasets",
        "/v1/datasets/{name}/snapshots": f"{DATASET}/snapshots",
        "/v1/datasets/{name}/rows": f"{DATASET}/rows?table=videos",
        "/v1/datasets/{name}/filter": None,  # test_filters.py
        "/v1/datasets/{name}/files": f"{DATASET}/files",
        "/v1/datasets/{name}/parquet": f"{DATASET}/parquet",
        "/v1/datasets/{name}/recipe": f"{DATASET}/recipe",
        "/v1/datasets/{name}/diff": f"{DATASET}/diff?from=1&to=1",
        "/v1/datasets/{name}/quarantine": f"{DATASET}/quarantine",
        "/v1/datasets/{name}/quarantine/retry": None,  # test_quarantine.py
        "/v1/datasets/{name}/funnel": f"{DATASET}/funnel",
        "/v1/datasets/{name}/histograms": f"{DATASET}/histograms",
        "/v1/datasets/{name}/statistics": f"{DATASET}/statistics",
        "/v1/datasets/{name}/corejection": f"{DATASET}/corejection",
        "/v1/datasets/{name}/whatif": f"{DATASET}/whatif?visual.sharpness=1000",
        "/v1/datasets/{name}/scores": f"{DATASET}/scores",
        "/v1/datasets/{name}/search": f"{DATASET}/search?text=a bee",
        "/v1/datasets/{name}/clusters": f"{DATASET}/clusters",
        "/v1/clips/{clip_id}/neighbours": f"{clip}/neighbours?dataset=demo",
        "/v1/clips/{clip_id}": clip,
        "/v1/clips/{clip_id}/lineage": f"{clip}/lineage",
        "/v1/clips/{clip_id}/preview.mp4": f"{clip}/preview.mp4",
        "/v1/clips/{clip_id}/poster.webp": f"{clip}/poster.webp",
        "/v1/datasets/{name}/tags": f"{DATASET}/tags",
        "/v1/datasets/{name}/tags/{tag}": None,  # test_tags.py
        "/v1/runs": "/v1/runs",
        "/v1/runs/{run}": None,  # these four: test_runs_rest.py
        "/v1/runs/{run}/metrics": None,
        "/v1/runs/{run}/samples": None,
        "/v1/runs/{run}/samples/{sample}": None,
        "/v1/iceberg/v1/config": "/v1/iceberg/v1/config",
        "/v1/iceberg/v1/namespaces": "/v1/iceberg/v1/namespaces",
        "/v1/iceberg/v1/namespaces/{namespace}": "/v1/iceberg/v1/namespaces/cinemill",
        "/v1/iceberg/v1/namespaces/{namespace}/tables": "/v1/iceberg/v1/namespaces/cinemill/tables",
        "/v1/iceberg/v1/namespaces/{namespace}/tables/{table}": "/v1/iceberg/v1/namespaces/cinemill/tables/clips",
        "/v1/session": None,  # these four: test_access.py
        "/v1/tokens": None,
        "/v1/tokens/{token_id}": None,
        "/v1/audit": None,
    }
    assert set(client.get("/v1/openapi.json").json()["paths"]) == set(asked)
    for path in filter(None, asked.values()):
        assert client.get(path).status_code == 200, path


def test_a_clip_is_told_where_its_scores_lie(client: TestClient, clips: list[dict[str, Any]]) -> None:
    told = client.get(f"/v1/clips/{clips[0]['clip_id']}").json()
    assert told["distribution"]
    for signal, share in told["distribution"].items():
        measured = [clip[signal] for clip in clips if clip[signal] is not None]
        assert share == pytest.approx(sum(value < clips[0][signal] for value in measured) / len(measured))


def test_lineage_leads_from_the_decisions_to_the_bytes(client: TestClient, clips: list[dict[str, Any]]) -> None:
    lineage = client.get(f"/v1/clips/{clips[0]['clip_id']}/lineage").json()
    (decision,) = lineage["decisions"]
    assert (lineage["uri"], lineage["video_id"]) == (clips[0]["uri"], clips[0]["video_id"])
    assert (decision["fate"], decision["rule"], decision["snapshot"]) == (clips[0]["fate"], clips[0]["rule"], 1)
    (snapshot,) = client.get(f"{DATASET}/snapshots").json()
    assert decision["recipe_hash"] == snapshot["recipe_hash"] and decision["measured_by"]


def test_recipes_are_checked_before_they_cost_anything(client: TestClient) -> None:
    demo = client.get("/v1/recipes/demo").json()
    right = client.post("/v1/recipes/validate", json={"recipe": demo}).json()
    (snapshot,) = client.get(f"{DATASET}/snapshots").json()
    assert (right["valid"], right["hash"]) == (True, snapshot["recipe_hash"])
    wrong = client.post("/v1/recipes/validate", json={"recipe": demo | {"clip_min_second": 3}}).json()
    assert wrong["valid"] is False and "did you mean 'clip_min_seconds'" in wrong["problem"]
    jsonschema.validate(demo, client.get("/v1/recipes/schema").json())
    assert set(client.get("/v1/recipes/schema").json()["properties"]) == set(demo)


def test_parquet_files_are_told_with_their_sizes(client: TestClient) -> None:
    files = client.get(f"{DATASET}/parquet").json()
    named = client.get(f"{DATASET}/files").json()["files"]
    assert {file["uri"] for file in files} == {uri for uris in named.values() for uri in uris}
    for file in files:
        assert file["bytes"] == Path(file["uri"]).stat().st_size
        assert file["rows"] == pq.read_metadata(file["uri"]).num_rows


def test_answers_are_packed_but_pictures_and_ranges_are_not(client: TestClient, clips: list[dict[str, Any]]) -> None:
    packed = client.get(f"{DATASET}/rows?table=clips", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    clip = f"/v1/clips/{clips[0]['clip_id']}"
    for path in (f"{clip}/poster.webp", f"{clip}/preview.mp4"):
        assert "content-encoding" not in client.get(path, headers={"accept-encoding": "gzip"}).headers
    part = client.get(f"{clip}/preview.mp4", headers={"accept-encoding": "gzip", "range": "bytes=10-99"})
    whole = client.get(f"{clip}/preview.mp4").content
    assert (part.status_code, part.content) == (206, whole[10:100])


def test_the_dashboard_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    for name in ("app.js", "charts.js", "clips.js", "dom.js", "jobs.js", "model.js", "style.css", "favicon.svg"):
        found = client.get(f"/dashboard/{name}")
        assert found.status_code == 200, name
        assert "innerHTML" not in found.text and "@import" not in found.text, name
        assert "http" not in found.text.replace("http://www.w3.org/2000/svg", ""), name


def test_datasets_and_snapshots_say_what_was_committed(client: TestClient) -> None:
    (found,) = client.get("/v1/datasets").json()
    assert (found["name"], found["snapshots"], found["newest"]["number"]) == ("demo", 1, 1)
    (snapshot,) = client.get(f"{DATASET}/snapshots").json()
    assert snapshot == found["newest"]
    counts = snapshot["counts"]
    for kind in ("videos", "clips"):
        assert counts[f"{kind}_in"] == sum(
            counts[f"{kind}_{f}"] for f in ("kept", "rejected", "duplicate", "quarantined")
        )


def test_the_funnel_ends_with_what_is_kept(client: TestClient, clips: list[dict[str, Any]]) -> None:
    funnel = client.get(f"{DATASET}/funnel").json()
    entered = funnel["clips"]["in"]
    assert entered == len(clips) > 0
    for step in funnel["steps"]:
        assert (step["entered"], step["left"]) == (entered, entered - step["rejected"])
        entered = step["left"]
    assert entered == funnel["clips"]["kept"] == sum(clip["fate"] == "kept" for clip in clips)
    assert 0 < funnel["kept_seconds"] <= funnel["clip_seconds"]


def test_a_clip_tells_its_story(client: TestClient, clips: list[dict[str, Any]]) -> None:
    rejected = next(clip for clip in clips if clip["fate"] == "rejected")
    told = client.get(f"/v1/clips/{rejected['clip_id']}").json()
    assert told["clip"]["rule"] == rejected["rule"]
    assert any(rejected["rule"] in sentence and rejected["reason"] in sentence for sentence in told["sentences"])
    assert {rule["rule"] for rule in told["rules"] if rule["passed"] is False} >= {
        rule for rule in rejected["failed_rules"] if not rule.startswith("content.")
    }
    assert client.get(told["poster"]).headers["content-type"] == "image/webp"


def test_a_number_that_is_missing_has_its_reason(client: TestClient, clips: list[dict[str, Any]]) -> None:
    told = {clip["clip_id"]: client.get(f"/v1/clips/{clip['clip_id']}?dataset=demo").json() for clip in clips}
    assert any(found["unmeasured"] for found in told.values())
    for found in told.values():
        nulls = {name for name in signals() if found["clip"][name] is None}
        assert found["unmeasured"].keys() == nulls
        reasons = json.loads(found["clip"]["unmeasured_signals"])
        assert all(why == f"could not be measured: {reasons[name]}" for name, why in found["unmeasured"].items())


def test_files_are_exactly_the_snapshots_parquet(client: TestClient, demo_snapshot: str) -> None:
    import pyarrow.parquet as pq

    from curation.clips import open_snapshot

    files = client.get(f"{DATASET}/files").json()["files"]
    assert set(files) == {"videos", "clips", "embeddings", "captions", "decisions"}
    clips = open_snapshot(demo_snapshot).table("clips")
    assert sum(pq.read_metadata(path).num_rows for path in files["clips"]) == clips.num_rows


def test_a_snapshot_is_cached_by_its_number(client: TestClient) -> None:
    for path in ("rows", "funnel", "histograms", "whatif", "scores", "files"):
        first = client.get(f"{DATASET}/{path}?snapshot=1")
        tag = first.headers["etag"]
        assert tag.startswith('"demo@1')
        again = client.get(f"{DATASET}/{path}?snapshot=1", headers={"if-none-match": tag})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/nothing", 404, "openapi.json"),
        ("/v1/datasets/nothing/rows", 404, "/v1/datasets"),
        ("/v1/datasets/nothing/snapshots", 404, "/v1/datasets"),
        (f"{DATASET}/rows?snapshot=77", 404, "/snapshots"),
        (f"{DATASET}/rows?snapshot=-1", 422, "snapshot"),
        (f"{DATASET}/rows?snapshot=99999999999999999999", 422, "snapshot"),
        (f"{DATASET}/rows?table=catalog", 422, "table"),
        (f"{DATASET}/rows?limit=0", 422, "limit"),
        (f"{DATASET}/rows?limit=1001", 422, "1000"),
        (f"{DATASET}/rows?order=reason", 422, "not a number"),
        (f"{DATASET}/rows?table=clips&order=sharpness;drop", 422, "not a number"),
        (f"{DATASET}/rows?table=videos&kind=clip", 422, "no column"),
        (f"{DATASET}/whatif?visual.nothing=3", 422, "visual.sharpness"),
        (f"{DATASET}/whatif?visual.sharpness=nan", 422, "finite"),
        (f"{DATASET}/whatif?visual.sharpness=", 422, "finite"),
        (f"/v1/clips/{'0' * 32}", 404, "rows?table=clips"),
        ("/v1/clips/XYZ", 422, "clip_id"),
        (f"/v1/clips/{'0' * 32}?dataset=nothing", 404, "nothing"),
        ("/v1/jobs/nothing", 404, "/v1/jobs"),
        ("/v1/jobs?state=happy", 422, "queued"),
        ("/v1/jobs?limit=100000", 422, "limit"),
    ],
)
def test_errors_have_one_shape_and_say_where_to_look(client: TestClient, path: str, status: int, says: str) -> None:
    body = problem_of(client.get(path), status)
    assert says in body["detail"]
    assert body["instance"] == path.partition("?")[0]


def test_another_method_is_refused(client: TestClient) -> None:
    response = client.delete("/v1/datasets")
    problem_of(response, 405)
    assert "GET" in response.headers["allow"]


def test_an_empty_lake_is_no_error(make_settings: Any, open_service: Any) -> None:
    with open_service(make_settings()) as empty:
        assert empty.get("/v1/datasets").json() == []
        assert empty.get("/").status_code == 200
        body = problem_of(empty.get("/v1/datasets/demo/funnel"), 404)
        assert "POST /v1/jobs" in body["detail"]
