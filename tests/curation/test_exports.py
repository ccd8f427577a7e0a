"""Exports that others load, questions to rows, and the commands on a lake, on the demo's snapshot."""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from api.cli import main
from curation.clips import Lake, Snapshot, WrongCall, open_snapshot
from curation.clips.relocate import relocate
from curation.cut import cut_clips
from curation.export.video_folder import export_video_folder
from curation.export.webdataset import export_webdataset


@pytest.fixture(scope="module")
def cut(demo_lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A copy of the demo's snapshot, its clips cut by stream copy."""
    folder = tmp_path_factory.mktemp("cut") / "lake"
    shutil.copytree(demo_lake, folder)
    relocate(str(folder))
    snapshot = Lake(str(folder)).snapshot("demo")
    cut_clips(snapshot, "copy")
    return snapshot


def test_webdataset_shards_are_whole_sorted_and_the_same_again(cut: Snapshot, tmp_path: Path) -> None:
    index = export_webdataset(cut, str(tmp_path / "a"), shard_bytes=1 << 20)
    clips = {row["clip_id"]: row for row in cut.kept_clips().to_pylist()}
    assert index["clips"] == len(clips) and index["left_out"] == 0 and len(index["shards"]) > 1
    seen = []
    for shard in index["shards"]:
        with tarfile.open(tmp_path / "a" / shard["name"]) as tar:
            names = tar.getnames()
            for key in dict.fromkeys(name.split(".")[0] for name in names):
                text = tar.extractfile(f"{key}.txt")
                facts = tar.extractfile(f"{key}.json")
                assert text is not None and facts is not None
                assert text.read().decode() == clips[key]["caption"]
                told = json.load(facts)
                assert told["uri"] == clips[key]["uri"] and {"licence", "in_frame", "split"} <= told.keys()
                seen.append(key)
    assert seen == sorted(clips)
    assert export_webdataset(cut, str(tmp_path / "b"), shard_bytes=1 << 20) == index, "SHA-256 of every shard included"
    assert json.loads((tmp_path / "a" / "index.json").read_text()) == index
    [whole] = export_webdataset(cut, str(tmp_path / "c"))["shards"]
    assert whole["clips"] == len(clips)


def test_a_video_folder_names_its_files(cut: Snapshot, tmp_path: Path) -> None:
    told = export_video_folder(cut, str(tmp_path / "out"))
    kept = cut.kept_clips().to_pylist()
    assert sum(told["clips"].values()) == len(kept)
    for split in told["clips"]:
        rows = pq.read_table(tmp_path / "out" / split / "metadata.parquet").to_pylist()
        assert {row["clip_id"] for row in rows} == {row["clip_id"] for row in kept if row["split"] == split}
        assert all((tmp_path / "out" / split / row["file_name"]).stat().st_size == row["bytes"] for row in rows)


def test_datasets_loads_the_video_folder_by_path(cut: Snapshot, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="NOT TESTED HERE: Hugging Face datasets is not installed")
    export_video_folder(cut, str(tmp_path / "out"))
    kept = cut.kept_clips().to_pylist()
    loaded = datasets.load_dataset("videofolder", data_dir=str(tmp_path / "out"), split="train")
    loaded = loaded.cast_column("video", datasets.Video(decode=False))
    assert all(Path(row["path"]).is_file() for row in loaded["video"])
    assert set(loaded["caption"]) == {row["caption"] for row in kept if row["split"] == "train"}


def test_datasets_reads_a_snapshot_by_its_files(demo_snapshot: str) -> None:
    datasets = pytest.importorskip("datasets", reason="NOT TESTED HERE: Hugging Face datasets is not installed")
    snapshot = open_snapshot(demo_snapshot)
    rows = datasets.load_dataset("parquet", data_files=snapshot.files("decisions"), split="train")
    assert rows.num_rows == snapshot.table("decisions").num_rows


def test_clips_that_are_no_files_are_not_exported(demo_snapshot: str, tmp_path: Path) -> None:
    with pytest.raises(WrongCall, match="is a file yet; run"):
        export_webdataset(open_snapshot(demo_snapshot), str(tmp_path))


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["manifest", *words]) == 0
    return capsys.readouterr().out


def test_the_commands_on_a_lake(cut: Snapshot, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", cut.lake.uri)
    assert json.loads(said(capsys, "tag", "first", "--json", *out)) == [
        {"dataset": "demo", "name": "first", "number": 1}
    ]
    assert "32 decisions" in said(capsys, "reproduce", *out)
    diff = json.loads(said(capsys, "diff", "first", "1", "--json", *out))
    assert diff["added"] == diff["removed"] == []
    assert json.loads(said(capsys, "show", "--snapshot", "first", "--json", *out))["snapshot"] == cut.name
    said(capsys, "sweep", "--hours", "0", *out)  # of commits that were tried again on a busy disk
    assert json.loads(said(capsys, "sweep", "--hours", "0", "--json", *out))["files"] == []
    [videos] = [each for each in json.loads(said(capsys, "compact", "--json", *out)) if each["table"] == "videos"]
    assert videos["after"] == 1
    assert json.loads(said(capsys, "expire", "--keep", "1", "--json", *out)) == {"expired": []}
    written = json.loads(said(capsys, "export-clips", str(tmp_path / "wds"), "--json", *out))
    assert written["clips"] == cut.commit.counts["clips_kept"]
    assert main(["manifest", "show", "--snapshot", "nothing", *out]) == 2
    assert "no tag 'nothing'" in capsys.readouterr().err
    took = json.loads(said(capsys, "takedown", cut.kept_clips()["uri"][0].as_py(), "--json", *out))
    after = json.loads(said(capsys, "diff", "first", "2", "--json", *out))
    assert len(took["video_ids"]) == 1 and after["removed_by"] == {"no longer in the data set": len(after["removed"])}
