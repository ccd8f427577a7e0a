"""`cinemill serve` as people run it: a process on loopback, a real job, its events, and its clip in ranges."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BEE = ROOT / "samples" / "bee_720p.mp4"


@contextmanager
def served(data: Path, *more: str, **environment: str) -> Iterator[str]:
    """The URL of a service in a process of its own; it must end by Ctrl-C, cleanly."""
    child = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "serve", "--data", str(data), "--port", "0", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert " on http://127.0.0.1:" in line, line + (child.stderr.read() if child.stderr else "")
        yield line.split(" on ")[1].split()[0].rstrip("/")
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=30)[1]
        assert (child.returncode, said) == (0, "")
    finally:
        child.kill()
        child.wait()


def ask(url: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    typed = {"content-type": "application/json"} | headers
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, typed), timeout=120) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_real_job_from_submit_to_playing_its_clip(tmp_path: Path) -> None:
    with served(tmp_path / "lake", CINEMILL_ROOTS=str(BEE.parent)) as url:
        assert ask(f"{url}/v1/jobs", {"sources": ["/etc/passwd"]})[0] == 403
        status, body = ask(f"{url}/v1/jobs", {"sources": [str(BEE)]}, **{"idempotency-key": "once"})
        job = json.loads(body)
        assert status == 201
        assert ask(f"{url}/v1/jobs", {"sources": [str(BEE)]}, **{"idempotency-key": "once"})[0] == 200
        stream = ask(f"{url}/v1/jobs/{job['id']}/events")[1].decode()  # ends when the job does
        done = json.loads(ask(f"{url}/v1/jobs/{job['id']}")[1])
        assert (done["state"], done["snapshot"]) == ("succeeded", 1), done
        stages = [json.loads(line[6:]).get("stage") for line in stream.splitlines() if line.startswith("data: ")]
        assert [stage for stage in dict.fromkeys(stages) if stage] == [
            "start",
            "identify",
            "measure",
            "decide",
            "commit",
        ]
        funnel = json.loads(ask(f"{url}/v1/datasets/demo/funnel")[1])
        assert funnel["videos"]["in"] == 1 and funnel["clips"]["in"] >= 1
        rows = json.loads(ask(f"{url}/v1/datasets/demo/rows?table=clips")[1])["rows"]
        preview = f"{url}/v1/clips/{rows[0]['clip_id']}/preview.mp4"
        status, start = ask(preview, range="bytes=0-99")
        assert (status, len(start), start[4:8]) == (206, 100, b"ftyp")


def test_wrong_calls_are_one_line_and_exit_2(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    (tmp_path / "file").write_text("not a folder")
    with socket.socket() as taken, (tmp_path / "busy" / "service.lock").open("w") as lock:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        fcntl.flock(lock, fcntl.LOCK_EX)
        free = ["--data", str(tmp_path), "--port", "0"]
        for arguments, environment, says in (
            (["--data", str(tmp_path), "--port", str(taken.getsockname()[1])], {}, "--port 0 takes a free port"),
            ([*free, "--host", "0.0.0.0"], {}, "cinemill token create NAME --scope admin"),
            (free, {"CINEMILL_REQUIRE_TOKENS": "true"}, "cinemill token create NAME --scope admin"),
            (free, {"CINEMILL_STATE_DIR": str(tmp_path / "busy")}, "another service runs"),
            (free, {"CINEMILL_STATE_DIR": str(tmp_path / "file" / "x")}, "cannot write"),
            (free, {"CINEMILL_MAX_RUNNING": "none"}, "max_running"),
        ):
            ended = subprocess.run(
                [sys.executable, "-m", "api.cli", "serve", *arguments],
                capture_output=True, text=True, cwd=ROOT, timeout=120, check=False, env={**os.environ, **environment},
            )  # fmt: skip
            assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
            assert says in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


def test_a_service_behind_tokens_logs_json_and_stops_gracefully(tmp_path: Path) -> None:
    """Also what operations ask for: alive, ready, counted, traced."""
    data = str(tmp_path / "lake")
    made = subprocess.run(
        [sys.executable, "-m", "api.cli", "token", "create", "ops", "--scope", "admin", "--data", data],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=True,
    )  # fmt: skip
    admin = {"authorization": f"Bearer {made.stdout.strip()}"}
    child = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "serve", "--data", data, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "CINEMILL_REQUIRE_TOKENS": "true", "CINEMILL_LOG_LEVEL": "info"},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        url = child.stdout.readline().split(" on ")[1].split()[0].rstrip("/")
        assert ask(f"{url}/healthz") == (200, b'{"status":"ok"}') and ask(f"{url}/readyz")[0] == 200
        assert ask(f"{url}/v1/datasets")[0] == 401
        assert ask(f"{url}/v1/datasets", **admin, **{"x-request-id": "trace-of-mine"})[0] == 200
        assert ask(f"{url}/v1/clips/{'0' * 32}", **admin)[0] == 404
        counted = ask(f"{url}/metrics", **admin)[1].decode()
        child.send_signal(signal.SIGTERM)
        said = child.communicate(timeout=30)[1]
    finally:
        child.kill()
        child.wait()
    assert 'cinemill_requests_total{endpoint="/v1/datasets",method="GET",status="200"} 1.0' in counted
    assert 'endpoint="/v1/clips/{clip_id}"' in counted and "0" * 32 not in counted, "labels are bounded"
    assert 'cinemill_jobs{state="running"} 0.0' in counted
    lines = [json.loads(line) for line in said.splitlines()]
    (mine,) = [line for line in lines if line.get("trace_id") == "trace-of-mine"]
    assert (mine["path"], mine["status"], mine["level"]) == ("/v1/datasets", 200, "info")
    assert not any(made.stdout.strip() in json.dumps(line) for line in lines), "no token in a log"
    assert child.returncode in (0, -signal.SIGTERM)
