"""The command line: what it prints, where, and with which exit code."""

import csv
import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from api.cli import main
from tests.api.test_serve import served
from tests.conftest import SAMPLES

BEETLE = str(SAMPLES / "beetle_bw_360p.mp4")
CITY = str(SAMPLES / "city_night_timelapse_mpeg2.mpg")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["curate", "{tmp}/nowhere"], "no file or folder at"),
        (["curate", BEETLE, "--recipe", "dmo"], "did you mean demo?"),
        (["curate", BEETLE, "--out", "{file}"], "--out must name a folder"),
        (["curate", BEETLE, "--limit", "many"], "Invalid value for '--limit'"),
        (["curate", BEETLE, "--limitt", "1"], "No such option"),
        (["manifest", "show", "--out", "{tmp}"], "is not a lake"),
        (["manifest", "show", "--out", "{lake}", "--dataset", "x"], "no data set 'x'"),
        (["manifest", "export", "{tmp}/x.txt", "--out", "{lake}"], "must end in .parquet or .csv"),
        (["manifest", "export", "{tmp}/none/x.csv", "--out", "{lake}"], "no folder"),
        (["explain", "{tmp}/x.mp4", "--out", "{lake}"], "in no data set"),
        (["shots", "{file}"], "no container that FFmpeg can open"),
        (["probe", "{tmp}/gone.mp4"], "no file at"),
        (["recipe", "moviegen"], "did you mean moviegen_"),
        (["train", "tae", "--manifest", "{tmp}", "--recipe", "tae_demo", "--out", "{tmp}/tae"], "is not a lake"),
        (["train", "tae", "--manifest", "{lake}", "--recipe", "tae_dem", "--out", "{tmp}/tae"], "tae_demo"),
        (["generate", "--checkpoint", "{tmp}/none", "--prompt", "x", "--out", "{tmp}/x.mp4"], "none"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_exit_2(
    words: list[str], said: str, tmp_path: Path, demo_lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.mp4"
    file.write_text("no video")
    before = sorted(tmp_path.rglob("*"))
    assert main([w.format(tmp=tmp_path, file=file, lake=demo_lake) for w in words]) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and "Traceback" not in err and out == ""
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_shots_prints_the_promised_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shots", CITY, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"stream", "frames", "cuts", "gradual"}
    assert printed["frames"] == 190 and printed["gradual"] == []
    [cut] = printed["cuts"]
    assert cut["frame"] == 116 and cut["seconds"] == pytest.approx(4.64) and cut["score"] > 1


def test_probe_and_strip_tell_what_is_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", CITY, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["codec"], facts["width"], facts["height"], facts["has_audio"]) == ("mpeg2video", 720, 405, False)
    assert main(["strip", CITY, "--out", str(tmp_path / "strip.parquet")]) == 0
    assert pq.read_table(tmp_path / "strip.parquet").num_rows == 190


def test_a_lake_can_be_looked_into(demo_lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = ["--out", str(demo_lake)]
    assert main(["manifest", "list", *lake, "--json"]) == 0
    [commit] = json.loads(capsys.readouterr().out)
    assert commit["dataset"] == "demo" and commit["counts"]["videos_in"] == 15
    assert main(["manifest", "show", *lake, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    steps = shown["funnel"]
    assert steps[0]["entered"] == commit["counts"]["clips_in"] and steps[-1]["left"] == commit["counts"]["clips_kept"]
    assert all(a["left"] == b["entered"] for a, b in itertools.pairwise(steps))
    assert main(["manifest", "show", *lake]) == 0 and "visual.black" in capsys.readouterr().out
    assert main(["manifest", "diff", "1", "1", *lake, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == []
    for name in ("ledger.parquet", "ledger.csv"):
        assert main(["manifest", "export", str(tmp_path / name), *lake]) == 0
    entered = commit["counts"]["videos_in"] + commit["counts"]["clips_in"]
    assert pq.read_table(tmp_path / "ledger.parquet").num_rows == entered
    with (tmp_path / "ledger.csv").open() as file:
        assert len(list(csv.DictReader(file))) == entered


def test_a_service_is_looked_into_as_its_lake_is(
    demo_lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same words with --server, the same answers."""

    def said(*words: str) -> str:
        assert main(["manifest", *words]) == 0
        return capsys.readouterr().out

    with served(demo_lake, CINEMILL_STATE_DIR=str(tmp_path / "state")) as url:
        here, there = ["--server", url], ["--out", str(demo_lake)]
        assert said("list", "--json", *here) == said("list", "--json", *there)
        assert said("list", *here) == said("list", *there)
        assert (
            json.loads(said("show", "--json", *here))["funnel"] == json.loads(said("show", "--json", *there))["funnel"]
        )
        shown, opened = said("show", *here).splitlines(), said("show", *there).splitlines()
        assert shown[1:] == opened[1 : len(shown)], "but for its name, and why videos left"
        assert said("files", "--snapshot", "1", *here) == said("files", *there)
        assert "+0 kept clips" in said("diff", "1", "1", *here)
        for place, words in (("served", here), ("opened", there)):
            said("export", str(tmp_path / f"{place}.parquet"), "--table", "clips", *words)
        served_rows, opened_rows = (pq.read_table(tmp_path / f"{place}.parquet") for place in ("served", "opened"))
        assert sorted(served_rows["clip_id"].to_pylist()) == sorted(opened_rows["clip_id"].to_pylist())
        assert main(["manifest", "show", "--snapshot", "9", *here]) == 2
        assert "snapshots" in capsys.readouterr().err


def test_explain_tells_a_story_with_numbers(demo_lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", CITY, "--out", str(demo_lake)]) == 0
    story = capsys.readouterr().out
    assert "was kept" in story and "rejected by shots.scene_length: shot seconds 2.96 is below 4" in story
    clip_id = next(line.split()[1] for line in story.splitlines() if line.startswith("  clip"))
    assert main(["explain", clip_id, "--out", str(demo_lake)]) == 0
    assert clip_id in capsys.readouterr().out


def test_doctor_is_content_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "NO " not in capsys.readouterr().out


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", str(SAMPLES), "--out", str(tmp_path / "lake"), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["videos"] == 15 and plan["scores"] == "full" and not list(tmp_path.iterdir())


def test_ctrl_c_is_exit_130_with_the_line_that_resumes(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = tmp_path / "progress.jsonl"
    monkeypatch.setenv("CINEMILL_PROGRESS", str(progress))
    longer = [str(SAMPLES / name) for name in ("black_silent_10s.mp4", "bee_720p.mp4", "roof_handheld_360p.mp4")]
    words = ["curate", BEETLE, *longer, CITY, "--out", str(tmp_path / "lake"), "--json"]

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            text = progress.read_text() if progress.exists() else ""
            whole = [
                json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()
            ]  # the last may be half written
            if any(line["stage"] == "measure" and 0 < line["done"] < line["total"] for line in whole):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    assert main(words) == 130
    watcher.join()
    said = capsys.readouterr().err
    assert said.strip() == f"cinemill: interrupted; continue with: cinemill {' '.join(words)}"
    staged = {p: p.stat().st_mtime_ns for p in (tmp_path / "lake" / "staging").rglob("videos.parquet")}
    assert staged, "what a worker had finished stays"
    assert main(["manifest", "list", "--out", str(tmp_path / "lake"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [], "an interrupted run left no snapshot"
    assert main(words) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["counts"]["videos_in"] == 5 and done["counts"]["clips_in"] >= 5
