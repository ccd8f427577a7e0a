"""The page of a run says what its log says, alone and escaped."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from api.cli import main
from api.report.run_details import spoken_batch, spoken_bytes, spoken_hours
from api.report.training_run import build_run_page
from training.checkpoints import Saver
from training.loop import note_checkpoint
from training.metrics import MetricsLog
from training.recipes import load_video_recipe
from training.runs import Run, load_run


@pytest.fixture
def run(tmp_path):
    """A transformer's run that is going on: log and description as training writes them."""
    out = tmp_path / "run"
    log = MetricsLog(out, tensorboard=False)
    recipe = replace(load_video_recipe("video_demo"), name="tiny", base="video_demo", steps=40)
    described = Run(kind="video", out=out, snapshot="lake#<b>set</b>@3", recipe=recipe, tae_sha256="def").described()
    (out / "run.json").write_text(json.dumps(described))
    facts = {
        "workers": 1,
        "device": "cpu",
        "threads": 2,
        "train_rows": 9,
        "train_hours": 0.5,
        "buckets": {"16f8fps-64x64": 9},
        "planned_memory": 50_000_000,
        "validation_rows": 3,
        "parameters": 2_500_000,
    }
    short = {f"c{n}": f"{n / 10:.2f} s fits no duration bucket" for n in range(9)}
    log.write("start", at_step=0, excluded=short | {"s1": "native rate 12 fps is below 16"}, **facts)
    log.write("kernels", at_step=1, bucket="16f8fps-64x64", calls={"flash": 4, "math": 8})
    for step in range(31):
        if step:
            speed = {
                "tokens_per_second": 1000.0 + step,
                "data_wait": 0.002,
                "gradient_norm": 1.5,
                "peak_memory": 1e9 + step * 1e6,
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


def test_it_names_data_kernels_memory_and_what_differs_from_the_named_recipe(run):
    page = " ".join(build_run_page(run).read_text().split())

    assert "9 clips, 30.0 minutes, of" in page and "3 are held out. A step reads 8 videos of one bucket.</p>" in page
    assert "Clipped to 1.0." in page
    assert '<td>16f8fps-64x64</td><td class="number">9</td>' in page
    assert '<td class="number">9</td><td>0.00 s fits no duration bucket<br><span class="mono soft">c0' in page
    assert '<td class="number">1</td><td>native rate 12 fps is below 16' in page
    assert "4 × flash, 8 × math" in page
    assert '<td>Planned</td><td class="number">50 MB</td>' in page
    assert '<td>Measured peak</td><td class="number">1.03 GB</td>' in page
    assert "Differs from video_demo" in page
    assert '<td class="mono">steps</td><td class="mono">600</td><td class="mono">40</td>' in page
    assert page.count('<td class="mono">') == 3, "nothing else differs"


def test_it_lists_restarts_with_their_workers_and_the_checkpoints_that_are_there(run):
    log = MetricsLog(run, tensorboard=False)
    log.write("resume", at_step=20, workers=3, device="cpu", threads=1, train_rows=9, validation_rows=3, parameters=1)
    storage = load_run(run).storage
    saver = Saver(storage)
    for step in (10, 20):
        saver.save(step, {"weight": torch.zeros(2)}, state={}, config={})
        note_checkpoint(saver.finish(), log)
    saver.close()
    log.close()
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    page = " ".join(build_run_page(run).read_text().split())

    assert page.count("<td>start</td>") == 1 and page.count("<td>resume</td>") == 1
    assert re.search(
        r"<td>resume</td><td class=\"when\">[\d: -]+</td><td class=\"number\">20</td><td class=\"number\">3</td>", page
    )
    size = spoken_bytes(sum(storage.sizes("step-00000020").values()))
    assert f'<td class="number">20</td><td class="number">{size}</td>' in page
    assert '<td class="number">10</td><td class="number">' not in page, "it is not there any more"


@pytest.mark.parametrize(
    ("count", "words"), [(999, "999 B"), (999_600, "1 MB"), (5.86e11, "586 GB"), (2.5e15, "2,500 TB")]
)
def test_sizes_are_spoken_in_three_digits(count, words):
    assert spoken_bytes(count) == words


@pytest.mark.parametrize(
    ("videos", "images", "words"),
    [
        (10, 1, "10 videos of one bucket and 1 image, a single frame of a clip"),
        (0, 9216, "9,216 images, single frames of clips"),
        (1, 0, "1 video of one bucket"),
    ],
)
def test_batches_are_spoken_as_they_are(videos, images, words):
    assert spoken_batch({"videos": videos, "images": images}) == words


@pytest.mark.parametrize(
    ("hours", "words"), [(1234.56, "1,234.6 hours"), (0.5, "30.0 minutes"), (0.01, "36.0 seconds")]
)
def test_durations_are_spoken_in_the_unit_that_reads_best(hours, words):
    assert spoken_hours(hours) == words


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
