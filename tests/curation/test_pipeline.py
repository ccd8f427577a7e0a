"""Whole runs on a real Ray: every odd file gets its row, nothing is lost when a worker dies, nothing is measured twice."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from curation.clips import Commit, Lake, WrongCall
from curation.contracts import signals
from curation.pipeline import Progress, curate, plan_run
from curation.recipes import Recipe, load_recipe
from curation.story import tell
from tests.conftest import SAMPLES

BEE, BEETLE, ELF = SAMPLES / "bee_720p.mp4", SAMPLES / "beetle_bw_360p.mp4", SAMPLES / "toy_elf_480p_vp8.webm"


def fates(lake: Path, commit: Commit, kind: str = "video") -> dict[str, dict[str, Any]]:
    rows = Lake(str(lake)).snapshot(commit.dataset, commit.number).table("ledger").to_pylist()
    return {Path(row["uri"]).name if kind == "video" else row["clip_id"]: row for row in rows if row["kind"] == kind}


def balanced(commit: Commit) -> None:
    for kind in ("videos", "clips"):
        parts = [commit.counts[f"{kind}_{fate}"] for fate in ("kept", "rejected", "duplicate", "quarantined")]
        assert sum(parts) == commit.counts[f"{kind}_in"]


def test_the_demo_recipe_shows_every_kind_of_fate(demo_lake: Path) -> None:
    [commit] = Lake(str(demo_lake)).commits("demo")
    balanced(commit)
    clips = Lake(str(demo_lake)).snapshot("demo").table("ledger").to_pylist()
    rules = Counter(row["rule"] for row in clips if row["kind"] == "clip" and row["rule"])
    assert commit.counts["clips_kept"] >= 4 and len(rules) >= 4, rules
    names = fates(demo_lake, commit)
    assert names["black_silent_10s.mp4"]["rule"] == "visual.black"
    assert names["bottles_static_360p.mp4"]["rule"] == "motion.static"
    assert names["roof_handheld_360p.mp4"]["rule"] == "motion.jitter"
    assert names["pattern_sd_grey_bars.mp4"]["rule"] == "visual.borders"
    assert names["screencast_hello_480p_theora.ogv"]["rule"] == "visual.text"
    assert names["toy_elf_480p_vp8.webm"]["rule"] == "content.near_duplicates"
    assert names["odd_invalid_bitstream_vp9.webm"]["fate"] == "quarantined"
    assert names["odd_corrupt_middle.mp4"]["damaged"] and not names["bee_720p.mp4"]["damaged"]


def test_every_number_that_is_missing_has_its_reason(demo_lake: Path) -> None:
    snapshot = Lake(str(demo_lake)).snapshot("demo")
    missing = 0
    for clip in snapshot.table("clips").to_pylist():
        reasons = json.loads(clip["unmeasured_signals"])
        nulls = {name for name in signals() if clip[name] is None}
        assert nulls == reasons.keys() and all(len(why) > 10 for why in reasons.values())
        missing += len(nulls)
    assert missing > 10, "the black clip alone has that many"
    [clip] = [row for row in snapshot.table("ledger").to_pylist() if "black_silent" in row["uri"] and row["clip_id"]]
    story = "\n".join(tell(Lake(str(demo_lake)), clip["clip_id"]))
    assert "motion.jitter: jitter could not be measured: fewer than four tenths of a second" in story
    assert "NO visual.black: brightness 16, asked >= 24 (luma, 16..235)" in story


def test_what_each_filter_cost_is_on_record(demo_lake: Path) -> None:
    videos = Lake(str(demo_lake)).snapshot("demo").table("videos", ["filter_seconds", "model_seconds"]).to_pylist()
    costs = [json.loads(row["filter_seconds"]) for row in videos if row["filter_seconds"]]
    assert all({"visual.text", "motion.camera", "embedding"} <= cost.keys() for cost in costs) and len(costs) >= 12
    assert sum(cost["motion.camera"] for cost in costs) < sum(cost["visual.text"] for cost in costs)


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Odd files made from real ones, and things that are no videos at all."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copy(BEE, folder / "a_bee.mp4")
    shutil.copy(BEE, folder / "b_same_bytes.mov")
    (folder / "zero.mp4").touch()
    (folder / "truncated.mp4").write_bytes(BEE.read_bytes()[:400_000])
    (folder / "truncated.webm").write_bytes(ELF.read_bytes()[:120_000])
    (folder / "words.mkv").write_text("not a video\n" * 100)
    (folder / "vp8_named.mp4").write_bytes(ELF.read_bytes() + b"\0")  # other bytes, same pictures, wrong extension
    shutil.copy(SAMPLES / "odd_invalid_bitstream_vp9.webm", folder / "invalid.webm")
    (folder / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:4,\nfile://{BEE}\n#EXT-X-ENDLIST\n")
    (folder / "notes.txt").write_text("passed over")
    os.symlink(BEETLE, folder / "link_out.mp4")
    return folder


@pytest.fixture(scope="module")
def odd(ray_cluster: None, odd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Commit]:
    lake = tmp_path_factory.mktemp("lake") / "odd"
    recipe = Recipe(name="odd", rules=load_recipe("demo").rules)
    return lake, curate([str(odd_folder), str(BEETLE)], recipe, str(lake))


def test_every_odd_file_gets_a_row_with_its_cause_and_neighbours_are_unharmed(odd: tuple[Path, Commit]) -> None:
    lake, commit = odd
    balanced(commit)
    rows = fates(lake, commit)
    assert set(rows) == {"a_bee.mp4", "b_same_bytes.mov", "zero.mp4", "truncated.mp4", "truncated.webm", "words.mkv",
                         "vp8_named.mp4", "invalid.webm", "playlist.mp4", BEETLE.name}  # fmt: skip
    assert rows["a_bee.mp4"]["fate"] == rows[BEETLE.name]["fate"] == rows["vp8_named.mp4"]["fate"] == "kept"
    assert rows["b_same_bytes.mov"]["fate"] == "duplicate" and rows["b_same_bytes.mov"]["duplicate_of"].endswith(
        "a_bee.mp4"
    )
    causes = {name: row["rule"] for name, row in rows.items() if row["fate"] == "quarantined"}
    assert causes.pop("playlist.mp4") in ("source.unreadable", "source.format_not_allowed"), (
        "a playlist is not followed"
    )
    assert causes == {
        "zero.mp4": "source.empty",
        "words.mkv": "source.unreadable",
        "invalid.webm": "source.nothing_decodes",
    }
    for name in ("truncated.mp4", "truncated.webm"):
        assert rows[name]["damaged"] and (rows[name]["fate"], rows[name]["rule"]) == ("rejected", "shots.scene_length")
    assert all(row["reason"] for row in rows.values() if row["fate"] != "kept")


def test_running_again_finds_nothing_new(odd: tuple[Path, Commit], odd_folder: Path) -> None:
    lake, commit = odd
    recipe = Recipe.model_validate(commit.recipe)
    assert curate([str(odd_folder), str(BEETLE)], recipe, str(lake)) == commit


def test_other_thresholds_measure_nothing_again_and_old_snapshots_stay(
    odd: tuple[Path, Commit], odd_folder: Path
) -> None:
    lake, before = odd
    strips = {p: p.stat().st_mtime_ns for p in (lake / "strips").iterdir()}
    first = Lake(str(lake)).snapshot("odd", before.number).table("ledger")
    rules = tuple(
        r.model_copy(update={"threshold": 1e6}) if r.signal == "sharpness" else r for r in load_recipe("demo").rules
    )
    stricter = curate([str(odd_folder), str(BEETLE)], Recipe(name="odd", rules=rules), str(lake))
    balanced(stricter)
    assert stricter.number > before.number and stricter.counts["clips_kept"] == 0
    assert stricter.counts["clips_in"] == before.counts["clips_in"]
    assert {p: p.stat().st_mtime_ns for p in (lake / "strips").iterdir()} == strips, "no video was decoded again"
    assert Lake(str(lake)).snapshot("odd", before.number).table("ledger").equals(first)


def test_a_killed_worker_loses_nothing_and_doubles_nothing(ray_cluster: None, tmp_path: Path) -> None:
    sources = [BEE, BEETLE, ELF, SAMPLES / "flower_timelapse_540p_vp8.webm", SAMPLES / "black_silent_10s.mp4"]
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.stage == "measure" and progress.done and not killed:
            killed.append(_pid_of_a_worker())
            os.kill(killed[0], signal.SIGKILL)

    commit = curate([str(s) for s in sources], load_recipe("demo"), str(tmp_path / "lake"), progress=kill_one)
    assert killed
    balanced(commit)
    assert commit.counts["videos_in"] == len(sources) and commit.counts["videos_quarantined"] == 0
    snapshot = Lake(str(tmp_path / "lake")).snapshot()
    for table, key in (("videos", "uri"), ("clips", "clip_id"), ("embeddings", "clip_id")):
        values = snapshot.table(table)[key].to_pylist()
        assert len(values) == len(set(values)) == len(sources), f"{table}: a row per video, once"


def _pid_of_a_worker() -> int:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
                mine = f"PPid:\t{os.getpid()}" in (folder / "status").read_text() or _descends(int(folder.name))
            except OSError:
                continue
            if words.startswith(b"ray::MapWorker(Map(CurationWorker") and mine:
                return int(folder.name)
    raise AssertionError("no curation worker is running")


def _descends(pid: int) -> bool:
    """Whether a process belongs to this test's Ray: its raylet is this process's child."""
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        if pid == os.getpid():
            return True
    return False


def test_a_list_passes_its_columns_through(ray_cluster: None, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    with listed.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["uri", "licence", "source_id", "year"],
                [str(tmp_path / "gone.mp4"), "CC0", "a-1", 1999],
                [BEETLE, "CC-BY", "a-2", 2001],
            ]
        )
    commit = curate([str(listed)], load_recipe("demo"), str(tmp_path / "lake"))
    rows = {Path(r["uri"]).name: r for r in Lake(str(tmp_path / "lake")).snapshot().table("videos").to_pylist()}
    assert (rows[BEETLE.name]["licence"], rows[BEETLE.name]["source_id"], rows[BEETLE.name]["year"]) == (
        "CC-BY",
        "a-2",
        2001,
    )
    assert fates(tmp_path / "lake", commit)["gone.mp4"]["rule"] == "source.missing"


@pytest.mark.parametrize(
    ("sources", "more", "words"),
    [
        (["{tmp}/nowhere"], {}, "no file or folder at"),
        (["{tmp}"], {}, "no video in"),
        (["{bee}"], {"out": "{file}"}, "is a file; --out must name a folder"),
        (["{bee}"], {"out": "/proc/nowhere"}, "/proc"),
        (["{bee}"], {"dataset": "a/b"}, "letters, digits"),
        (["{bee}"], {"sample": "7"}, "SEED:SHARE"),
        (["{bee}"], {"limit": 0}, "at least 1"),
        (["{file}"], {}, "no column uri"),
        (["ftp://x/y"], {}, "cannot open"),
        (["{bee}"], {"out": "s3://bucket/lake"}, "needs a database"),
    ],
)
def test_a_wrong_call_raises_before_any_work(
    sources: list[str], more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    file.write_text("path\na\n")
    names = {"tmp": str(tmp_path), "bee": str(BEE), "file": str(file)}
    more = {k: v.format(**names) if isinstance(v, str) else v for k, v in more.items()}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WrongCall, match=words):
        out = more.pop("out", str(tmp_path / "lake"))
        curate([s.format(**names) for s in sources], load_recipe("demo"), out, **more)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written"


def test_a_sample_is_a_share_by_hash_and_grows_by_inclusion(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.mp4").touch()
    chosen = {}
    for share in (0.1, 0.3):
        plan = plan_run([str(tmp_path)], load_recipe("demo"), str(tmp_path / "lake"), sample=f"7:{share}")
        chosen[share] = {footage.uri for footage in plan.footage}
    assert chosen[0.1] < chosen[0.3] and 35 <= len(chosen[0.3]) <= 85


@pytest.mark.slow
def test_every_odd_file_of_the_shared_videos_meets_its_fate(
    ray_cluster: None, shared_videos: Path, tmp_path: Path
) -> None:
    with (shared_videos / "SOURCES.csv").open() as file:
        expected = {row["file"]: row["expected_fate"] for row in csv.DictReader(file) if row["expected_fate"]}
    sources = [str(shared_videos / name) for name in expected] + [str(shared_videos / "toy_rabbit_480p_vp8.webm")]
    commit = curate(sources, load_recipe("demo"), str(tmp_path / "lake"))
    balanced(commit)
    rows = fates(tmp_path / "lake", commit)
    for name, words in expected.items():
        row = rows[name]
        if words.startswith("same bytes as"):
            both = {row["fate"], rows["toy_rabbit_480p_vp8.webm"]["fate"]}
            assert "duplicate" in both and len(both) == 2, name
            continue
        assert (row["fate"] == "quarantined") == words.startswith("quarantined"), (
            f"{name}: {row['fate']}, expected {words}"
        )
        assert bool(row["damaged"]) == ("damaged=true" in words) or row["fate"] == "quarantined", (
            f"{name}: damaged={row['damaged']}"
        )
        if "too short" in words:
            assert row["fate"] == "rejected" and row["rule"] == "shots.scene_length", f"{name}: {row['rule']}"
        if "black" in words:
            assert row["rule"] == "visual.black", name


@pytest.mark.slow
def test_a_killed_driver_continues_from_its_staged_shards(tmp_path: Path) -> None:
    """kill -9 of the command and of its Ray; the same command then does only what was not staged."""
    lake, progress = tmp_path / "lake", tmp_path / "progress.jsonl"
    command = [sys.executable, "-m", "api.cli", "curate", str(SAMPLES), "--out", str(lake), "--json"]
    environment = os.environ | {"CINEMILL_PROGRESS": str(progress)}
    first = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(list(lake.glob("staging/*/videos.parquet"))) < 2:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    staged = {p: p.stat().st_mtime_ns for p in lake.glob("staging/*/videos.parquet")}
    strips = {p: p.stat().st_mtime_ns for p in lake.glob("strips/*.parquet")}
    assert len(staged) >= 2 and Lake(str(lake)).commits() == []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    counts = json.loads(done.stdout)["counts"]
    assert counts["videos_in"] == 15 and counts["clips_in"] == 17
    whole = {p.parent.name for p in staged}
    kept = {p: stamp for p, stamp in strips.items() if p.name.partition("-")[0] in whole}
    assert kept and all(p.stat().st_mtime_ns == stamp for p, stamp in kept.items()), "a staged shard was measured again"
    clips = Lake(str(lake)).snapshot().table("clips")["clip_id"].to_pylist()
    assert len(clips) == len(set(clips)) == 17
