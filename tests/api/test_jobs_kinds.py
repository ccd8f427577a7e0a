"""Every kind of job: what it may ask for, the command it becomes, and what makes it a success."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from fastapi.testclient import TestClient

from api.cli import app
from api.commands import arguments, unfinished
from api.counters import fold, merge, priced
from api.outcomes import WrittenOutcomes
from api.requests import KINDS, checked, read_request
from api.retries import UNKNOWN_EXIT, classify, retry_delay
from api.roots import OutsideRoots
from api.schema import Job
from api.settings import Settings
from curation.clips import Lake


@pytest.fixture
def here(demo_lake: Path, demo_snapshot: str, tmp_path: Path) -> Settings:
    """A service over the demo lake, with footage to read and a folder to write."""
    (tmp_path / "footage").mkdir()
    (tmp_path / "out").mkdir()
    return Settings(
        data=str(demo_lake),
        state_dir=tmp_path / "state",
        roots=(str(tmp_path / "footage"),),
        outputs=(str(tmp_path / "out"),),
    )


def requests(tmp: Path) -> dict[str, dict[str, Any]]:
    """One of every kind, with everything it may say."""
    video = {"model": "video", "tae": "tae", "recipe": "video_demo"}
    return {
        "fetch": {"sources": ["https://example.com/a.mp4?b=--json", str(tmp / "footage" / "more.csv")], "out": "web",
                  "connections": 2, "max_gib": 0.5, "max_seconds": 60},
        "curate": {"sources": [str(tmp / "footage")], "recipe": "demo", "dataset": "a", "limit": 2, "sample": "7:0.5",
                   "retry_quarantined": True, "cut": "copy", "priority": 3},
        "estimate": {"sources": [str(tmp / "footage")], "probe": 5, "probe_seconds": 60, "workers": 8, "price_per_cpu_hour": 0.1},
        "rethreshold": {"dataset": "demo", "recipe": "demo", "into": "stricter"},
        "encode": {"dataset": "demo", "tae": "tae", "out": "cache", "recipe": "video_demo"},
        "train": {**video, "dataset": "demo", "snapshot": 1, "out": "run", "start": "before", "cache": "cache", "workers": "1-2",
                  "parallel": "dp_shard=2", "restarts": 1},
        "generate": {"checkpoint": "run", "prompt": "--json a bee", "out": "bee.mp4", "steps": 2, "guidance": 2.0, "seed": 1,
                     "schedule": "linear", "frames": 9, "height": 64, "width": 64, "fps": 8.0, "tae": "tae"},
        "evaluate": {"model": "video", "checkpoint": "run", "dataset": "demo", "tae": "tae", "samples": 1, "against": "other"},
        "export": {"dataset": "demo", "out": "clips.parquet", "table": "clips"},
    }  # fmt: skip


def job_of(kind: str, body: dict[str, Any], here: Settings) -> Job:
    request = checked(read_request(kind, body), here, Lake(here.data))
    stored = json.dumps(request.model_dump(exclude={"kind"}))
    return Job(
        id="0123",
        kind=kind,
        request=stored,
        attempts=1,
        created_at=time.time(),
        started_at=time.time(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_a_line_that_our_command_line_understands(kind: str, here: Settings, tmp_path: Path) -> None:
    words = arguments(job_of(kind, requests(tmp_path)[kind], here), here)
    command: Any = typer.main.get_command(app)
    context = command.make_context("cinemill", list(words), resilient_parsing=False)
    depth = 0
    while hasattr(command, "get_command"):
        command = command.get_command(context, words[depth])
        depth += 1
        rest = words[depth:]
        if not hasattr(command, "get_command"):
            found = command.make_context(words[depth - 1], list(rest)).params
            break
        context = command.make_context(words[depth - 1], list(rest))
    asked = read_request(kind, requests(tmp_path)[kind])
    for name in (
        "recipe",
        "limit",
        "steps",
        "seed",
        "prompt",
        "samples",
        "table",
        "workers",
        "restarts",
        "probe",
        "fps",
    ):
        if hasattr(asked, name) and name in found:
            assert str(found[name]) == str(getattr(asked, name)), name
    if kind == "train":
        assert found["start"] == str(here.output_roots[0] / "before") and found["resume"] is False
        Path(found["out"]).mkdir()
        Path(found["out"], "run.json").write_text("{}")
        assert arguments(job_of(kind, requests(tmp_path)[kind], here), here)[-2:] == ["--resume", "--json"]
    if kind == "rethreshold":
        listed = pq.read_table(found["sources"][0]).column("uri").to_pylist()
        assert len(listed) == len(set(listed)) == 15 and found["dataset"] == "stricter"
        os.unlink(found["sources"][0])


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("encode", "tae", "/etc"), ("train", "out", "../elsewhere"), ("train", "out", "/etc/cron.d"), ("train", "cache", "/tmp/x"),
        ("train", "start", "../../etc"), ("generate", "checkpoint", "/root"), ("generate", "out", "/tmp/x.mp4"),
        ("generate", "out", "../footage/x.mp4"), ("evaluate", "against", "/proc/self"), ("export", "out", "link/x.csv"),
        ("export", "out", "s3://bucket/x.csv"), ("encode", "out", "."), ("train", "recipe", "/etc/passwd.yaml"),
        ("estimate", "sources", ["/etc/passwd"]), ("rethreshold", "recipe", "../x.yaml"),
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_folders(kind: str, name: str, value: Any, here: Settings, tmp_path: Path) -> None:
    (tmp_path / "out" / "link").symlink_to("/tmp")
    with pytest.raises(OutsideRoots, match="CINEMILL_"):
        checked(read_request(kind, requests(tmp_path)[kind] | {name: value}), here, Lake(here.data))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("train", {"tae": None}), ("train", {"model": "tae"}), ("evaluate", {"model": "tae"}), ("train", {"recipe": "video_dmo"}),
        ("encode", {"dataset": "nowhere"}), ("export", {"snapshot": 99}), ("rethreshold", {"dataset": "nowhere"}),
        ("export", {"out": "x.exe"}), ("generate", {"prompt": "a\0b"}), ("curate", {"sample": "7:2"}), ("train", {"workers": "many"}),
        ("export", {"more": 1}), ("estimate", {"probe": 201}), ("train", {"parallel": "x;y"}), ("nothing", {}),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_it_is_a_job(
    kind: str, change: dict[str, Any], client: TestClient, tmp_path: Path
) -> None:
    body = requests(tmp_path).get(kind, {}) | {"kind": kind} | change
    body.pop("sources", None) if kind == "nothing" else None
    before = len(client.get("/v1/jobs").json())
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code in (403, 422) and answer.headers["content-type"] == "application/problem+json", (
        answer.text
    )
    assert len(client.get("/v1/jobs").json()) == before


def test_success_is_what_was_written(here: Settings, tmp_path: Path) -> None:
    """Every kind with a clean exit and nothing written, then with what it should write; exit statuses that lie either way."""
    outcomes, out = WrittenOutcomes(here), here.output_roots[0]
    said: dict[str, dict[str, Any]] = {
        "generate": {"path": "bee.mp4"}, "encode": {"cache": "x", "made": 1}, "evaluate": {"summary": {}, "clips": []},
        "estimate": {"cpu_hours": {}}, "train": {"summary": {}}, "export": {}, "fetch": {"list": str(out / "footage.parquet"), "failed": {"u": "404"}},
    }  # fmt: skip
    for kind, words in said.items():
        job = job_of(kind, requests(tmp_path)[kind], here)
        assert outcomes.of(job, 0, {}) is None, f"{kind}: a clean exit proves nothing"
        if kind == "generate":
            (out / "bee.mp4").write_bytes(b"x")
        if kind == "encode":
            (out / "cache").mkdir()
        if kind == "fetch":
            assert outcomes.of(job, 0, words) is None, "there is no such list"
            (out / "footage.parquet").touch()
        if kind == "train":
            (out / "run" / "final").mkdir(parents=True)
            (out / "run" / "final" / "config.json").write_text("{}")
        if kind == "export":
            fresh = unfinished(str(out / "clips.parquet"))
            fresh.write_bytes(b"PAR1 but no more")
            assert outcomes.of(job, 0, words) is None, "cut off"
            assert not (out / "clips.parquet").exists()
            pq.write_table(pa.table({"a": [1, 2]}), fresh)
        found = outcomes.of(job, UNKNOWN_EXIT, words)
        assert found is not None and found.result is not None, kind
        if kind == "export":
            assert found.result["rows"] == 2 and not fresh.exists()
            assert outcomes.of(job, UNKNOWN_EXIT, words) is not None, "killed after the file got its name"
        if kind in ("train", "generate"):  # of another day, and this time it failed
            old = out / ("bee.mp4" if kind == "generate" else "run/final/config.json")
            os.utime(old, (1, 1))
            assert outcomes.of(job, 1, {} if kind == "train" else words) is None
    job = job_of("curate", requests(tmp_path)["curate"] | {"dataset": None, "cut": None}, here)
    assert outcomes.of(job, 1, {"number": 1}) is None, "no commit carries its name, whatever the command says"
    unchanged = outcomes.of(job, 0, {})
    assert unchanged is not None and (unchanged.snapshot, unchanged.counters) == (1, {}), "there was nothing new"
    job.id = "of-the-samples"
    found = outcomes.of(job, 1, {})
    assert found is not None and found.snapshot == 1, "the commit is there, whatever the executor says"
    assert found.counters["identify"]["in"] == 15 and found.counters["identify"]["bytes"] > 1_000_000
    counts = found.counters["decide"]
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values()) > 0
    cutting = job_of("curate", requests(tmp_path)["curate"] | {"dataset": None}, here)
    cutting.id = "of-the-samples"
    assert outcomes.of(cutting, UNKNOWN_EXIT, {}) is None, "killed between the commit and the last clip that is cut"
    assert outcomes.of(cutting, 0, {"cut": {"copy": 4}}) is not None


def test_failures_are_tried_again_by_their_class(make_settings: Any) -> None:
    import random

    assert classify(2, "no video there") == "user"
    assert [classify(status, "") for status in (UNKNOWN_EXIT, -9, -15, 130, 137)] == ["infrastructure"] * 5
    assert [classify(status, "ValueError: x") for status in (1, -11, 127)] == ["failure"] * 3
    assert classify(1, "ray.exceptions.NodeDiedError: gone") == "infrastructure"
    assert classify(1, "\n") == "infrastructure", "our own code never fails without a word"
    logged = (
        "2026-11-30 21:43:41,251\tERROR actor_pool_map_operator.py:414 -- Map(CurationWorker).submit: actors died during "
        "initialization 1 consecutive time(s) (max_consecutive_actor_init_deaths=0); failing execution.\n"
    )
    assert classify(1, logged) == "infrastructure", "what Ray logs is no word of ours"
    assert classify(1, logged + "cinemill: failed: ValueError: x\n") == "failure"
    assert classify(2, "another run is writing to /lake; wait for it") == "infrastructure"
    settings = make_settings(max_attempts=5, retry_seconds=10.0, retry_seconds_max=30.0)
    for attempts, longest in ((1, 10.0), (2, 20.0), (3, 30.0), (4, 30.0)):
        delays = {retry_delay(attempts, settings, random.Random(seed)) for seed in range(50)}
        assert len(delays) > 40 and all(longest / 2 <= delay <= longest for delay in delays if delay is not None)
    assert retry_delay(5, settings, random.Random(0)) is None


def test_counters_are_the_newest_word_of_each_stage() -> None:
    lines: list[dict[str, Any]] = [
        {"stage": "identify", "done": 2, "total": 4, "seconds": 1.0},
        {
            "stage": "measure",
            "done": 1,
            "total": 4,
            "seconds": 2.0,
            "costs": {"decode_seconds": 3.0, "model_seconds": 1.0},
        },
        {
            "stage": "measure",
            "done": 4,
            "total": 4,
            "seconds": 9.0,
            "costs": {"early_seconds": 0.5, "decode_seconds": 6.5},
        },
        {"stage": "decide", "done": 8, "total": 8, "seconds": 9.5, "counts": {"clips_in": 8, "clips_kept": 3}},
        {
            "stage": "training",
            "done": 5,
            "total": 10,
            "seconds": 3600.0,
            "numbers": {"loss": 0.5},
            "costs": {"gpu_seconds": 7200.0},
        },
        {"no stage": 1},
    ]
    counters: Any = {}
    for line in lines:
        counters = fold(counters, line)
    counters = priced(counters, per_cpu_hour=0.36, per_gpu_hour=3.0)
    assert counters["identify"] == {"done": 2, "total": 4, "seconds": 1.0, "in": 4, "out": 2}
    assert (counters["measure"]["cpu_seconds"], counters["measure"]["cost"]) == (7.0, 0.0007)
    assert (counters["decide"]["in"], counters["decide"]["out"]) == (8, 3)
    assert (counters["training"]["numbers"], counters["training"]["cost"]) == ({"loss": 0.5}, 6.0)
    assert merge(counters, {"decide": {"rejected": {"a": 5}}})["decide"]["rejected"] == {"a": 5}
    assert merge(counters, {"decide": {"out": 4}})["decide"]["in"] == 8
