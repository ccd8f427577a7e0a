"""Jobs: one state machine, whatever the process behind it does. Small scripts stand in for the command line here.

The real command is started in test_serve.py.
"""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.database import JobStore, SpecConflict
from api.jobs import LocalExecutor, process_start

SLEEPS = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)
OBEYS = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
time.sleep(60)
"""
REPORTS = """
import json, os, sys
from pathlib import Path
with open(os.environ["CINEMILL_PROGRESS"], "a") as file:
    for stage, done in (("identify", 1), ("measure", 1), ("measure", 2), ("commit", 0)):
        file.write(json.dumps({"stage": stage, "done": done, "total": 2, "seconds": 0.1}) + "\\n")
sys.path.insert(0, os.getcwd())
from curation.clips import Lake
lake = Lake(sys.argv[sys.argv.index("--out") + 1])
lake.create()
commit = lake.commit("demo", recipe_hash="0", recipe={}, code_version="0", counts={}, measured_by="",
    run=next(word[6:] for word in sys.argv if word.startswith("--run=")))
print(json.dumps({"snapshot": "x", "number": commit.number}))
"""
CLAIMS = "import json; print(json.dumps({'snapshot': 'x', 'number': 1}))"
REFUSES = "import sys; print('cinemill: no video there', file=sys.stderr); sys.exit(2)"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


def submit(client: TestClient, footage: Path, key: str | None = None, **more: Any) -> dict[str, Any]:
    headers = {} if key is None else {"idempotency-key": key}
    response = client.post("/v1/jobs", json={"sources": [str(footage)], **more}, headers=headers)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    return response.json()


def events(client: TestClient, job_id: str, after: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    """(id, kind, data) of every event until the stream ends."""
    headers = {} if after is None else {"last-event-id": str(after)}
    found = []
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for block in stream.read().decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_a_job_runs_reports_and_succeeds_by_its_commit(
    make_settings: Any, open_service: Any, footage: Path, wait_for: Any
) -> None:
    with open_service(make_settings(REPORTS)) as client:
        job = submit(client, footage)
        done = wait_for(client, job["id"], "succeeded", "failed")
        assert (done["state"], done["snapshot"], done["attempts"], done["executor"]) == ("succeeded", 1, 1, "local"), (
            done
        )
        assert done["progress"]["stage"] == "commit"
        told = events(client, job["id"])
        states = [data["state"] for _, kind, data in told if kind == "state"]
        assert states == ["submitted", "queued", "running", "committing", "succeeded"]
        assert [data["stage"] for _, kind, data in told if kind == "progress"] == ["identify", "measure", "commit"]
        ids = [number for number, _, _ in told]
        assert ids == sorted(set(ids))
        for number in ids:  # from wherever a reader stopped
            assert events(client, job["id"], number) == [event for event in told if event[0] > number]


@pytest.mark.parametrize(
    ("script", "says", "resumes"),
    [(CLAIMS, "status 0", True), (REFUSES, "no video there", False), (CRASHES, "status -11", True)],
    ids=["claims a commit that is not there", "refuses", "crashes"],
)
def test_without_a_commit_a_job_failed(
    make_settings: Any, open_service: Any, footage: Path, wait_for: Any, script: str, says: str, resumes: bool
) -> None:
    with open_service(make_settings(script)) as client:
        failed = wait_for(client, submit(client, footage)["id"], "succeeded", "failed")
    assert failed["state"] == "failed" and failed["snapshot"] is None
    assert says in failed["error"]
    assert ("Submit the same request again" in failed["error"]) is resumes


def test_the_same_key_is_the_same_job(make_settings: Any, open_service: Any, footage: Path) -> None:
    with open_service(make_settings(SLEEPS)) as client:
        job = submit(client, footage, key="k1")
        again = client.post("/v1/jobs", json={"sources": [str(footage)]}, headers={"idempotency-key": "k1"})
        assert (again.status_code, again.json()["id"]) == (200, job["id"])
        other = client.post("/v1/jobs", json={"sources": [str(footage)], "limit": 3}, headers={"idempotency-key": "k1"})
        assert other.status_code == 409 and job["id"] in other.json()["detail"]
        assert submit(client, footage, key="k2")["id"] != job["id"]
        assert len(client.get("/v1/jobs").json()) == 2
        for each in client.get("/v1/jobs").json():
            client.post(f"/v1/jobs/{each['id']}/cancel")


def test_one_runs_the_others_wait_in_order(make_settings: Any, open_service: Any, footage: Path, wait_for: Any) -> None:
    with open_service(make_settings(OBEYS)) as client:
        first, second, third = (submit(client, footage, limit=i)["id"] for i in (1, 2, 3))
        wait_for(client, first, "running")
        assert [job["id"] for job in client.get("/v1/jobs?state=queued&state=submitted").json()] == [third, second]
        assert client.post(f"/v1/jobs/{second}/cancel").json()["state"] == "cancelled"
        client.post(f"/v1/jobs/{first}/cancel")
        wait_for(client, first, "cancelled")
        wait_for(client, third, "running")
        client.post(f"/v1/jobs/{third}/cancel")
        wait_for(client, third, "cancelled")
        assert client.post(f"/v1/jobs/{third}/cancel").status_code == 409


def test_a_deaf_job_is_terminated_after_its_grace(
    make_settings: Any, open_service: Any, footage: Path, wait_for: Any
) -> None:
    settings = make_settings(STUBBORN, cancel_grace_seconds=0.3)
    with open_service(settings) as client:
        job = wait_for(client, submit(client, footage)["id"], "running")
        said = settings.state_folder / "jobs" / f"{job['id']}-1.out"
        until = time.monotonic() + 10
        while "deaf" not in (said.read_text() if said.exists() else ""):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["cancel_requested"] is True
        ended = wait_for(client, job["id"], "cancelled")
        assert ended["finished_at"] > ended["started_at"]
        pid = client.get(f"/v1/jobs/{job['id']}").json()["pid"]
        assert process_start(pid) == ""


def test_running_work_is_adopted_after_a_restart(
    make_settings: Any, open_service: Any, footage: Path, wait_for: Any
) -> None:
    settings = make_settings(OBEYS)
    with open_service(settings) as client:
        job_id = submit(client, footage)["id"]
        wait_for(client, job_id, "running")
        until = time.monotonic() + 10
        while (pid := client.get(f"/v1/jobs/{job_id}").json()["pid"]) is None:
            assert time.monotonic() < until
    assert process_start(pid), "the service is gone, its job goes on"
    with open_service(settings) as client:
        assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "running"
        time.sleep(0.2)
        client.post(f"/v1/jobs/{job_id}/cancel")
        wait_for(client, job_id, "cancelled")


def test_work_that_vanished_while_the_service_was_away_is_tried_again(
    make_settings: Any, open_service: Any, footage: Path, wait_for: Any
) -> None:
    settings = make_settings(SLEEPS, max_attempts=2, retry_seconds=0.1)
    pids: list[int] = []
    with open_service(settings) as client:
        job_id = submit(client, footage)["id"]
    for attempt in (1, 2):
        with open_service(settings) as client:
            until = time.monotonic() + 10
            while (pid := client.get(f"/v1/jobs/{job_id}").json()["pid"]) in (None, *pids):
                assert time.monotonic() < until
            assert client.get(f"/v1/jobs/{job_id}").json()["attempts"] == attempt
            pids.append(pid)
        os.kill(pid, signal.SIGKILL)
    with open_service(settings) as client:
        failed = wait_for(client, job_id, "failed")
        told = [data for _, kind, data in events(client, job_id) if kind == "state"]
    assert failed["error_class"] == "infrastructure", "and two attempts are all"
    assert "vanished" in failed["error"] and "Submit the same request again" in failed["error"]
    assert [data["state"] for data in told] == ["submitted", "queued", "running", "queued", "running", "failed"]
    assert "vanished" in told[3]["error"]


def test_another_process_with_the_same_id_is_not_ours(make_settings: Any) -> None:
    executor = LocalExecutor(make_settings(SLEEPS))
    stranger = f"{os.getpid()}:12345"  # this process, but not started then
    assert executor.ended(stranger) is not None
    for force in ("ask", "terminate", "kill"):
        executor.stop(stranger, force)  # and this test goes on


def test_streams_are_bounded(make_settings: Any, open_service: Any, footage: Path) -> None:
    with open_service(make_settings(SLEEPS, max_streams=3, max_streams_per_owner=1)) as client:
        job_id = submit(client, footage)["id"]
        service = client.app.state.service  # type: ignore[attr-defined]
        assert service.streams.take("local")
        refused = client.get(f"/v1/jobs/{job_id}/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert service.streams.take("ann") and not service.streams.take("ann"), "one for each"
        assert service.streams.take("bob") and not service.streams.take("eve"), "three altogether"
        for owner in ("local", "ann", "bob"):
            service.streams.give_back(owner)
        client.post(f"/v1/jobs/{job_id}/cancel")
        assert events(client, job_id)[-1][2]["state"] == "cancelled"
        bad = client.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": "soon"})
        assert bad.status_code == 422


def test_a_transition_happens_once(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.db")
    job, is_new = store.submit("curate", {"sources": ["a"]}, "key")
    assert is_new and store.submit("curate", {"sources": ["a"]}, "key")[0].id == job.id
    with pytest.raises(SpecConflict):
        store.submit("curate", {"sources": ["b"]}, "key")
    assert store.move(job.id, "queued", only_from=("submitted",))
    assert not store.move(job.id, "queued", only_from=("submitted",)), "somebody else was faster"
    with pytest.raises(AssertionError):
        store.move(job.id, "succeeded", only_from=("queued",))
    assert store.move(job.id, "running", only_from=("queued",))
    assert store.move(job.id, "failed", only_from=("running",), error="no")
    assert not store.move(job.id, "succeeded", only_from=("running", "committing")), "what is over stays over"
    assert [event.kind for event in store.events(job.id)] == ["state"] * 4
    store.close()
