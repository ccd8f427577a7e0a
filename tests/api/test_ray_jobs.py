"""A job on a real Ray cluster, by its dashboard, on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
BEE = Path(__file__).parents[2] / "samples" / "bee_720p.mp4"
RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A head node with its dashboard on loopback. Every port is its own: Ray's defaults are taken where another Ray runs."""
    dashboard, folder = free_port(), tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
    ports = {name: free_port() for name in ("port", "ray-client-server-port", "dashboard-agent-listen-port")}
    flags = [f"--{name}={port}" for name, port in ports.items()]
    command = [
        str(RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.23", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--temp-dir={folder}", "--num-cpus=2", "--object-store-memory=200000000", *flags,
    ]  # fmt: skip
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/api/version", timeout=5).close()
            break
        except OSError:
            assert head.poll() is None and time.monotonic() < until, "Ray did not start"
            time.sleep(0.5)
    yield f"http://127.0.0.1:{dashboard}"
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_ray_job_curates_and_its_commit_is_the_proof(
    ray_address: str, make_settings: Any, open_service: Any, wait_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    settings = make_settings(ray_address=ray_address, roots=(str(BEE.parent),), poll_seconds=0.5)
    with open_service(settings) as client:
        assert client.get("/v1/health").json()["executor"] == "ray"
        job_id = client.post("/v1/jobs", json={"sources": [str(BEE)]}).json()["id"]
        done = wait_for(client, job_id, "succeeded", "failed", "cancelled", seconds=300)
        assert (done["state"], done["snapshot"], done["executor"]) == ("succeeded", 1, "ray"), done
        assert done["progress"]["stage"] == "commit"
        again = client.post("/v1/jobs", json={"sources": [str(BEE)], "dataset": "stopped"}).json()["id"]
        wait_for(client, again, "running", seconds=60)
        client.post(f"/v1/jobs/{again}/cancel")
        assert wait_for(client, again, "cancelled", "failed", "succeeded", seconds=120)["state"] == "cancelled"
