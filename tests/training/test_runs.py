"""Whole runs on a small real snapshot, in this process: autoencoder, then transformer, then what they measure."""

import json
from dataclasses import replace

import av
import pytest
import torch

from models.weights import load_model, read_config
from training.agreement import STOP_FILE
from training.checkpoints import newest
from training.cluster import train_here
from training.data.buckets import BucketTable, DurationRule, Size
from training.evaluation.flow_loss import evaluate_video
from training.evaluation.reconstruction import evaluate_tae
from training.generate import generate
from training.metrics import read_metrics
from training.prepare import prepare_run
from training.runs import find_model, load_run
from training.storage import open_storage
from training.throughput import peak_memory
from training.world import World


@pytest.fixture(scope="module")
def tae_run(small_snapshot, tae_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("tae") / "run"
    run = prepare_run("tae", small_snapshot, tae_recipe, out)
    torch.set_num_threads(1)
    assert train_here(run, World())
    return out


@pytest.fixture(scope="module")
def video_run(small_snapshot, video_recipe, tae_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("video") / "run"
    run = prepare_run("video", small_snapshot, video_recipe, out, tae=tae_run)
    torch.set_num_threads(1)
    assert train_here(run, World())
    return out


def test_an_autoencoder_run_leaves_what_it_promises(tae_run, small_snapshot, tae_recipe):
    assert {
        "run.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "evaluation.json",
        "final",
        "reconstructions",
    } <= {p.name for p in tae_run.iterdir()}
    start = read_metrics(tae_run, "start")[0]
    assert (start["train_rows"], start["validation_rows"], start["workers"], start["threads"]) == (3, 1, 1, 1)
    assert start["buckets"] == {"8f8fps-32x32": 3} and start["planned_memory"] == 20 * start["parameters"]
    steps = read_metrics(tae_run, "step")
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "psnr", "kl", "gradient_norm", "learning_rate"} <= steps[0].keys()
    assert newest(open_storage(tae_run / "checkpoints")).step == 6
    assert load_run(tae_run).recipe == tae_recipe
    assert read_metrics(tae_run)[-1]["event"] == "finished"


def test_a_run_tells_its_kernels_once_a_shape_its_peak_memory_and_its_hours(tae_run, video_run, rows):
    for run, calls in (
        (tae_run, 4),
        (video_run, 2),
    ):  # spatial and temporal in two mid blocks; self and cross in one layer
        told = read_metrics(run, "kernels")
        assert [line["bucket"] for line in told] == ["8f8fps-32x32", "1f-32x32"]
        assert all(sum(line["calls"].values()) == calls and line["calls"].keys() <= {"flash", "math"} for line in told)
        peaks = [line["peak_memory"] for line in read_metrics(run, "step")]
        assert peaks == sorted(peaks) and peaks[0] > 1e8 and peaks[-1] <= peak_memory(torch.device("cpu"))
        seconds = sum(row["end_seconds"] for row in rows if row["split"] == "train")
        assert 3600 * read_metrics(run, "start")[0]["train_hours"] == pytest.approx(seconds)


def test_the_final_autoencoder_knows_the_scale_of_its_latents(tae_run, small_snapshot, rows, tae_recipe):
    from training.data.pixels import read_window, to_signal

    model = load_model(find_model(tae_run, "tae"))
    train = [row for row in rows if row["split"] == "train"]
    windows = [torch.from_numpy(to_signal(read_window(row, tae_recipe.buckets.assign(row)))) for row in train]
    with torch.no_grad():
        latents = model.encode(torch.stack(windows))

    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3, 4), correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_its_evaluation_names_every_clip_its_split_and_the_linear_bar(tae_run, small_snapshot, rows):
    written = json.loads((tae_run / "evaluation.json").read_text())
    again = evaluate_tae(tae_run, small_snapshot)

    assert {c["clip_id"]: c["split"] for c in written["clips"]} == {r["clip_id"]: r["split"] for r in rows}
    assert written["summary"]["train"]["clips"] == 3 and written["summary"]["validation"]["clips"] == 1
    for clip, repeated in zip(written["clips"], again["clips"], strict=True):
        assert clip["psnr"] == pytest.approx(repeated["psnr"], abs=1e-6)
        assert clip["psnr_linear"] > clip["psnr"], "six steps do not beat the best linear transform"
        assert (tae_run / clip["pictures"]["still"]).exists()
        with av.open(str(tae_run / clip["pictures"]["video"])) as container:
            stream = container.streams.video[0]
            assert stream.width == 2 * stream.height


