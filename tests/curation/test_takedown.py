"""Staged data sets: reproduced from what they hold, rights added to them, sources taken out of them; and what a commit counts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.clips import Lake, WrongCall, open_snapshot
from curation.clips.relocate import relocate
from curation.clips.statistics import NUM_BINS, Bins, Statistics
from curation.pipeline import curate
from curation.recipes import load_recipe
from curation.redecide import compare, redecide
from curation.rights import add_rights
from curation.takedown import take_down
from tests.conftest import SAMPLES


@pytest.fixture
def lake(demo_lake: Path, tmp_path: Path) -> Lake:
    """A copy of the demo's lake, to write to."""
    shutil.copytree(demo_lake, tmp_path / "lake")
    relocate(str(tmp_path / "lake"))
    return Lake(str(tmp_path / "lake"))


def kept(lake: Lake) -> set[str]:
    return set(lake.snapshot("demo").kept_clips()["clip_id"].to_pylist())


def test_a_snapshot_reproduces_itself(demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    decisions = snapshot.table("decisions").to_pylist()
    again = compare(decisions, redecide(snapshot))
    assert again.same and again.rows == len(decisions) and again.kept == snapshot.commit.counts["clips_kept"] > 0
    broken = [row | {"fate": "rejected"} if row["fate"] == "kept" else row for row in decisions]
    assert len(compare(decisions, broken).only_before) == again.kept


def test_statistics_of_a_commit_equal_a_scan(demo_lake: Path, demo_snapshot: str) -> None:
    snapshot = open_snapshot(demo_snapshot)
    written = snapshot.statistics()
    assert (demo_lake / "statistics" / f"{snapshot.statistics_key}.json").exists()
    assert written == snapshot.scanned_statistics()
    counts = snapshot.commit.counts
    assert written.clips == counts["clips_in"] and written.kept() == counts["clips_kept"]
    rows = [r for r in snapshot.table("decisions").to_pylist() if r["kind"] == "clip"]
    assert written.passing() == sum(not r["failed_rules"] for r in rows)
    assert written.passing(without=["motion.static"]) == sum(
        not set(r["failed_rules"]) - {"motion.static"} for r in rows
    )
    for (one, other), count in written.rejected_together().items():
        assert count == sum({one, other} <= set(r["failed_rules"]) for r in rows), (one, other)
    sharpness = snapshot.table("clips", ["sharpness"])["sharpness"]
    bins = written.histograms["sharpness"]
    assert (sum(bins.counts), bins.unmeasured) == (len(sharpness) - sharpness.null_count, sharpness.null_count)
    edges = bins.edges
    assert list(bins.counts) == np.histogram(sharpness.drop_null().to_numpy(), edges)[0].tolist()
    assert written.sample["clip_id"].to_pylist() == sorted(r["clip_id"] for r in rows)


SCORES = st.one_of(st.none(), st.floats(-1e6, 1e6), st.floats(0, 1), st.sampled_from([0.0, 1.0, -1.0, 1e-9, 4096.0]))
CLIP = st.tuples(SCORES, st.sampled_from([(), ("a",), ("a", "b"), ("content.balance",)]), st.floats(0.5, 20))


@settings(max_examples=60, deadline=None)
@given(st.lists(CLIP, max_size=60), st.integers(0, 60), st.randoms())
def test_parts_merge_to_exactly_the_whole(clips: list[tuple], cut: int, chance: object) -> None:
    names = [f"{chance.getrandbits(64):016x}-{i}" for i in range(len(clips))]  # type: ignore[attr-defined]
    rows = pa.table(
        {
            "clip_id": pa.array(names, pa.string()),
            "duration_seconds": pa.array([c[2] for c in clips], pa.float64()),
            "score": pa.array([c[0] for c in clips], pa.float64()),
            "fate": pa.array(["rejected" if c[1] else "kept" for c in clips], pa.string()),
            "rule": pa.array([c[1][0] if c[1] else None for c in clips], pa.string()),
            "failed_rules": pa.array([list(c[1]) for c in clips], pa.list_(pa.string())),
            "unmeasured": pa.array([["s"] if c[0] is None else [] for c in clips], pa.list_(pa.string())),
        }
    )
    signals = {"a": "score", "b": "other"}
    whole = Statistics.of(rows, signals)
    parts = [Statistics.of(rows.slice(cut), signals), Statistics.of(rows.slice(0, cut), signals)]
    assert Statistics.merged(parts) == whole
    bins = whole.histograms["score"]
    assert sum(bins.alone) == sum(c[0] is not None and c[1] == ("a",) for c in clips)
    assert sum(whole.octaves["score"].counts) == sum(c[0] is not None and c[0] > 0 for c in clips)
    assert len(bins.counts) <= NUM_BINS and sum(bins.counts) + bins.unmeasured == len(clips)


def test_bins_are_as_fine_as_256_allow() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 1000)
    bins = Bins.of(values, values > 0.5, values < 0.25)
    assert NUM_BINS // 2 <= len(bins.counts) <= NUM_BINS and sum(bins.kept) == int((values > 0.5).sum())


