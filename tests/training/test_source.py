"""A source that moved or changed since it was curated is never trained on without a word."""

import os
import shutil
from dataclasses import replace

import pytest

from curation.clips import UnreadableVideo
from training.cluster import train_here
from training.data.buckets import Bucket
from training.data.pixels import WindowReader, read_window
from training.data.plan import Plan
from training.data.source import check_source
from training.loop import TooManyUnreadable
from training.metrics import read_metrics
from training.prepare import prepare_run
from training.world import World

BUCKET = Bucket(frames=8, fps=8.0, height=32, width=32)


@pytest.fixture
def copied(rows, tmp_path):
    """The rows, of copies of their files that a test may change."""
    made = []
    for row in rows:
        path = tmp_path / os.path.basename(row["uri"])
        shutil.copy2(row["uri"], path)
        made.append(row | {"uri": str(path)})
    return made


def test_a_file_is_read_once_and_again_when_it_changed(copied, monkeypatch):
    from training.data import source

    looked = []
    monkeypatch.setattr(source, "sha256", lambda uri, real=source.sha256: looked.append(uri) or real(uri))
    for _ in range(3):
        check_source(copied[0])
    assert looked == [copied[0]["uri"]]

    shutil.copyfile(copied[1]["uri"], copied[0]["uri"])
    for _ in range(2):
        with pytest.raises(UnreadableVideo, match=r"bee_720p.mp4 is not the file that was curated .*curate again"):
            check_source(copied[0])
    assert looked == [copied[0]["uri"]] * 2


def test_one_other_byte_is_another_file(copied):
    read_window(copied[0], BUCKET)
    with open(copied[0]["uri"], "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(copied[0]["uri"], ns=(1, 1))  # of the same size, whenever the clock ticks

    with pytest.raises(UnreadableVideo) as raised:
        read_window(copied[0], BUCKET)
    assert raised.value.cause == "changed"


def test_a_missing_file_is_named_with_what_to_do(copied):
    os.remove(copied[0]["uri"])
    with pytest.raises(UnreadableVideo, match=r"there is no file at .*bee_720p.mp4.*put it back, or curate again"):
        read_window(copied[0], BUCKET)


@pytest.mark.parametrize("memory_bytes", [0, 1 << 30])
def test_the_autoencoders_windows_are_of_the_curated_file(copied, tae_recipe, memory_bytes):
    train = [row for row in copied if row["split"] == "train"]
    shutil.copyfile(train[0]["uri"], train[1]["uri"])
    plan = Plan(train, tae_recipe, 0)
    reader = WindowReader(plan, memory_bytes)
    failed = set()
    for step in range(4):
        for sample in plan.step(step):
            try:
                reader(sample)
            except UnreadableVideo as error:
                assert error.cause == "changed"
                failed.add(sample.clip_id)

    assert failed == {train[1]["clip_id"]}


def test_a_video_run_on_moved_and_changed_files_stops_before_its_first_step(
    copied, make_lake, tae_recipe, video_recipe, tmp_path
):
    snapshot = make_lake(copied)
    tae = prepare_run("tae", snapshot, replace(tae_recipe, steps=2, validate_every=None), tmp_path / "tae")
    assert train_here(tae, World())
    run = prepare_run("video", snapshot, video_recipe, tmp_path / "run", tae=tmp_path / "tae")
    os.remove(copied[0]["uri"])
    shutil.copyfile(copied[2]["uri"], copied[1]["uri"])

    with pytest.raises(TooManyUnreadable) as raised:
        train_here(run, World())
    said = str(raised.value)
    assert said.startswith("2 of 3 rows cannot be read (at most 1 may)")
    assert copied[0]["uri"] in said and copied[1]["uri"] in said and "curate again" in said
    assert read_metrics(run.out, "step") == []


def test_latents_that_were_cached_need_no_source(copied, make_lake, tae_recipe, video_recipe, tmp_path):
    snapshot = make_lake(copied)
    tae = prepare_run("tae", snapshot, replace(tae_recipe, steps=2, validate_every=None), tmp_path / "tae")
    assert train_here(tae, World())
    recipe = replace(video_recipe, steps=2, sample_every=None)
    options = {"tae": tmp_path / "tae", "cache": tmp_path / "cache"}
    assert train_here(prepare_run("video", snapshot, recipe, tmp_path / "first", **options), World())
    for row in copied:
        os.remove(row["uri"])

    assert train_here(prepare_run("video", snapshot, recipe, tmp_path / "second", **options), World())
    first, second = (read_metrics(tmp_path / name, "step") for name in ("first", "second"))
    assert [line["loss"] for line in first] == [line["loss"] for line in second]
