"""Training runs over HTTP: what their own files say, whatever has become of these files, and nothing outside of them."""

import asyncio
import fcntl
import io
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

from api.client import Client, ServiceError
from api.settings import Settings
from training.checkpoints import Saver, list_checkpoints
from training.evaluation.sample_grid import read_grid
from training.loop import note_checkpoint
from training.metrics import MetricsLog, read_metrics
from training.recipes import load_video_recipe
from training.runs import Run, load_run

ARROW = "application/vnd.apache.arrow.stream"


def make_run(out: Path, steps: int = 30) -> Path:
    """A transformer's run that is going on, with log, description, checkpoint and pictures as training leaves them."""
    log = MetricsLog(out, tensorboard=False)
    recipe = replace(load_video_recipe("video_demo"), name="tiny", base="video_demo", steps=40)
    run = Run(kind="video", out=out, snapshot="lake#demo@3", recipe=recipe, tae_sha256="def")
    (out / "run.json").write_text(json.dumps(run.described()))
    facts = {"workers": 1, "device": "cpu", "train_rows": 9, "buckets": {"16f-64x64": 9}, "excluded": {"c1": "0.2 s"}}
    log.write("start", at_step=0, **facts)
    for step in range(1, steps + 1):
        log.write("step", step=step, loss=2 / step, gradient_norm=math.nan if step == 7 else 1.5)
        if step % 10 == 0:
            log.write("validation", step=step, loss=1.0 - step / 100, clips=[{"clip_id": "a", "bucket": "b"}])
            folder = out / "grid" / f"step-{step:08d}"
            folder.mkdir(parents=True)
            for clip in "ab":
                Image.new("RGB", (8, 8), (step, 0, 0)).save(folder / f"{clip}.png")
    saver = Saver(load_run(out).storage)
    saver.save(20, {"weight": torch.zeros(2)}, state={}, config={})
    note_checkpoint(saver.finish(), log)
    saver.close()
    log.close()
    return out


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def run(outputs: Path) -> Path:
    return make_run(outputs / "teams" / "first")


@pytest.fixture
def client(outputs: Path, open_service: Callable[[Settings], Any]) -> Any:
    with open_service(Settings(data=str(outputs.parent / "lake"), outputs=(str(outputs),))) as opened:
        yield opened


@pytest.fixture
def at(client: Any, run: Path) -> str:
    """Where the run is."""
    (found,) = client.get("/v1/runs").json()["runs"]
    return f"/v1/runs/{found['id']}"


def append(run: Path, event: str, **values: Any) -> None:
    log = MetricsLog(run, tensorboard=False)
    log.write(event, **values)
    log.close()


