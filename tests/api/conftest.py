"""A service over the demo lake, asked without a network; and one over nothing, where jobs may be started."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings

BASE = "http://127.0.0.1:8000"


def _open(settings: Settings) -> TestClient:
    return TestClient(create_app(settings), base_url=BASE, raise_server_exceptions=False)


@pytest.fixture(scope="session")
def open_service() -> Callable[[Settings], TestClient]:
    """Opens a service as a context; crashes come back as the 500 that a caller would see."""
    return _open


@pytest.fixture(scope="session")
def settings(demo_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data=str(demo_lake), state_dir=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def client(settings: Settings, demo_snapshot: str) -> Iterator[TestClient]:
    with _open(settings) as opened:
        yield opened


@pytest.fixture(scope="session")
def clips(client: TestClient) -> list[dict[str, Any]]:
    """Every clip of the data set, with scores and decision."""
    return client.get("/v1/datasets/demo/rows?table=clips&limit=1000").json()["rows"]


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """A folder that jobs may read."""
    folder = tmp_path / "footage"
    folder.mkdir()
    return folder


@pytest.fixture
def make_settings(tmp_path: Path, footage: Path) -> Callable[..., Settings]:
    """Settings of a service over an empty lake. script: Python that stands in for the command line of a job."""

    def make(script: str | None = None, **more: Any) -> Settings:
        command = {} if script is None else {"job_command": (sys.executable, "-c", script)}
        asked: dict[str, Any] = {"data": str(tmp_path / "lake"), "roots": (str(footage),), "poll_seconds": 0.02}
        return Settings(**asked | command | more)

    return make


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., dict[str, Any]]:
    """wait_for(client, job id, states...): the job once it is in one of these states."""

    def wait(client: TestClient, job_id: str, *states: str, seconds: float = 20.0) -> dict[str, Any]:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            job = client.get(f"/v1/jobs/{job_id}").json()
            if job["state"] in states:
                return job
            time.sleep(0.02)
        raise AssertionError(f"job is {job['state']}, not {' or '.join(states)}, after {seconds} s: {job}")

    return wait
