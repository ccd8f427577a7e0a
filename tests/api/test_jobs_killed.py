"""kill -9 in the middle of a real curation: of the service, and of the process that curates. The manifest is the undisturbed one's."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.launch import process_start
from curation.clips import Lake
from curation.pipeline import curate
from curation.recipes import load_recipe
from tests.conftest import SAMPLES

ROOT = Path(__file__).parents[2]
SOME = ("beetle_bw_360p.mp4", "odd_invalid_bitstream_vp9.webm", "black_silent_10s.mp4", "roof_handheld_360p.mp4")
OF_THE_RUN = (
    "early_seconds",
    "decode_seconds",
    "model_seconds",
    "filter_seconds",
    "strip_uri",
)  # what it cost, and where it lies


class Server:
    """`cinemill serve` in a process of its own, which can be killed and started again on the same state."""

    def __init__(self, data: Path, roots: Path):
        self.command = [sys.executable, "-m", "api.cli", "serve", "--data", str(data), "--port", "0"]
        self.environment = os.environ | {
            "CINEMILL_ROOTS": str(roots), "CINEMILL_LEASE_SECONDS": "2", "CINEMILL_RETRY_SECONDS": "0.2",
            "CINEMILL_MAX_ATTEMPTS": "10",
        }  # fmt: skip
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split(" on ")[1].split()[0].rstrip("/")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return json.load(answer)

    def until(self, job_id: str, is_so: Callable[[dict[str, Any]], bool], seconds: float = 400.0) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while not is_so(job := self.ask(f"/v1/jobs/{job_id}")):
            assert time.monotonic() < end, job
            time.sleep(0.05)
        return job


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    servers: list[Server] = []

    def start(roots: Path) -> Server:
        servers.append(Server(tmp_path / "lake", roots))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        with contextlib.suppress(Exception):
            for job in server.ask("/v1/jobs?state=running&state=committing"):
                os.killpg(job["pid"], signal.SIGKILL)
        server.kill()


@pytest.fixture
def some_footage(tmp_path: Path) -> Path:
    """Four of the samples: enough to be killed in."""
    folder = tmp_path / "footage"
    folder.mkdir()
    for name in SOME:
        shutil.copy(SAMPLES / name, folder)
    return folder


def manifest(lake: Path, dataset: str = "demo") -> dict[str, list[dict[str, Any]]]:
    """Every row of the newest snapshot, but for what the run itself cost."""
    snapshot, found = Lake(str(lake)).snapshot(dataset), {}
    for table in ("videos", "clips", "decisions", "captions", "embeddings"):
        rows = snapshot.table(table).to_pylist()
        rows = [{name: value for name, value in row.items() if name not in OF_THE_RUN} for row in rows]
        found[table] = sorted(rows, key=lambda row: json.dumps(row, default=str, sort_keys=True))
    return found


def named_below(pid: int, name: str) -> list[int]:
    """Processes of this name that a process has started, or what it started."""
    parents, found = {}, []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            before, _, after = stat.read_text().rpartition(") ")
            parents[int(stat.parent.name)] = (int(after.split()[1]), before.partition("(")[2])
    for child, (parent, word) in parents.items():
        while parent not in (0, pid):
            parent = parents.get(parent, (0, ""))[0]
        if parent == pid and word == name[:15]:
            found.append(child)
    return found


def is_measuring(job: dict[str, Any]) -> bool:
    return job["state"] == "running" and job["progress"].get("stage") == "measure"


def is_over(job: dict[str, Any]) -> bool:
    return job["state"] in ("succeeded", "failed", "cancelled")


@pytest.mark.slow  # one to two minutes
def test_service_and_work_are_killed_and_nothing_is_lost(
    ray_cluster: None, tmp_path: Path, some_footage: Path, start_server: Callable[[Path], Server]
) -> None:
    server = start_server(some_footage)
    job_id = server.ask("/v1/jobs", {"sources": [str(some_footage)]})["id"]
    pid = server.until(job_id, is_measuring)["pid"]
    server.kill()
    assert process_start(pid), "the work goes on without its service"
    server.start()
    job = server.until(job_id, lambda job: True)
    assert (job["state"], job["attempts"], job["pid"]) == ("running", 1, pid)
    os.kill(pid, signal.SIGKILL)
    job = server.until(job_id, is_over)
    assert (job["state"], job["snapshot"]) == ("succeeded", 1), job
    assert job["attempts"] == 2 and job["counters"]["identify"]["in"] == len(SOME)
    curate([str(some_footage)], load_recipe("demo"), str(tmp_path / "undisturbed"))
    assert manifest(tmp_path / "lake") == manifest(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["raylet", "gcs_server"])
def test_ray_is_killed_under_a_job_and_the_next_attempt_loses_nothing(
    what: str, ray_cluster: None, tmp_path: Path, some_footage: Path, start_server: Callable[[Path], Server]
) -> None:
    server = start_server(some_footage)
    job_id = server.ask("/v1/jobs", {"sources": [str(some_footage)]})["id"]
    pid = server.until(job_id, is_measuring)["pid"]
    killed = named_below(pid, what)
    assert killed, f"no {what} below process {pid}"
    for child in killed:
        os.kill(child, signal.SIGKILL)
    job = server.until(job_id, is_over)
    assert (job["state"], job["snapshot"]) == ("succeeded", 1), (job["attempts"], job["error_class"], job["error"])
    curate([str(some_footage)], load_recipe("demo"), str(tmp_path / "undisturbed"))
    assert manifest(tmp_path / "lake") == manifest(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["start", "identify", "measure", "measure, twice", "decide"])
def test_the_samples_are_curated_through_kills_at_every_stage(
    when: str, demo_lake: Path, start_server: Callable[[Path], Server]
) -> None:
    server = start_server(SAMPLES)
    job_id = server.ask("/v1/jobs", {"sources": [str(SAMPLES)]})["id"]
    stage, _, twice = when.partition(", ")
    for attempt in range(2 if twice else 1):

        def reached(job: dict[str, Any], attempt: int = attempt + 1) -> bool:
            return is_over(job) or bool(
                job["attempts"] == attempt and job["progress"].get("stage") == stage and job["pid"]
            )

        job = server.until(job_id, reached)
        server.kill()
        if not is_over(job):
            with contextlib.suppress(ProcessLookupError):
                os.kill(job["pid"], signal.SIGKILL)
        server.start()
    job = server.until(job_id, is_over, seconds=900.0)
    assert job["state"] == "succeeded", job
    assert manifest(server_lake(server)) == manifest(demo_lake)


def server_lake(server: Server) -> Path:
    return Path(server.command[server.command.index("--data") + 1])
