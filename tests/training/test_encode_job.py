"""The Ray Data job fills a cache with all that a run reads, once, and goes on where it was interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

from api.cli import main
from models.autoencoders.tae import TAE
from models.weights import save_model, weights_sha256
from training.cluster import Progress, RunFailed, train_here, train_video
from training.data.cache import TensorCache
from training.data.text import CaptionEncoder
from training.encode_job import EncodeJob, encode, fill, fill_ahead
from training.metrics import read_metrics
from training.prepare import prepare_run
from training.world import World


@pytest.fixture(scope="module")
def tae_folder(tae_recipe, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = replace(tae_recipe.model, latent_mean=(0.1, 0.0, -0.1, 0.2), latent_std=(0.5, 0.6, 0.7, 0.8))
    return save_model(tmp_path_factory.mktemp("encoder") / "tae", TAE(config), trained={"kind": "tae"})


def written(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}


def test_the_job_makes_all_that_a_run_reads_and_the_run_makes_nothing(
    ray_cluster, small_snapshot, video_recipe, tae_folder, tmp_path
):
    recipe = replace(video_recipe, validate_every=3)
    run = prepare_run("video", small_snapshot, recipe, tmp_path / "run", tae=tae_folder, cache=tmp_path / "shared")
    seen: list[tuple[int, int]] = []
    free = ray.available_resources()["CPU"]
    filled = fill_ahead(run, lambda done, total: seen.append((done, total)))

    assert ray.available_resources()["CPU"] == free, "its actors are gone when it returns"
    clips, captions = (
        4 * 2,
        4 * 2 + 1,
    )  # three train clips and a held-out one, as a video and as an image; the empty string
    assert (filled.total, filled.made, filled.failed) == (clips + captions, clips + captions, {})
    assert seen == [(number, filled.total) for number in range(1, filled.total + 1)]
    before = written(tmp_path / "shared")
    assert len(before) == filled.total

    assert train_here(run, World())
    assert not (run.out / "cache").exists()
    assert read_metrics(run.out, "encode") == [], "the workers found every latent there"
    captions_of_samples = set(written(tmp_path / "shared")) - set(before)
    assert all("FPS" in text for text in texts(captions_of_samples)), "prompts of the last evaluation's samples at most"
    assert {path: stamp for path, stamp in written(tmp_path / "shared").items() if path in before} == before


def texts(paths) -> list[str]:
    from safetensors import safe_open

    found = []
    for path in paths:
        with safe_open(path, framework="pt") as file:
            found.append(json.loads(file.metadata()["key"])["text"])
    return found


def test_an_interrupted_job_goes_on_and_a_whole_one_encodes_nothing(
    ray_cluster, small_snapshot, video_recipe, tae_folder, tmp_path
):
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    free = ray.available_resources()["CPU"]
    with pytest.raises(KeyboardInterrupt):
        encode(small_snapshot, video_recipe, tmp_path / "cache", tae=tae_folder, progress=interrupt)
    assert ray.available_resources()["CPU"] == free
    first = written(tmp_path / "cache")
    assert len(first) >= 5

    again = encode(small_snapshot, video_recipe, tmp_path / "cache", tae=tae_folder)
    assert again.made == again.total - len(first), "only what was missing"
    whole = written(tmp_path / "cache")
    assert len(whole) == again.total
    assert {path: stamp for path, stamp in whole.items() if path in first} == first

    assert encode(small_snapshot, video_recipe, tmp_path / "cache", tae=tae_folder).made == 0
    assert written(tmp_path / "cache") == whole


def test_clips_that_cannot_be_read_are_named_and_stop_nothing(
    ray_cluster, make_lake, rows, video_recipe, tae_folder, tmp_path
):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no film at all" * 99)
    snapshot = make_lake([rows[0] | {"uri": str(damaged)}, rows[1] | {"uri": str(tmp_path / "gone.mp4")}, *rows[2:]])
    filled = encode(snapshot, video_recipe, tmp_path / "cache", tae=tae_folder)

    assert set(filled.failed) == {rows[0]["clip_id"], rows[1]["clip_id"]}
    assert f"{damaged} is not the file that was curated" in filled.failed[rows[0]["clip_id"]]
    assert f"there is no file at {tmp_path / 'gone.mp4'}" in filled.failed[rows[1]["clip_id"]]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == filled.made
    encoded = CaptionEncoder.of(video_recipe.text_encoders, TensorCache(tmp_path / "cache"))
    assert not encoded.missing("") and encoded.missing("never said")


@pytest.mark.slow  # a job takes seconds to start
def test_an_error_inside_the_job_is_told_in_its_own_words(
    ray_cluster, small_snapshot, video_recipe, tae_folder, tmp_path
):
    job = EncodeJob(tae=tae_folder, tae_sha256="0" * 64, text_encoders=("bytes",), cache=tmp_path / "cache")
    with pytest.raises(RunFailed, match="is not the autoencoder 000000000000 that this cache is filled for"):
        fill(small_snapshot, video_recipe, job)
    assert weights_sha256(tae_folder) != job.tae_sha256


@pytest.mark.slow  # a job takes seconds to start
def test_the_command_fills_a_folder_and_refuses_one_of_other_things(
    ray_cluster, small_snapshot, video_recipe, tae_folder, tmp_path, capsys
):
    (tmp_path / "tiny.yaml").write_text(
        "base: video_demo\ntext_encoders: [bytes]\nbuckets:\n  durations: [{min_seconds: 1.0, max_seconds: null, "
        "frames: 8, fps: 8.0}]\n  sizes: [{height: 32, width: 32}]\n"
    )
    words = ["train", "encode", "--manifest", small_snapshot, "--tae", str(tae_folder), "--recipe"]
    words += [str(tmp_path / "tiny.yaml"), "--out"]
    assert main([*words, str(tmp_path / "cache"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["made"] == said["total"] == 4 + 5
    assert said["failed"] == {}

    assert main([*words, str(tmp_path)]) == 2
    assert "holds other things than a cache" in capsys.readouterr().err


@pytest.mark.slow  # Ray Train, too, takes seconds to start
def test_training_begins_when_the_cache_is_whole(ray_cluster, small_snapshot, video_recipe, tae_folder, tmp_path):
    recipe = replace(video_recipe, sample_every=None, validate_every=None)
    seen: list[Progress] = []
    train_video(
        small_snapshot, recipe, tmp_path / "run", tae=tae_folder, cache=tmp_path / "shared", progress=seen.append
    )
    encoded = [(progress.done, progress.total) for progress in seen if progress.phase == "encoding"]

    assert encoded == [(number, encoded[0][1]) for number in range(1, encoded[0][1] + 1)]
    assert read_metrics(tmp_path / "run", "encode") == [], "nothing was left to the workers"
    assert len(read_metrics(tmp_path / "run", "step")) == recipe.steps
    assert not (tmp_path / "run" / "cache").exists()
