"""One step of a run again, and the mean of several runs."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from api.cli import main
from models.weights import load_model, read_config, save_model
from training.averaging import average_models
from training.cluster import train_here
from training.generate import generate
from training.metrics import read_metrics
from training.optim import OptimizerConfig, Plateau
from training.prepare import prepare_run
from training.replay import replay
from training.world import World

# Validated every step and never better by half, so the rate is halved at steps 2, 4 and 6.
HALVED = OptimizerConfig(learning_rate=1e-3, plateau=Plateau(patience=2, threshold=0.5))


@pytest.fixture(scope="module")
def tae_run(small_snapshot, tae_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("tae") / "run"
    torch.set_num_threads(1)
    recipe = replace(tae_recipe, optimizer=HALVED, validate_every=1, checkpoint_every=3)
    assert train_here(prepare_run("tae", small_snapshot, recipe, out), World())
    return out


@pytest.fixture(scope="module")
def video_runs(small_snapshot, video_recipe, tae_run, tmp_path_factory):
    """Two runs that differ by their seed."""
    outs = []
    torch.set_num_threads(1)
    for seed in (0, 1):
        outs.append(tmp_path_factory.mktemp("video") / f"run{seed}")
        run = prepare_run("video", small_snapshot, replace(video_recipe, seed=seed), outs[-1], tae=tae_run)
        assert train_here(run, World())
    return outs


@pytest.mark.parametrize(("step", "from_step"), [(1, 0), (3, 0), (4, 3), (6, 3)])
def test_a_step_of_an_autoencoder_comes_out_to_the_last_bit_over_a_halved_rate(tae_run, step, from_step):
    before = {path: path.stat().st_mtime_ns for path in tae_run.rglob("*") if path.is_file()}
    done = replay(tae_run, step)

    assert [line["step"] for line in read_metrics(tae_run, "learning_rate")] == [2, 4, 6]
    assert done.from_step == from_step and done.same_batch and done.same
    assert set(done.differences.values()) == {0.0}
    assert done.differences.keys() == {"loss", "gradient_norm", "learning_rate"}
    assert {path: path.stat().st_mtime_ns for path in tae_run.rglob("*") if path.is_file()} == before


def test_a_step_of_a_transformer_comes_out_with_its_times(video_runs, capsys):
    done = replay(video_runs[1], 5)
    line = read_metrics(video_runs[1], "step")[4]

    assert done.from_step == 4 and done.same and set(done.differences.values()) == {0.0}
    assert sum(done.times) / len(done.times) == pytest.approx(line["timestep"], rel=1e-6)
    assert main(["train", "replay", str(video_runs[1]), "--step", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["clip_id"] for s in told["samples"]] == [s.clip_id for s in done.samples]
    assert told["same"] and told["replayed"]["loss"] == line["loss"]


def test_a_step_that_comes_out_otherwise_is_told(video_runs, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(video_runs[0], tmp_path / "copy")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    changed = [json.loads(line) for line in lines]
    for line in changed:
        if line["event"] == "step" and line["step"] == 2:
            line["loss"] *= 1.01
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in changed))

    assert main(["train", "replay", str(copy), "--step", "2"]) == 1
    assert "apart 9.9e-03" in capsys.readouterr().out
    assert main(["train", "replay", str(copy), "--step", "7"]) == 2
    assert "logged steps 1 to 6, not step 7" in capsys.readouterr().err


def test_the_mean_of_two_models_is_their_mean_and_generates(video_runs, tmp_path, capsys):
    out = tmp_path / "mean"
    assert main(["train", "average", *map(str, video_runs), "--out", str(out)]) == 0
    assert f"mean of 2 models: {out}" in capsys.readouterr().out
    first, second, mean = (
        load_file(folder / "model.safetensors") for folder in (video_runs[0] / "final", video_runs[1] / "final", out)
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, value in mean.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, ((first[name].double() + second[name].double()) / 2).float())
    assert [part["folder"] for part in read_config(out)["trained"]["averaged"]] == [
        str(r / "final") for r in video_runs
    ]

    made = generate(out, "a film called bee", tmp_path / "clip.mp4", steps=2)
    assert made.path.stat().st_size > 0


def test_models_that_have_no_mean_are_refused_and_nothing_is_written(video_runs, tae_run, video_recipe, tmp_path):
    out, other = tmp_path / "mean", tmp_path / "other"
    document = read_config(video_runs[0] / "final")
    save_model(other, load_model(video_runs[0] / "final"), trained=document["trained"] | {"tae_sha256": "0" * 64})

    with pytest.raises(ValueError, match="at least two"):
        average_models([video_runs[0]], out)
    with pytest.raises(ValueError, match="another autoencoder; they have no mean"):
        average_models([video_runs[0], other], out)
    with pytest.raises(ValueError, match="not a video one"):
        average_models([video_runs[0], tae_run], out)
    document["config"]["max_rows"] = 8
    (other / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="models of another max_rows"):
        average_models([video_runs[0], other], out)
    assert not out.exists()


def test_two_runs_are_compared_clip_by_clip_and_a_run_with_itself_is_the_same(video_runs, small_snapshot, capsys):
    words = [
        "evaluate",
        "video",
        "--checkpoint",
        str(video_runs[0]),
        "--manifest",
        small_snapshot,
        "--json",
        "--against",
    ]
    reports = []
    for other in video_runs:
        assert main([*words, str(other)]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    itself, another = (report["against"] for report in reports)

    assert itself["train"] == {"clips": 3, "difference": 0.0, "ci95": 0.0}
    losses = [json.loads((run / "evaluation.json").read_text())["summary"]["train"]["loss"] for run in video_runs]
    assert another["train"]["difference"] == pytest.approx(losses[0] - losses[1], abs=1e-6)
    assert another["train"]["ci95"] > 0 and another["validation"]["ci95"] is None
