"""The page of a run says what its log says, alone and escaped."""

import json

import pytest

from api.cli import main
from api.report.training_run import build_run_page
from training.metrics import MetricsLog


@pytest.fixture
def run(tmp_path):
    """A transformer's run that is going on: log and description as training writes them."""
    out = tmp_path / "run"
    log = MetricsLog(out, tensorboard=False)
    described = {"kind": "video", "snapshot": "lake#<b>set</b>@3", "recipe": {"name": "tiny", "steps": 40}}
    (out / "run.json").write_text(json.dumps(described | {"recipe_hash": "abc", "tae_sha256": "def", "start": None}))
    facts = {
        "workers": 1,
        "device": "cpu",
        "threads": 2,
        "train_rows": 9,
        "validation_rows": 3,
        "parameters": 2_500_000,
    }
    log.write("start", at_step=0, excluded={"c9": "1.00 s fits no duration bucket"}, **facts)
    for step in range(31):
        if step:
            speed = {
                "tokens_per_second": 1000.0 + step,
                "data_wait": 0.002,
                "learning_rate": 1e-3 if step < 20 else 5e-4,
            }
            log.write("step", step=step, loss=2 / step, **speed)
        if step % 10 == 0:
            clips = [{"clip_id": c, "bucket": "16f-64x64"} for c in "ab"]
            values = {"loss": 2.0 - step / 20, "loss_ci95": 0.25, "loss/16f-64x64": 2.0 - step / 20}
            log.write(
                "validation", step=step, num_clips=2, clips=clips, change=-0.5, change_ci95=0.125,
                loss_by_time=[2.0 - step / 20] * 8, **values,
            )  # fmt: skip
    log.write("learning_rate", step=20, learning_rate=5e-4, why="the validation loss stopped falling")
    log.close()
    return out


def test_the_page_of_a_going_run_has_its_numbers_and_is_alone(run, capsys):
    assert main(["train", "page", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "page.html")
    page = (run / "page.html").read_text()

    assert "Video transformer, step 30 of 40" in page and "has not said that it ended" in page
    assert "<b>0.5</b><small>± 0.25, 2 clips" in page and "<b>-0.5</b><small>± 0.12, clip by clip" in page
    assert "After step 20: 0.0005, since the validation loss stopped falling" in page
    assert "0.20 %" in page and "tokens a second, median" in page and "t = 0.177" in page
    assert "lake#&lt;b&gt;set" in page and "<b>set" not in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_a_run_that_stopped_on_a_number_that_is_none_says_so(run):
    log = MetricsLog(run, tensorboard=False)
    log.write("not_finite", at_step=31, why="the loss of step 31 is no finite number, on clips c4")
    log.close()

    assert "It stopped: the loss of step 31 is no finite number, on clips c4" in build_run_page(run).read_text()


def test_a_run_without_a_step_has_a_page_and_a_folder_without_a_run_has_none(run, tmp_path, capsys):
    (run / "metrics.jsonl").unlink()
    assert "step 0 of 40" in build_run_page(run, tmp_path / "elsewhere" / "p.html").read_text()
    assert main(["train", "page", str(tmp_path)]) == 2
    assert "holds no training run" in capsys.readouterr().err
