"""Who may do what: every endpoint against every role, tokens from birth to end, limits, and the audit log."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from api import auth
from api.auth import SCOPES
from api.auth_gate import COOKIE
from api.auth_limits import RateLimit
from api.auth_scopes import ENDPOINTS, endpoint_of
from api.cli import main

ROLES: dict[str, tuple[str, ...]] = {
    "none": (), "viewer": ("read",), "annotator": ("read", "annotate"), "engineer": ("read", "submit"), "admin": ("admin",),
}  # fmt: skip
FILLED = {
    "name": "demo", "clip_id": "0" * 32, "job_id": "0" * 16, "token_id": "0" * 16, "recipe": "demo", "tag": "train", "namespace": "cinemill",
    "table": "clips", "run": "0" * 16, "sample": "0" * 16 + ".png",
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(
    settings: Any, open_service: Any, demo_snapshot: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """The demo lake behind tokens."""
    state = tmp_path_factory.mktemp("guarded")
    asked = {"require_tokens": True, "state_dir": state, "writes_per_minute": 10_000, "job_command": ("true",)}
    with open_service(settings.model_copy(update=asked)) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokens(guarded: TestClient) -> dict[str, str]:
    """Role -> token."""
    store = guarded.app.state.service.tokens  # type: ignore[attr-defined]
    return {role: store.create(role, scopes, 1.0)[1] for role, scopes in ROLES.items() if scopes}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def filled(path: str) -> str:
    for name, value in FILLED.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path, f"say in FILLED what to put into {path}"
    return path


def test_every_operation_of_the_interface_is_in_the_matrix(guarded: TestClient) -> None:
    """An endpoint that nobody decided about, or a decision about none, fails."""
    document = guarded.app.openapi()  # type: ignore[attr-defined]
    described = {(method.upper(), path) for path, each in document["paths"].items() for method in each}
    pages = {("GET", "/"), ("GET", "/login"), ("GET", "/dashboard/{path:path}"), ("GET", "/v1/openapi.json")}
    refused = {(method, "/v1/iceberg/v1/{path:path}") for method in ("POST", "PUT", "PATCH", "DELETE")}
    assert described | pages | refused == set(ENDPOINTS)
    for method, path in described:
        assert endpoint_of(method, filled(path)) == path


@pytest.mark.parametrize("role", ROLES)
def test_every_endpoint_answers_exactly_the_roles_it_is_for(
    guarded: TestClient, tokens: dict[str, str], role: str
) -> None:
    headers = bearer(tokens[role]) if role in tokens else {}
    for (method, path), need in ENDPOINTS.items():
        if ":path" in path or path.endswith("/events"):
            continue
        response = guarded.request(method, filled(path), headers=headers, json={} if method == "POST" else None)
        allowed = need == "public" or need in ROLES[role] or role == "admin"
        if allowed:
            assert response.status_code not in (403, 429), f"{role}: {method} {path}: {response.text}"
            assert response.status_code != 401 or path == "/v1/session", f"{role}: {method} {path}"
        else:
            assert response.status_code == (401 if role == "none" else 403), f"{role}: {method} {path}"
            form = "application/json" if path.startswith("/v1/iceberg/") else "application/problem+json"
            assert response.headers["content-type"] == form
            assert "www-authenticate" in response.headers or role != "none"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/datasets/", "/v1//jobs", "/V1/jobs", "/v1/jobs/x/y/z", "/docs"])
def test_what_is_not_listed_asks_for_admin(guarded: TestClient, tokens: dict[str, str], method: str, path: str) -> None:
    refused = guarded.request(method, path, headers=bearer(tokens["engineer"]), follow_redirects=False)
    assert refused.status_code == 403
    assert guarded.request(method, path, follow_redirects=False).status_code == 401


@pytest.mark.parametrize(
    "given",
    ["Bearer", "Bearer x", "Bearer cinemill_" + "A" * 43, "Basic YTpi", "Bearer " + "x" * 5000, "", "cinemill_x"],
)
def test_a_wrong_token_opens_nothing(guarded: TestClient, given: str) -> None:
    response = guarded.get("/v1/datasets", headers={"authorization": given})
    assert response.status_code in (401, 429)


def test_a_wrong_token_is_refused_on_loopback_too(client: TestClient) -> None:
    assert client.get("/v1/datasets", headers=bearer("cinemill_" + "A" * 43)).status_code == 401
    assert client.get("/v1/datasets").status_code == 200


def test_a_token_is_shown_once_kept_hashed_and_ends_when_revoked(guarded: TestClient, tokens: dict[str, str]) -> None:
    admin = bearer(tokens["admin"])
    made = guarded.post("/v1/tokens", json={"name": "notebook", "scopes": ["read"]}, headers=admin).json()
    secret = made["token"]
    assert made["prefix"] == secret[: auth.SHOWN] and len(secret) == len("cinemill_") + 43
    assert secret not in guarded.get("/v1/tokens", headers=admin).text
    with guarded.app.state.service.store.engine.connect() as connection:  # type: ignore[attr-defined]
        for row in connection.execute(text("SELECT * FROM tokens")):
            assert secret not in str(row) and secret[auth.SHOWN :] not in str(row)
    assert guarded.get("/v1/datasets", headers=bearer(secret)).status_code == 200
    assert guarded.delete(f"/v1/tokens/{made['id']}", headers=admin).json()["revoked_at"]
    assert guarded.get("/v1/datasets", headers=bearer(secret)).status_code == 401


def test_a_job_is_stopped_by_its_owner_or_an_admin_alone(
    guarded: TestClient, tokens: dict[str, str], demo_lake: Path
) -> None:
    other = guarded.app.state.service.tokens.create("other", ("read", "submit"), 1.0)[1]  # type: ignore[attr-defined]
    asked = {"kind": "export", "dataset": "demo", "out": "clips.csv"}
    for stops in ("engineer", "admin"):
        job = guarded.post("/v1/jobs", json=asked, headers=bearer(tokens["engineer"])).json()
        assert job["owner"] == "engineer"
        assert guarded.get(f"/v1/jobs/{job['id']}", headers=bearer(other)).status_code == 200, "all may look"
        refused = guarded.post(f"/v1/jobs/{job['id']}/cancel", headers=bearer(other))
        assert (refused.status_code, "engineer's" in refused.json()["detail"]) == (403, True)
        assert guarded.post(f"/v1/jobs/{job['id']}/cancel", headers=bearer(tokens[stops])).status_code == 202


def test_a_token_ends_by_itself(guarded: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    store = guarded.app.state.service.tokens  # type: ignore[attr-defined]
    _, secret = store.create("short", ("read",), days=1.0)
    assert store.find(secret) is not None
    later = time.time() + auth.DAY + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert store.find(secret) is None


def test_writes_are_in_the_audit_log_and_reads_are_not(guarded: TestClient, tokens: dict[str, str]) -> None:
    admin, engineer = bearer(tokens["admin"]), bearer(tokens["engineer"])
    before = guarded.get("/v1/audit?limit=1", headers=admin).json()["entries"]
    newest = before[0]["id"] if before else 0
    guarded.get("/v1/jobs", headers=engineer)
    guarded.post("/v1/jobs", json={"sources": ["/etc/passwd"]}, headers=engineer | {"x-request-id": "trace-1234"})
    guarded.delete(f"/v1/tokens/{'0' * 16}", headers=bearer(tokens["viewer"]))
    lines = [line for line in guarded.get("/v1/audit", headers=admin).json()["entries"] if line["id"] > newest]
    assert [(line["caller_name"], line["method"], line["path"], line["status"]) for line in lines] == [
        ("viewer", "DELETE", f"/v1/tokens/{'0' * 16}", 403), ("engineer", "POST", "/v1/jobs", 403),
    ]  # fmt: skip
    assert lines[1]["trace_id"] == "trace-1234"
    pages = guarded.get("/v1/audit?limit=1", headers=admin).json()
    assert guarded.get(f"/v1/audit?limit=1&before={pages['next']}", headers=admin).json()["entries"] == [lines[1]]


def test_the_page_logs_in_by_a_cookie_no_script_reads(guarded: TestClient, tokens: dict[str, str]) -> None:
    assert guarded.post("/v1/session", json={"token": "cinemill_" + "A" * 43}).status_code == 401
    opened = guarded.post("/v1/session", json={"token": tokens["engineer"]})
    guarded.cookies.clear()
    said = opened.headers["set-cookie"].lower()
    assert opened.status_code == 204 and "httponly" in said and "samesite=strict" in said
    cookie = {"cookie": f"{COOKIE}={tokens['engineer']}"}
    assert guarded.get("/v1/datasets", headers=cookie).status_code == 200
    job = {"sources": ["/etc/passwd"]}
    assert "Origin" in guarded.post("/v1/jobs", json=job, headers=cookie).json()["detail"]
    foreign = cookie | {"origin": "http://evil.example"}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = guarded.request(method, "/v1/jobs", json=job, headers=foreign)
        assert (response.status_code, "own page" in response.json()["detail"]) == (403, True)
    own = guarded.post("/v1/jobs", json=job, headers=cookie | {"origin": "http://127.0.0.1:8000"})
    assert "outside the folders" in own.json()["detail"], "it reached the route, which refuses the source"


def test_no_other_site_may_read(guarded: TestClient, tokens: dict[str, str]) -> None:
    asked = bearer(tokens["admin"]) | {"origin": "http://evil.example", "access-control-request-method": "GET"}
    for method in ("GET", "OPTIONS"):
        response = guarded.request(method, "/v1/datasets", headers=asked)
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_one_token_has_a_rate_and_others_keep_theirs(settings: Any, open_service: Any, tmp_path: Any) -> None:
    few = {"require_tokens": True, "state_dir": tmp_path, "reads_per_minute": 5, "writes_per_minute": 2}
    with open_service(settings.model_copy(update=few)) as client:
        store = client.app.state.service.tokens
        first, second = (bearer(store.create(name, ("admin",), 1.0)[1]) for name in ("first", "second"))
        statuses = [client.get("/v1/jobs", headers=first).status_code for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        refused = client.get("/v1/jobs", headers=first)
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        assert refused.headers["content-type"] == "application/problem+json"
        writes = [client.post("/v1/jobs", json={}, headers=first).status_code for _ in range(3)]
        assert writes == [422, 422, 429]
        assert client.get("/v1/jobs", headers=second).status_code == 200


def test_a_rate_refills_and_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = RateLimit(60)
    assert [limit.wait("a") for _ in range(60)] == [0.0] * 60
    assert limit.wait("a") == pytest.approx(1.0)
    now[0] = 1.0
    assert (limit.wait("a"), limit.wait("a")) == (0.0, pytest.approx(1.0))
    for i in range(20_000):
        limit.wait(str(i))
    assert len(limit._buckets) == 10_000


def test_tokens_on_the_command_line(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CINEMILL_DATA", str(tmp_path / "lake"))
    assert main(["token", "create", "me", "--scope", "read", "--scope", "submit", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["scopes"], made["state"]) == (["read", "submit"], "valid")
    assert main(["token", "list"]) == 0
    listed = capsys.readouterr().out
    assert made["prefix"] in listed and made["token"] not in listed
    assert main(["token", "revoke", made["id"]]) == 0
    capsys.readouterr()
    assert main(["token", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "revoked"
    assert main(["token", "create", "me", "--scope", "everything"]) == 2
    assert ", ".join(SCOPES) in capsys.readouterr().err
    assert main(["token", "revoke", "nothing"]) == 2
