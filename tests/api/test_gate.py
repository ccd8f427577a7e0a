"""Hostile requests: none crashes the service, reads outside its folders, or gets a page to do something for it."""

import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from api.gate import Gate
from api.roots import OutsideRoots, allowed_source
from api.settings import Settings

JOB = {"kind": "curate", "sources": ["/etc/passwd"]}


def is_problem(response: Any, *statuses: int) -> None:
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == response.status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::1", "10.0.0.1:8000"]
)
def test_only_known_hosts_are_answered(client: TestClient, host: str) -> None:
    is_problem(client.get("/v1/datasets", headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST"])
def test_loopback_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/v1/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://[bad"])
def test_another_sites_page_cannot_start_a_job(client: TestClient, origin: str) -> None:
    is_problem(client.post("/v1/jobs", json=JOB, headers={"origin": origin}), 403)
    before = client.get("/v1/jobs").json()
    is_problem(client.post("/v1/jobs", content='{"sources": ["x"]}', headers={"content-type": "text/plain"}), 415, 422)
    assert client.get("/v1/jobs").json() == before


@pytest.mark.parametrize("path", ["/", "/v1/health", "/v1/nothing", "/dashboard/app.js", "/dashboard/nothing.js"])
def test_every_answer_keeps_the_browser_strict(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "script-src 'self'" in policy and "default-src 'none'" in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/v1/clips/..%2f..%2fetc%2fpasswd/preview.mp4",
        "/v1/clips/%2e%2e/preview.mp4",
        "/v1/clips/" + "a" * 31 + "%00/preview.mp4",
        "/v1/clips/" + "A" * 32 + "/poster.webp",
        "/v1/clips/" + "a" * 60_000,
        "/v1/datasets/..%2f..%2fetc/rows",
        "/v1/datasets/%2e%2e/rows",
        "/v1/datasets/demo%00/rows",
        "/v1/datasets/-o/rows",
        "/v1/jobs/..%2f..%2fjobs.db",
        "/dashboard/..%2f..%2fsettings.py",
        "/dashboard/%2e%2e/settings.py",
        "/dashboard/..%5c..%5csettings.py",
        "/dashboard//etc/passwd",
        "/dashboard/%00",
    ],
)
def test_no_path_leads_outside(client: TestClient, path: str) -> None:
    is_problem(client.get(path), 404, 405, 422)


ESCAPES = (
    "..", "../", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%252f..%252fetc",
    "..%5c..%5cetc", "%2fetc%2fpasswd", "//etc/passwd", "/etc/passwd", "demo%00", "%00", "demo%0a", "file:%2f%2f%2fetc%2fpasswd",
    "~root", "-o", "--out", "%c0%ae%c0%ae%c0%af", "%ff%fe", "CON", ".", ".git", "demo/../../..", "${HOME}", "$(id)", "`id`",
    "{clip_id}", "x" * 5000, "demo@1", "demo%23demo@1", "..;/", "%u002e%u002e", "s3:%2f%2fbucket", "http:%2f%2f169.254.169.254",
)  # fmt: skip


def test_no_path_parameter_leads_outside(client: TestClient, tmp_path: Path) -> None:
    """Every place of every path, by every method, against a corpus: refused or unknown, and nothing of the machine shown."""
    document = client.get("/v1/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        places = [part for part in path.split("/") if part.startswith("{")]
        for place in places:
            for method in operations:
                for escape in ESCAPES:
                    filled = path.replace(place, escape)
                    for other in places:
                        filled = filled.replace(other, "0" * 32 if other == "{clip_id}" else "demo")
                    body = {} if method == "post" else None
                    response = client.request(method, filled, json=body, follow_redirects=False)
                    asked += 1
                    assert response.status_code in (404, 405, 307, 422, 400, 401) or _is_a_page(response), filled
                    assert "root:" not in response.text and "Traceback" not in response.text, filled
    assert asked > 500
    print(f"{asked} requests, 0 escapes")


def _is_a_page(response: Any) -> bool:
    """Some escapes only shorten the path, in the client already, to an endpoint that there is."""
    return response.status_code == 200 and urlsplit(str(response.url)).path in (
        "",
        "/",
        "/v1/datasets",
        "/v1/jobs",
        "/v1/recipes",
        "/v1/tokens",
        "/v1/runs",
        "/metrics",
        "/v1/iceberg/v1/namespaces",
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/x.mp4", "http://169.254.169.254/latest/meta-data", "http://2130706433/x.mp4", "http://0x7f.1/x.mp4",
        "http://[::ffff:127.0.0.1]/x.mp4", "http://[::1]/x.mp4", "https://user@127.0.0.1/x.mp4", "HTTPS://EXAMPLE.ORG/x.mp4",
        "ftp://127.0.0.1/x", "rtsp://127.0.0.1/x", "concat:/etc/passwd", "data:video/mp4;base64,AAAA", "file://localhost/etc/passwd",
        "file:///etc/passwd", "gopher://127.0.0.1", "subfile,,start,0,end,9,,:/etc/passwd", "pipe:0", "\\\\host\\share",
    ],
)  # fmt: skip
def test_sources_are_files_and_buckets_never_urls(
    make_settings: Any, open_service: Any, footage: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curation fetches nothing, so a URL is refused before anything connects or resolves a name; in a list of sources, too.

    Without :// an entry of a list is a file's name beside the list, whatever it looks like: it becomes an absolute path.
    """
    monkeypatch.setattr(socket, "getaddrinfo", _no_network)
    monkeypatch.setattr(socket.socket, "connect", _no_network)
    (footage / "list.csv").write_text(f'uri\n"{url}"\n')
    with open_service(make_settings()) as client:
        for source in (url, str(footage / "list.csv")) if "://" in url else (url,):
            is_problem(client.post("/v1/jobs", json={"sources": [source]}), 403, 422)
        assert client.get("/v1/jobs").json() == []


def _no_network(*words: Any, **_: Any) -> None:
    raise AssertionError(f"something connects: {words}")


def test_bodies_are_bounded_and_must_be_json(client: TestClient, settings: Settings) -> None:
    large = b'{"sources": ["' + b"x" * settings.max_body_bytes + b'"]}'
    json_type = {"content-type": "application/json"}
    is_problem(client.post("/v1/jobs", content=large, headers=json_type), 413)
    is_problem(
        client.post("/v1/jobs", content=(large[i : i + 65536] for i in range(0, len(large), 65536)), headers=json_type),
        413,
    )
    is_problem(client.post("/v1/jobs", content=b"\xff\xfe{", headers=json_type), 400, 422)
    is_problem(client.post("/v1/jobs", content=b"[" * 100_000, headers=json_type), 400, 422)
    is_problem(client.post("/v1/jobs", content=b"", headers=json_type), 422)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sources": []},
        {"sources": "samples"},
        {"sources": ["x"], "out": "/tmp"},
        {"sources": ["x"] * 1001},
        {"sources": ["x"], "limit": 0},
        {"sources": ["x"], "limit": 10**30},
        {"sources": ["x"], "dataset": "../up"},
        {"sources": ["x"], "dataset": "--retry"},
        {"sources": ["x"], "kind": "train"},
    ],
    ids=str,
)
def test_a_wrong_job_is_refused_by_field(client: TestClient, body: dict[str, Any]) -> None:
    response = client.post("/v1/jobs", json=body)
    is_problem(response, 422)
    assert response.json()["errors"]


def test_a_recipe_that_does_not_exist_is_refused_with_a_hint(
    make_settings: Any, open_service: Any, footage: Path
) -> None:
    with open_service(make_settings()) as client:
        response = client.post("/v1/jobs", json={"sources": [str(footage)], "recipe": "demmo"})
        is_problem(response, 422)
        assert "did you mean demo" in response.json()["detail"]
        is_problem(client.post("/v1/jobs", json={"sources": [str(footage)], "recipe": "/etc/passwd"}), 403)


def test_sources_outside_the_roots_are_refused(
    make_settings: Any, open_service: Any, footage: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    (footage / "link.mp4").symlink_to(secret)
    (footage / "sneaky.csv").write_text(f"uri\n{secret}\n")
    (footage / "climbing.csv").write_text("uri\n../secret.mp4\n")
    (footage / "web.csv").write_text("uri\nhttp://169.254.169.254/latest\n")
    outside = [
        secret, tmp_path, "/", "/etc/passwd", f"{footage}/../secret.mp4", f"{footage}-beside", "~/x", "secret.mp4", "",
        f"file://{secret}", "http://127.0.0.1:1/x.mp4", "s3://bucket/x", "a\0b", "--out=/tmp", footage / "link.mp4",
        footage / "sneaky.csv", footage / "climbing.csv", footage / "web.csv",
    ]  # fmt: skip
    with open_service(make_settings()) as client:
        for source in outside:
            is_problem(client.post("/v1/jobs", json={"sources": [str(footage), str(source)]}), 403, 422)
        assert client.get("/v1/jobs").json() == []


def test_what_lies_inside_the_roots_is_allowed(footage: Path) -> None:
    roots = (str(footage), "s3://bucket/footage")
    (footage / "list.csv").write_text("uri,licence\nhere.mp4,CC0\n")
    assert allowed_source(f"{footage}/a/../b.mp4", roots) == str(footage / "b.mp4")
    assert allowed_source(str(footage / "list.csv"), roots) == str(footage / "list.csv")
    assert allowed_source("s3://bucket/footage/x.mp4", roots) == "s3://bucket/footage/x.mp4"
    for outside in ("s3://bucket/footage2/x.mp4", "s3://bucket/footage/../x.mp4", "S3://bucket/footage/x.mp4"):
        with pytest.raises(OutsideRoots):
            allowed_source(outside, roots)


def test_default_roots_never_are_the_whole_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir("/")
    assert Settings(data="/lake").allowed_roots == ()
    monkeypatch.chdir(tmp_path)
    assert Settings(data=str(tmp_path / "a" / "lake")).allowed_roots == (str(tmp_path / "a"), str(tmp_path))


def test_what_goes_wrong_inside_stays_inside(settings: Settings) -> None:
    """A route with a bug: the caller learns nothing of it, and the service goes on."""
    from fastapi import FastAPI

    from api import problems

    app = FastAPI()
    problems.install(app)
    app.add_middleware(Gate, settings=settings)

    @app.get("/bug")
    def bug() -> None:
        raise RuntimeError("password=hunter2")

    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        response = client.get("/bug")
    is_problem(response, 500)
    assert "hunter2" not in response.text and "RuntimeError" not in response.text