def test_a_video_run_leaves_what_it_promises(video_run, tae_run, small_snapshot, rows):
    written = json.loads((video_run / "evaluation.json").read_text())
    trained = read_config(video_run / "final")["trained"]

    assert trained["tae_sha256"] == json.loads((video_run / "run.json").read_text())["tae_sha256"]
    assert trained["text_encoders"][0]["name"] == "bytes"
    assert {c["split"] for c in written["clips"]} == {"train", "validation"}
    train = written["summary"]["train"]
    assert train["loss"] == pytest.approx(sum(c["loss"] for c in written["clips"] if c["split"] == "train") / 3)
    assert train["gaussian_loss"] < train["gaussian_loss_per_position"] < train["mean_velocity_loss"]
    assert len(written["samples"]) == 3
    assert len(read_metrics(video_run, "encode")) == 2 or read_metrics(video_run, "encode")[-1]["done"] == 6
    assert len(list((video_run / "cache").rglob("*.safetensors"))) >= 6


def test_the_flow_loss_is_the_same_each_time_it_is_measured(video_run, small_snapshot):
    written = json.loads((video_run / "evaluation.json").read_text())
    again = evaluate_video(video_run, small_snapshot)

    assert [c["loss"] for c in again["clips"]] == pytest.approx([c["loss"] for c in written["clips"]], rel=1e-5)


def test_a_trained_run_generates(video_run, tmp_path):
    made = generate(video_run, "a film called bee", tmp_path / "clip.mp4", steps=2)

    assert made.path.stat().st_size > 0


def test_a_stopped_run_continues_to_the_same_losses(small_snapshot, tae_recipe, tae_run, tmp_path):
    straight = [line["loss"] for line in read_metrics(tae_run, "step")]
    out = tmp_path / "run"
    run = prepare_run("tae", small_snapshot, tae_recipe, out)
    (out / STOP_FILE).touch()
    assert not train_here(run, World())
    assert newest(open_storage(out / "checkpoints")).step == 1

    resumed = prepare_run("tae", small_snapshot, tae_recipe, out, resume=True)
    assert train_here(resumed, World())
    assert [line["loss"] for line in read_metrics(out, "step")] == straight
    assert read_metrics(out, "resume")[0]["at_step"] == 1


def test_wrong_calls_write_nothing_and_say_what_to_do(
    small_snapshot, tae_recipe, video_recipe, tae_run, video_run, tmp_path, make_lake, rows
):
    out = tmp_path / "run"
    lake = small_snapshot.split("#")[0]
    half_trained = newest(open_storage(tae_run / "checkpoints")).path

    for kind, snapshot, recipe, tae, message in (
        ("tae", f"{lake}#small@7", tae_recipe, None, "no snapshot 7"),
        ("tae", str(tmp_path), tae_recipe, None, "is not a lake"),
        ("video", small_snapshot, video_recipe, tmp_path, "holds no trained model"),
        ("video", small_snapshot, video_recipe, video_run, "holds a video model, not a tae one"),
        ("video", small_snapshot, video_recipe, half_trained, "has no latent statistics"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_run(kind, snapshot, recipe, out, tae=tae)
    with pytest.raises(ValueError, match="s3://"):
        prepare_run("tae", small_snapshot, tae_recipe, "s3://bucket/run")
    long = BucketTable(
        durations=(DurationRule(min_seconds=100, max_seconds=None, frames=8, fps=8),),
        sizes=(Size(height=32, width=32),),
    )
    with pytest.raises(ValueError, match=r"no clip that tae_tiny can train on: .*fits no duration bucket"):
        prepare_run("tae", small_snapshot, replace(tae_recipe, buckets=long), out)
    shared = [rows[0], rows[1], rows[3] | {"duplicate_group": rows[0]["duplicate_group"]}]
    with pytest.raises(ValueError, match=r"duplicate_group.*both the train and the validation split"):
        prepare_run("tae", make_lake(shared), tae_recipe, out)
    assert not out.exists()


def test_a_folder_belongs_to_one_run(small_snapshot, tae_recipe, tae_run, tmp_path):
    with pytest.raises(ValueError, match=r"holds this very run at step 6; add --resume"):
        prepare_run("tae", small_snapshot, tae_recipe, tae_run)
    with pytest.raises(ValueError, match=r"holds a run of another recipe .*at step 6; choose another --out"):
        prepare_run("tae", small_snapshot, replace(tae_recipe, steps=7), tae_run, resume=True)
    (tmp_path / "letters").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no training run"):
        prepare_run("tae", small_snapshot, tae_recipe, tmp_path)


def test_a_set_without_held_out_clips_says_so_and_validates_on_nothing(make_lake, rows, tae_recipe, tmp_path):
    name = make_lake([row | {"split": "train"} for row in rows])
    out = tmp_path / "run"
    assert train_here(prepare_run("tae", name, replace(tae_recipe, steps=1), out), World())

    report = json.loads((out / "evaluation.json").read_text())
    assert set(report["summary"]) == {"train"}
    assert report["note"] == "no clip is held out: these are training clips"
    assert "nothing is validated" in read_metrics(out, "start")[0]["note"]
