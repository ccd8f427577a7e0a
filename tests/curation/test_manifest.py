"""Lakes and snapshots: exact files, readers without us, unknown names, and one writer at a time."""

import importlib.util
import json
import multiprocessing
import re
import shutil
from collections import Counter
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import columns
from curation.clips import Lake, UnknownSnapshot, WrongCall, open_snapshot
from curation.clips import snapshot as snapshots
from curation.clips.manifest import sorted_by
from curation.clips.relocate import relocate
from curation.clips.schema import TABLES
from curation.ledger import funnel

ROOT = Path(__file__).parent.parent.parent


def test_the_ledger_has_one_row_for_everything_that_entered(demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    ledger = snapshot.table("ledger")
    assert ledger.column_names == ["kind", "uri", "video_id", "clip_id", "start_seconds", "end_seconds", "fate", "stage", "rule",
                                   "value", "comparison", "threshold", "reason", "duplicate_of", "damaged"]  # fmt: skip
    videos = [row for row in ledger.to_pylist() if row["kind"] == "video"]
    clips = [row for row in ledger.to_pylist() if row["kind"] == "clip"]
    assert len({row["uri"] for row in videos}) == len(videos) == snapshot.commit.counts["videos_in"] == 15
    assert len({row["clip_id"] for row in clips}) == len(clips) == snapshot.commit.counts["clips_in"]
    assert all((row["reason"] is None) == (row["fate"] == "kept") for row in ledger.to_pylist())


def test_kept_clips_are_what_training_reads(demo_snapshot: str) -> None:
    clips = open_snapshot(demo_snapshot).kept_clips().to_pylist()
    assert [clip["clip_id"] for clip in clips] == sorted(clip["clip_id"] for clip in clips)
    for clip in clips:
        assert (
            clip["caption"] and clip["split"] in ("train", "validation") and clip["end_seconds"] > clip["start_seconds"]
        )
        assert clip["crop_width"] <= clip["width"] and clip["crop_height"] <= clip["height"]
    assert len({clip["caption"] for clip in clips}) == len(clips), "every sample clip has a caption of its own"


@pytest.fixture
def printed_files(demo_lake: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    from api.cli import main

    assert (
        main(["manifest", "files", "--out", str(demo_lake), "--dataset", "demo", "--table", "decisions", "--json"]) == 0
    )
    return json.loads(capsys.readouterr().out)["files"]


def test_pandas_duckdb_and_ray_read_a_snapshot_by_the_documented_lines(
    printed_files: list[str], demo_snapshot: str, ray_cluster: None
) -> None:
    """docs/manifest.md has three lines for each; they are run as they stand there."""
    text = (ROOT / "docs" / "manifest.md").read_text()
    expected = len(open_snapshot(demo_snapshot).kept_clips())
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    readers = {
        name: next(block for block in blocks if f"import {name}" in block) for name in ("pandas", "duckdb", "ray")
    }
    readers["datasets"] = next(block for block in blocks if "import datasets" in block)
    if importlib.util.find_spec("datasets") is None:
        readers.pop("datasets")  # no dependency of ours; test_exports.py says aloud that it is missing
    for name, block in readers.items():
        assert len([line for line in block.splitlines() if line.strip()]) == 3, f"{name} takes three lines"
        scope = {"files": printed_files}
        exec(block, scope)
        assert scope["kept"] == expected, f"{name} counts {scope['kept']}"


def test_the_files_of_a_snapshot_hold_exactly_its_rows(demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    for table in TABLES:
        files = snapshot.files(table)
        assert files and all(Path(file).is_file() for file in files), table
        rows = duckdb.sql(f"SELECT count(*) FROM read_parquet({files!r})").fetchall()
        assert rows == [(snapshot.table(table).num_rows,)], table
    vectors = pd.read_parquet(snapshot.files("embeddings"))["embedding"]
    assert len(vectors.iloc[0]) == 1280 and pa.types.is_list(
        snapshot.table("embeddings").schema.field("embedding").type
    )


def test_every_column_is_documented(demo_snapshot: str) -> None:
    text = (ROOT / "docs" / "manifest.md").read_text()
    assert columns.as_markdown() in text, "docs/manifest.md is out of date; run: python -m curation.columns"
    documented = {table: {column.name for column in columns.all_columns()[table]} for table in TABLES}
    for table in TABLES:
        assert set(open_snapshot(demo_snapshot).table(table).column_names) == documented[table], table


@pytest.mark.parametrize(
    ("name", "words"),
    [("{lake}#nothing", "no data set 'nothing'"), ("{lake}#demo@99", "no snapshot 99"), ("{lake}#demo@x", "no tag 'x'"),
     ("{lake}/nowhere", "is not a lake"), ("nowhere", "is not a lake")],
)  # fmt: skip
def test_an_unknown_snapshot_says_what_there_is(name: str, words: str, demo_lake: Path) -> None:
    with pytest.raises(UnknownSnapshot, match=words):
        open_snapshot(name.format(lake=demo_lake))


def _hold(uri: str, held: "multiprocessing.synchronize.Event", free: "multiprocessing.synchronize.Event") -> None:
    lake = Lake(uri)
    lake.create()
    with lake.committer():
        held.set()
        free.wait(30)


def test_a_second_committer_is_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, free = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path / "lake"), held, free))
    other.start()
    assert held.wait(60)
    with pytest.raises(WrongCall, match="another run is writing"), Lake(str(tmp_path / "lake")).committer():
        pass
    free.set()
    other.join()
    with Lake(str(tmp_path / "lake")).committer():
        pass