def test_a_run_is_listed_with_how_far_it_is(client: Any, run: Path, at: str) -> None:
    (found,) = client.get("/v1/runs").json()["runs"]
    assert (found["path"], found["kind"], found["recipe_name"]) == ("teams/first", "video", "tiny")
    assert (found["snapshot"], found["step"], found["steps"]) == ("lake#demo@3", 20, 40), (
        "the checkpoint's line is last"
    )
    assert found["state"] == "interrupted", "nobody holds its folder"
    with (run / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert client.get(at).json()["state"] == client.get("/v1/runs").json()["runs"][0]["state"] == "running"
    append(run, "not_finite", at_step=31, why="the loss of step 31 is no finite number")
    stopped = client.get(at).json()
    assert stopped["state"] == "interrupted" and "step 31" in stopped["why"]
    append(run, "finished", at_step=40)
    assert client.get(at).json()["state"] == client.get("/v1/runs").json()["runs"][0]["state"] == "finished"


def test_the_detail_has_recipe_starts_and_the_checkpoints_that_are_there(client: Any, run: Path, at: str) -> None:
    append(run, "resume", at_step=20, workers=3)
    told = client.get(at).json()
    assert told["recipe"] == json.loads((run / "run.json").read_text())["recipe"]
    assert told["described"]["tae_sha256"] == "def"
    assert [(start["event"], start["at_step"], start["facts"]["workers"]) for start in told["starts"]] == [
        ("start", 0, 1), ("resume", 20, 3),
    ]  # fmt: skip
    assert told["starts"][0]["excluded_clips"] == 1 and told["starts"][0]["facts"]["buckets"] == {"16f-64x64": 9}
    there = [(kept["step"], kept["is_there"]) for kept in told["checkpoints"]]
    assert there == [(checkpoint.step, True) for checkpoint in list_checkpoints(load_run(run).storage)] == [(20, True)]
    assert told["checkpoints"][0]["bytes"] > 0 and told["validation"] == {"loss": 0.8}
    (run / "checkpoints" / "step-00000020" / "COMMIT").unlink()
    assert client.get(at).json()["checkpoints"] == []


def test_metrics_come_by_step_in_three_forms(client: Any, run: Path, at: str) -> None:
    told = client.get(f"{at}/metrics").json()
    assert told["names"] == ["gradient_norm", "loss"] and told["next"] is None
    lines = read_metrics(run, "step")
    assert [(row["step"], row["loss"]) for row in told["rows"]] == [(line["step"], line["loss"]) for line in lines]
    assert told["rows"][6]["gradient_norm"] is None, "not a number"
    page = client.get(f"{at}/metrics?after=10&limit=5&names=loss,psnr").json()
    assert [row["step"] for row in page["rows"]] == [11, 12, 13, 14, 15] and page["next"] == 15
    assert set(page["rows"][0]) == {"step", "time", "loss", "psnr"} and page["rows"][0]["psnr"] is None
    arrow = client.get(f"{at}/metrics?after=10&limit=5&names=loss", headers={"accept": ARROW})
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert arrow.headers["x-next-cursor"] == "15" and table.schema.field("loss").type == pa.float64()
    assert table["loss"].to_pylist() == [row["loss"] for row in page["rows"]]
    text = client.get(f"{at}/metrics?event=validation&names=loss", headers={"accept": "text/csv"}).text.splitlines()
    assert text[0] == "step,time,loss" and [line.split(",")[0] for line in text[1:]] == ["10", "20", "30"]
    assert client.get(f"{at}/metrics", headers={"accept": "image/png"}).status_code == 406


def test_steps_behind_a_resume_are_those_that_count(client: Any, run: Path, at: str) -> None:
    append(run, "resume", at_step=20)
    append(run, "step", step=21, loss=7.0)
    rows = client.get(f"{at}/metrics?after=19").json()["rows"]
    assert [(row["step"], row["loss"]) for row in rows] == [(20, 0.1), (21, 7.0)]


def test_samples_are_listed_and_served_in_ranges(client: Any, run: Path, at: str) -> None:
    made = client.get(f"{at}/samples").json()["samples"]
    grid = [(step, path) for step, paths in read_grid(run) for path in paths]
    assert [(each["step"], run / each["path"]) for each in made] == grid and len(grid) == 6
    for each in made:
        assert client.get(each["url"]).content == (run / each["path"]).read_bytes()
    first = client.get(made[0]["url"])
    assert first.headers["content-type"] == "image/png" and first.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(first.content)).getpixel((0, 0)) == (10, 0, 0)
    part = client.get(made[0]["url"], headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    (run / "samples").mkdir()
    (run / "samples" / "one.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    (run / "samples" / "page.html").write_text("<script>")
    page = client.get(f"{at}/samples?limit=6").json()
    more = client.get(f"{at}/samples?after={page['next']}").json()
    assert [each["path"] for each in more["samples"]] == ["samples/one.mp4"] and more["next"] is None
    assert client.get(more["samples"][0]["url"]).headers["content-type"] == "video/mp4"
    gone = client.get(f"{at}/samples?after={'0' * 16}.png")
    assert gone.status_code == 422 and "start again" in gone.json()["detail"]


async def ask_raw(app: Any, path: str) -> tuple[int, bytes]:
    """A path as the application hears it, without the tidying that clients do."""
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": b"/", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8000")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
        "scheme": "http", "http_version": "1.1", "app": app,
    }  # fmt: skip
    await app(scope, receive, send)
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])


def test_no_path_leads_out_of_a_run(client: Any, outputs: Path, run: Path, at: str) -> None:
    secret = outputs.parent / "secret.png"
    secret.write_bytes(b"the secret")
    (run / "grid" / "step-00000010" / "link.png").symlink_to(secret)
    (run / "grid" / "linked").symlink_to(outputs.parent)
    (run / "samples").symlink_to(outputs.parent)
    (outputs / "linked").symlink_to(run)
    (outputs / "passwd").mkdir()
    (outputs / "passwd" / "run.json").symlink_to(run / "run.json")
    assert [found["path"] for found in client.get("/v1/runs").json()["runs"]] == ["teams/first"]
    made = client.get(f"{at}/samples").json()["samples"]
    assert len(made) == 6 and not any("link" in each["path"] or "secret" in each["path"] for each in made)
    outside = (
        "../run.json", "../../../../secret.png", "/etc/passwd", "..", ".", "", "run.json", "grid/step-00000010/a.png",
        "....//secret.png", "\0.png", "a" * 16 + ".png\n", "A" * 16 + ".png", str(secret), "x" * 5000, "%2e%2e%2frun.json",
        "..%2f..%2fsecret.png", "0" * 16 + "/../secret.png",
    )  # fmt: skip
    for name in outside:
        for path in (
            f"{at}/samples/{name}",
            f"/v1/runs/{name}",
            f"/v1/runs/{name}/metrics",
            f"/v1/runs/{name}/samples/x",
        ):
            status, body = asyncio.run(ask_raw(client.app, path))
            assert status in (307, 404, 422), f"{path}: {status}"
            assert b"the secret" not in body and b"root:" not in body
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(secret)
    assert client.get(f"{at}/metrics").json()["rows"] == [] and client.get(at).json()["step"] is None


