"""The Python client against the service: what it tells, what it does when it is refused or the service is busy."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.client import Client, ServiceError

SLEEP = "import time; time.sleep(60)"
FAIL = "import sys; print('no footage in it', file=sys.stderr); sys.exit(2)"


@pytest.fixture
def service(client: TestClient) -> Client:
    """Over the demo lake; a TestClient is an httpx.Client, whose network is the application itself."""
    return Client("http://127.0.0.1:8000", http=client)


def test_it_tells_what_the_rows_tell(service: Client, clips: list[dict[str, Any]]) -> None:
    assert service.datasets() == ["demo"]
    (snapshot,) = service.snapshots("demo")
    assert (snapshot.number, snapshot.counts["clips_in"]) == (1, len(clips))
    assert list(service.rows("demo", page=3)) == clips
    kept = {"column": "fate", "is": "=", "value": "kept"}
    wanted = [row["clip_id"] for row in clips if row["fate"] == "kept"]
    assert [row["clip_id"] for row in service.rows("demo", where=kept, columns=["clip_id"], page=2)] == wanted
    table = service.table("demo", where=kept, columns=["clip_id", "sharpness"])
    assert table["clip_id"].to_pylist() == wanted
    assert service.count("demo", kept) == len(wanted) == service.funnel("demo")["clips"]["kept"]
    assert service.what_if("demo", {}).counts["kept"] == len(wanted) and service.what_if("demo", {}).exact
    assert service.clip(wanted[0])["clip"]["fate"] == "kept"
    assert service.diff("demo", 1, 1)["kept_in_both"] == len(wanted)
    assert all(Path(uri).exists() for uris in service.files("demo").values() for uri in uris)


def test_a_refusal_says_what_to_change_and_where_to_look_in_the_log(service: Client) -> None:
    with pytest.raises(ServiceError, match="no column 'nothing'") as caught:
        list(service.rows("demo", columns=["nothing"]))
    assert caught.value.status == 422 and caught.value.trace_id


def test_jobs_are_submitted_once_watched_and_cancelled(
    make_settings: Callable[..., Any], open_service: Any, footage: Path
) -> None:
    with open_service(make_settings(FAIL)) as opened:
        service = Client("", http=opened)
        job = service.submit(key="once", sources=[str(footage)])
        assert service.submit(key="once", sources=[str(footage)]).id == job.id
        events = list(service.events(job.id))
        assert [event.data["state"] for event in events if event.kind == "state"][-1] == "failed"
        assert [event.id for event in service.events(job.id, after=events[1].id)] == [event.id for event in events[2:]]
        ended = service.wait(job.id)
        assert ended.has_ended and "no footage in it" in str(ended.error)
        assert [each.id for each in service.jobs("failed")] == [job.id] and service.jobs("running") == []
    with open_service(make_settings(SLEEP, state_dir=footage.parent / "other", cancel_grace_seconds=0.0)) as opened:
        service = Client("", http=opened)
        job = service.submit(sources=[str(footage)])
        service.cancel(job.id)
        assert service.wait(job.id).state == "cancelled"


def test_a_busy_service_is_asked_again_and_a_write_is_not() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(503, headers={"retry-after": "0"}, json={"detail": "busy"})

    service = Client("", http=httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service"))
    for ask, times in (
        (service.datasets, 4),
        (lambda: service.submit(sources=["x"]), 4),
        (lambda: service.cancel("x"), 1),
    ):
        asked.clear()
        with pytest.raises(ServiceError, match="busy"):
            ask()
        assert len(asked) == times


def test_it_loads_nothing_heavy() -> None:
    heavy = "import sys, api.client; print(sorted({'torch', 'ray', 'fastapi', 'duckdb', 'cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"
