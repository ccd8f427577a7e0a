"""A node of the cluster dies in the middle of a run: its shard is done again elsewhere, and nothing is lost or doubled."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from curation.clips import Lake
from tests.conftest import ROOT, SAMPLES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
HEAD, NODE = "127.0.0.2", "127.0.0.3"  # nodes of their own addresses, on this machine
ENVIRONMENT = os.environ | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "disabled",
    "PYTHONPATH": str(ROOT),
}


def _start(*words: str) -> subprocess.Popen[bytes]:
    """A Ray node in a process group of its own, so that it can be killed whole."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *words]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [*ray, "--object-store-memory=100000000", "--disable-usage-stats"],
        env=ENVIRONMENT,
        stdout=quiet,
        stderr=quiet,
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HEAD, 0))
        return int(probe.getsockname()[1])


def _kill(pid: int) -> None:
    """SIGKILL for a process and all that it started: a node that loses its power."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    doomed = [pid]
    for one in doomed:
        doomed += children.get(one, [])
    for one in doomed:
        try:
            os.kill(one, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The address of a cluster of two nodes with one core each, and the process id of the second."""
    address = f"{HEAD}:{_free_port()}"
    temporary = f"/tmp/cinemill-{os.getpid()}"  # Ray's socket paths must stay short
    head = _start(
        "--head",
        f"--node-ip-address={HEAD}",
        f"--port={address.rpartition(':')[2]}",
        "--include-dashboard=false",
        f"--temp-dir={temporary}",
    )
    time.sleep(10)
    node = _start(f"--address={address}", f"--node-ip-address={NODE}")
    time.sleep(10)
    try:
        yield address, node.pid
    finally:
        for process in (node, head):
            _kill(process.pid)
            process.wait()
        subprocess.run(["rm", "-rf", temporary], check=False)


def test_a_killed_node_costs_nothing_but_its_shard(two_nodes: tuple[str, int], tmp_path: Path) -> None:
    address, node = two_nodes
    lake, progress = tmp_path / "lake", tmp_path / "progress.jsonl"
    command = [sys.executable, "-m", "api.cli", "curate", str(SAMPLES), "--out", str(lake), "--address", address]
    run = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT | {"CINEMILL_PROGRESS": str(progress)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 400
    while not (progress.exists() and '"stage": "measure", "done": ' in progress.read_text().replace('"done": 0', "")):
        assert run.poll() is None, run.stderr.read() if run.stderr else ""
        assert time.monotonic() < deadline, "no shard was finished"
        time.sleep(0.2)
    at_work = '"workers": 2' in progress.read_text()
    _kill(node)
    _, complaints = run.communicate(timeout=500)
    assert run.returncode == 0, complaints[-2000:]
    assert at_work, "both nodes were at work"
    rows = Lake(str(lake)).snapshot("demo").table("ledger").to_pylist()
    videos = [row["uri"] for row in rows if row["kind"] == "video"]
    clips = [row["clip_id"] for row in rows if row["kind"] == "clip"]
    assert len(videos) == len(set(videos)) == 15
    assert len(clips) == len(set(clips)) == 17