def test_rights_of_the_samples_reach_every_video(lake: Lake) -> None:
    changed, [commit] = add_rights(lake, str(SAMPLES / "SOURCES.csv"))
    videos = lake.snapshot("demo").table("videos").to_pylist()
    assert changed == len(videos) == 15 and commit.number == 2
    [bee] = [row for row in videos if row["uri"].endswith("bee_720p.mp4")]
    assert (
        bee["licence"].startswith("BSD-3")
        and "Flutter" in bee["attribution"]
        and bee["source_id"].startswith("flutter/")
    )
    assert lake.snapshot("demo", 1).table("videos")["licence"].null_count == 15, "a snapshot never changes"
    assert add_rights(lake, str(SAMPLES / "SOURCES.csv")) == (0, [])
    assert kept(lake) == set(lake.snapshot("demo", 1).kept_clips()["clip_id"].to_pylist())


def test_a_list_without_rights_or_videos_is_refused(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,licence\nx,CC0\n")
    with pytest.raises(WrongCall, match="knows no video"):
        add_rights(lake, str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text("uri,colour\nx,red\n")
    with pytest.raises(WrongCall, match="none of the columns"):
        add_rights(lake, str(tmp_path / "b.csv"))


def _run(folder: Path, snapshot: str, **paths: str) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps({"kind": "tae", "snapshot": snapshot, "tae": None, "start": None} | paths)
    )


def test_a_source_taken_down_is_gone_and_its_copy_comes_back(lake: Lake, tmp_path: Path, ray_cluster: None) -> None:
    before = lake.snapshot("demo")
    elf, copy = SAMPLES / "toy_elf_480p.mp4", SAMPLES / "toy_elf_480p_vp8.webm"
    ledger = {(Path(r["uri"]).name, r["kind"]): r for r in before.table("ledger").to_pylist()}
    assert ledger[copy.name, "clip"]["fate"] == "duplicate" and ledger[elf.name, "clip"]["fate"] == "kept"
    _run(tmp_path / "runs" / "saw", before.name)
    _run(tmp_path / "runs" / "heir", f"{tmp_path}/nowhere#demo@1", start=str(tmp_path / "runs" / "saw" / "checkpoints"))
    done = take_down(lake, str(elf), "the owner asked", [str(tmp_path / "runs")])
    after = lake.snapshot("demo")
    assert done.snapshots == [after.name] and after.number == 2
    video = ledger[elf.name, "video"]["video_id"]
    for table in ("videos", "clips", "embeddings", "captions", "decisions"):
        rows = after.table(table)
        column = "video_id" if "video_id" in rows.column_names else "clip_id"
        assert not {video, ledger[elf.name, "clip"]["clip_id"]} & set(rows[column].to_pylist()), table
        held = [pc.any(pc.equal(pa.parquet.read_table(file)[column], video)).as_py() for file in after.files(table)]
        assert not any(held), f"files of {table} still hold it"
    assert ledger[copy.name, "clip"]["clip_id"] in kept(lake), "what had given way to it is no copy any more"
    assert all(row["caption"] for row in after.kept_clips().to_pylist())
    assert after.statistics() == after.scanned_statistics() and after.commit.counts["videos_in"] == 14
    saw = {Path(run.run).name: run for run in done.runs}
    assert saw["saw"].clips == [ledger[elf.name, "clip"]["clip_id"]] and saw["heir"].unknown
    assert elf.name in {Path(uri).name for uri in lake.snapshot("demo", 1).table("videos")["uri"].to_pylist()}
    # it never enters again, and nothing else is measured anew
    curate([str(elf), str(SAMPLES / "bee_720p.mp4")], load_recipe("demo"), lake.uri)
    assert elf.name not in {Path(uri).name for uri in lake.snapshot("demo").table("videos")["uri"].to_pylist()}
    assert take_down(lake, str(elf), "again").snapshots == []
    with pytest.raises(WrongCall, match="no URI, video_id or source_id"):
        take_down(lake, "nobody", "x")


def test_an_heir_of_a_run_that_saw_it_is_named(lake: Lake, tmp_path: Path) -> None:
    snapshot = lake.snapshot("demo")
    video = snapshot.kept_clips()["video_id"][0].as_py()
    other = lake.log.add({"dataset": "empty", "recipe_hash": "h", "recipe": {}, "code_version": "0", "tables": {}, "counts": {},
                          "measured_by": "m"})  # fmt: skip
    _run(tmp_path / "runs" / "a", snapshot.name)
    _run(tmp_path / "runs" / "b", f"{lake.uri}#empty@{other.number}", tae=str(tmp_path / "runs" / "a"))
    _run(tmp_path / "runs" / "c", f"{lake.uri}#empty@{other.number}")
    found = {Path(run.run).name: run for run in take_down(lake, video, "x", [str(tmp_path / "runs")]).runs}
    assert set(found) == {"a", "b"} and Path(found["b"].through or "").name == "a"