HOSTILE = (
    b"3", b"{}", b"null", b'"step"', b"[1]", b'{"event": 3}', b'{"event": "start"}', b'{"event": "resume", "at_step": -1}',
    b'{"event": "step", "step": "x"}', b'{"event": "step", "step": true}', b'{"event": "step", "step": 1e999}',
    b'{"event": "step", "step": 99999999999999999999, "loss": 1}', b'{"event": "checkpoint"}', b"\xff\xfe\x00", b"\x00" * 50,
    b'{"event": "step", "step": 8, "loss": NaN, "time": Infinity}', b'{"event": "step", "step": 9, "loss": -Infinity}',
    b'{"event": "step", "step": 5, "loss": 1' + b"0" * 400 + b"}", b'{"event": "step", "step": 5, "loss": ' + b"9" * 5000 + b"}",
    b'{"event": "step", "step": 6, "\\ud800": 1, "\\u0000": 2, "loss": "<script>"}', b"[" * 100_000,
    b'{"event": "not_finite", "at_step": 3, "why": "\\udfff"}', b'{"event": "start", "at_step": 99, "excluded": 3, "a": NaN}',
    b'{"event": "checkpoint", "at_step": 20, "bytes": "many", "time": -5}', b'{"event": "validation", "step": 9, "time": 1e300}',
    b'{"event": "finished", "time": []}', b'{"event": "step", "step": 7, "loss',
)  # fmt: skip


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def ask_everything(client: Any, at: str) -> None:
    for path in ("/v1/runs", at, f"{at}/metrics", f"{at}/metrics?event=validation", f"{at}/samples"):
        for accept in ("application/json", "text/csv", ARROW) if "metrics" in path else ("application/json",):
            answer = client.get(path, headers={"accept": accept})
            assert answer.status_code == 200, f"{path}: {answer.text[:300]}"
            if accept == "application/json":
                json.loads(answer.text, parse_constant=refuse_constant)


@pytest.mark.parametrize("line", HOSTILE, ids=lambda line: repr(line[:40]))
def test_a_damaged_line_costs_that_line(client: Any, run: Path, at: str, line: bytes) -> None:
    log = run / "metrics.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b"\n", b"\n" + line + b"\n", 1) + line)
    ask_everything(client, at)
    steps = [row["step"] for row in client.get(f"{at}/metrics").json()["rows"]]
    assert set(range(10, 31)) <= set(steps)


def test_random_damage_never_breaks_an_answer(client: Any, run: Path, at: str) -> None:
    log, draw = run / "metrics.jsonl", random.Random(0)
    whole = log.read_bytes()
    for _ in range(40):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 30)):
            place = draw.randrange(len(broken))
            broken[place : place + draw.randint(0, 40)] = draw.randbytes(draw.randint(0, 5))
        log.write_bytes(broken[: draw.randint(1, len(broken))])
        ask_everything(client, at)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"recipe": []}', '{"recipe": {}}', '{"kind": 3, "recipe": {"steps": "x", "name": NaN}}',
        '{"kind": "\\ud800", "recipe": {"steps": 1' + "0" * 400 + '}, "checkpoints": "s3://\\u0000", "snapshot": {}}',
        '{"recipe": {}, "checkpoints": "/\\u0000"}', '{"recipe": {}, "checkpoints": 5}', "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_damaged_description_is_no_run_or_one_that_says_less(client: Any, run: Path, at: str, text: str) -> None:
    (run / "run.json").write_text(text)
    listed = client.get("/v1/runs")
    assert listed.status_code == 200
    answer = client.get(at)
    assert answer.status_code == (200 if listed.json()["runs"] else 404), answer.text[:300]


def test_runs_come_newest_first_in_pages(client: Any, outputs: Path) -> None:
    for number in range(5):
        folder = outputs / f"run{number}"
        folder.mkdir()
        (folder / "run.json").write_text('{"kind": "tae", "snapshot": "lake#demo@1", "recipe": {"name": "tiny"}}')
        os.utime(folder / "run.json", (1_700_000_000 + number,) * 2)
    assert client.get("/v1/runs").json()["next"] is None
    told, after = [], ""
    while after is not None:
        page = client.get(f"/v1/runs?limit=2{after and f'&after={after}'}").json()
        told += [run["path"] for run in page["runs"]]
        after = page["next"]
    assert told == [f"run{number}" for number in (4, 3, 2, 1, 0)]
    assert client.get(f"/v1/runs?after={'0' * 16}").status_code == 422
    assert client.get(f"/v1/runs/{'0' * 16}").status_code == 404


def test_the_client_reads_runs(client: Any, run: Path) -> None:
    service = Client("", http=client)
    (found,) = service.runs()
    assert (found.state, found.steps, service.run(found.id).more["recipe"]["name"]) == ("interrupted", 40, "tiny")
    table = service.metrics(found.id, names=["loss"], after=28)
    assert table.to_pydict()["step"] == [29, 30] and table["loss"].to_pylist() == [2 / 29, 2 / 30]
    made = service.samples(found.id)
    assert service.sample(found.id, made[-1]["id"]) == (run / made[-1]["path"]).read_bytes()
    with pytest.raises(ServiceError, match="GET /v1/runs lists them"):
        service.run("0" * 16)


def test_the_service_tells_of_runs_without_torch() -> None:
    code = "import sys, api.app; sys.exit(', '.join({'torch', 'ray'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