def test_what_has_no_commit_does_not_exist(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.create()
    rows = pa.table({"clip_id": ["a"], "embedder": ["e"], "embedding": pa.array([[1.0]], pa.list_(pa.float32()))})
    lake.append("embeddings", rows)
    with pytest.raises(UnknownSnapshot, match="holds no snapshot"):
        lake.snapshot()
    commit = lake.commit("d", recipe_hash="h", recipe={}, code_version="0", counts={}, measured_by="m")
    lake.append("embeddings", rows.set_column(0, "clip_id", [["b"]]))
    assert Lake.exists(str(tmp_path / "lake")) and lake.snapshot("d").number == commit.number == 1
    assert len(lake.snapshot("d").files("embeddings")) == 1, "rows written after the commit belong to no snapshot"
    later = lake.commit("d", recipe_hash="h", recipe={}, code_version="0", counts={}, measured_by="m")
    assert len(lake.snapshot("d", later.number).files("embeddings")) == 2


def test_a_moved_lake_is_readable_and_writable_after_relocate(demo_lake: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(demo_lake, moved)
    there, rewritten = relocate(str(moved))
    assert there == str(demo_lake) and rewritten >= 5 * 3
    assert relocate(str(moved))[1] == 0
    snapshot, original = open_snapshot(f"{moved}#demo"), open_snapshot(f"{demo_lake}#demo")
    for table in TABLES:
        assert all(file.startswith(str(moved)) for file in snapshot.files(table))
        assert snapshot.table(table).equals(original.table(table))
    lake = Lake(str(moved))
    decisions = lake.head("decisions")
    lake.replace("decisions", "dataset", decisions)
    assert lake.head("decisions").num_rows == decisions.num_rows
    assert original.files("decisions") == open_snapshot(f"{demo_lake}#demo").files("decisions")


@pytest.mark.parametrize(
    "texts",
    [["b2", "a1", "c3", "a0"], ["bb", "a", "", "a"], ["bb", None, "aa"], ["é", "zz"], [], [""]],
    ids=str,
)
def test_rows_are_sorted_as_arrow_sorts_them(texts: list[str | None]) -> None:
    rows = pa.table({"clip_id": pa.array(texts, pa.string()), "place": range(len(texts))})
    halves = pa.concat_tables([rows.slice(len(texts) // 2), rows.slice(0, len(texts) // 2)])
    for each in (rows, halves, rows.slice(1)):
        assert sorted_by(each, "clip_id").equals(each.sort_by("clip_id"))


def test_files_are_sorted_in_small_groups_without_dictionaries_of_scores(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    lake.create()
    ids = [f"{i * 2654435761 % 2**32:08x}" for i in range(40_000)]
    lake.append("clips", pa.table({"clip_id": ids, "score": [i / 7 for i in range(40_000)]}))
    [path] = (tmp_path / "lake").rglob("*.parquet")
    file = pq.ParquetFile(path)
    assert file.read(["clip_id"])["clip_id"].to_pylist() == sorted(ids)
    assert [file.metadata.row_group(i).num_rows for i in range(2)] == [32_768, 40_000 - 32_768]
    score = file.metadata.row_group(0).column(1)
    assert score.compression == "ZSTD" and score.statistics.has_min_max
    assert score.total_uncompressed_size < 1.1 * 8 * 32_768, "neither a dictionary nor indices into one"


def test_a_commit_that_joins_part_by_part_counts_the_same(demo_snapshot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_snapshot(demo_snapshot).scanned_statistics()
    monkeypatch.setattr(snapshots, "PART", 3)
    assert open_snapshot(demo_snapshot).scanned_statistics() == whole and whole.clips > 2 * 3


def test_the_funnel_is_the_same_from_the_commit_and_from_the_decisions(
    demo_snapshot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = funnel(open_snapshot(demo_snapshot))
    rows = [r for r in open_snapshot(demo_snapshot).table("decisions").to_pylist() if r["kind"] == "clip"]
    assert {step.rule: step.rejected for step in written if step.rejected} == Counter(
        r["rule"] for r in rows if r["rule"]
    )
    for step in written:
        assert step.only_this_rule == sum(r["failed_rules"] == [step.rule] for r in rows)
    monkeypatch.setattr(snapshots.Snapshot, "written_statistics", lambda self: None)  # as of a lake of before
    assert funnel(open_snapshot(demo_snapshot)) == written
