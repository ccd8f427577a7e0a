"""One run through Ray Train, on the snapshot curated from samples/, with what the command line says of it."""

import json
from dataclasses import replace

import pytest

from api.cli import main
from training.cluster import Launch, Progress, train_tae
from training.metrics import read_metrics


def test_ray_train_runs_an_autoencoder_and_tells_how_it_goes(ray_cluster, demo_snapshot, tae_recipe, tmp_path):
    seen: list[Progress] = []
    final = train_tae(demo_snapshot, tae_recipe, tmp_path / "run", progress=seen.append)

    assert final == tmp_path / "run" / "final"
    assert (final / "model.safetensors").exists()
    start = read_metrics(tmp_path / "run", "start")[0]
    assert start["workers"] == 1 and start["threads"] >= 1
    assert len(read_metrics(tmp_path / "run", "step")) == tae_recipe.steps
    assert seen[0].phase == "starting"
    assert seen[-1].done == tae_recipe.steps
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["snapshot"] == demo_snapshot


@pytest.mark.slow
def test_two_ray_workers_reach_one_workers_losses(ray_cluster, demo_snapshot, tae_recipe, tmp_path):
    for workers in (1, 2):
        train_tae(
            demo_snapshot, replace(tae_recipe, name="two"), tmp_path / str(workers), launch=Launch(workers=workers)
        )
    one, two = ([line["loss"] for line in read_metrics(tmp_path / w, "step")] for w in ("1", "2"))

    assert two == pytest.approx(one, rel=1e-3)


def test_wrong_calls_are_one_line_and_exit_code_two(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["train", "tae", "--manifest", "nowhere", "--out", "run"], "nowhere is not a lake"),
        (
            ["train", "tae", "--manifest", "nowhere", "--out", "run", "--recipe", "tae_dmo"],
            "the nearest known one is 'tae_demo'",
        ),
        (["generate", "--checkpoint", "nowhere", "--prompt", "a bee"], "nowhere holds no trained model"),
        (["evaluate", "video", "--checkpoint", "nowhere", "--manifest", "x"], "nowhere holds no trained model"),
        (["evaluate", "tae", "--checkpoint", "nowhere", "--manifest", "x"], "nowhere holds no trained model"),
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.strip().splitlines()) == 1
        assert list(tmp_path.iterdir()) == []
