"""Writers that are killed, answers that are lost, many writers at once; and sweeping, expiry, compaction, wider tables."""

import itertools
import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from curation.clips import Lake, UnknownSnapshot, WrongCall, open_snapshot
from curation.clips.commits import Commit
from curation.clips.iceberg.compaction import compact
from curation.clips.iceberg.upkeep import expire, sweep
from curation.clips.storage import found_below, join

ROWS = 50  # of a batch
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["curation.clips.manifest"])  # else every writer imports for two seconds


def vectors(batch: int, rows: int = ROWS) -> pa.Table:
    ids = [f"{batch:06d}-{i:03d}" for i in range(rows)]
    return pa.table({"clip_id": ids, "embedder": ["e"] * rows, "embedding": pa.array([[float(batch)] * 4] * rows, pa.list_(pa.float32()))})  # fmt: skip


def commit(lake: Lake, dataset: str = "d") -> Commit:
    return lake.commit(dataset, recipe_hash="h", recipe={}, code_version="0", counts={}, measured_by="m")


def new_lake(folder: Path) -> Lake:
    lake = Lake(str(folder / "lake"))
    lake.create()
    return lake


def _write_on(uri: str, acknowledged: str, first: int, ready: Connection) -> None:
    lake = Lake(uri)
    ready.send("ready")
    with open(acknowledged, "ab", buffering=0) as out, lake.committer(wait=10):
        for number in range(first, 1_000_000):
            lake.append("embeddings", vectors(number), batch=("run", str(number)))
            commit(lake)
            out.write(f"{number}\n".encode())


def _kill_writers(folder: Path, kills: int) -> dict[str, int]:
    """Kill one writer after another in the middle of its work; every time, read what is there."""
    chance = random.Random(kills)
    lake, acknowledged = new_lake(folder), folder / "acknowledged"
    acknowledged.touch()
    told = {"kills": kills, "acknowledged": 0, "lost": 0, "partial": 0, "doubled": 0}
    for _ in range(kills):
        done = acknowledged.read_text().splitlines()
        here, there = CONTEXT.Pipe()
        writer = CONTEXT.Process(target=_write_on, args=(lake.uri, str(acknowledged), len(done), there))
        writer.start()
        here.recv()
        time.sleep(chance.uniform(0.0, 0.8))
        writer.kill()
        writer.join()
        fresh, done = Lake(lake.uri), acknowledged.read_text().splitlines()
        written = Counter(name.split("-")[0] for name in fresh.head("embeddings", ["clip_id"])["clip_id"].to_pylist())
        told["lost"] += sum(f"{int(number):06d}" not in written for number in done)
        told["partial"] += sum(count < ROWS for count in written.values())
        told["doubled"] += sum(count > ROWS for count in written.values())
        assert len(fresh.commits()) >= len(done)
        if done:
            assert sum(
                pq.read_metadata(file).num_rows for file in fresh.snapshot("d").files("embeddings")
            ) >= ROWS * len(done)
    told["acknowledged"] = len(done)
    before = lake.head("embeddings").sort_by("clip_id")
    with lake.committer(wait=10):
        told["orphans"] = len(sweep(lake, hours=0).files)
        assert sweep(lake, hours=0).files == []
    assert lake.head("embeddings").sort_by("clip_id").equals(before), "sweeping took something that was needed"
    for each in lake.commits():
        assert lake.snapshot("d", each.number).files("embeddings")
    return told


def _require_whole(told: dict[str, int]) -> None:
    print(told)
    assert told["acknowledged"] > 0 and (told["lost"], told["partial"], told["doubled"]) == (0, 0, 0)


def test_twelve_killed_writers_lose_nothing(tmp_path: Path) -> None:
    _require_whole(_kill_writers(tmp_path, 12))


@pytest.mark.slow
def test_two_hundred_killed_writers_lose_nothing(tmp_path: Path) -> None:
    _require_whole(_kill_writers(tmp_path, 200))


def _write_eight(uri: str, writer: int) -> None:
    for number in range(8):
        lake = Lake(uri)
        with lake.committer(wait=120):
            lake.append("embeddings", vectors(writer * 8 + number), batch=(f"run-{writer}", str(number)))
            commit(lake, f"d{writer}")


@pytest.mark.slow
def test_eight_writers_of_eight_commits_make_sixty_four(tmp_path: Path) -> None:
    lake = new_lake(tmp_path)
    writers = [CONTEXT.Process(target=_write_eight, args=(lake.uri, number)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 8
    assert len(lake.commits()) == 64 and len(lake.snapshot("d0").files("embeddings")) <= 64
    assert Counter(lake.head("embeddings")["clip_id"].to_pylist()).most_common(1)[0][1] == 1
    assert lake.head("embeddings").num_rows == 64 * ROWS


class _LosesAnswers(sqlite3.Connection):
    """A connection whose answer to a commit may be lost, after the database has committed or before."""

    lose: str | None = None

    def commit(self) -> None:
        lost, _LosesAnswers.lose = _LosesAnswers.lose, None
        if lost != "before":
            super().commit()
        if lost is not None:
            raise sqlite3.OperationalError("the server closed the connection")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_leaves_exactly_one_commit(tmp_path: Path, when: str) -> None:
    lake = new_lake(tmp_path)
    lake.append("embeddings", vectors(0), batch=("run", "0"))

    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "lake" / "catalog.db", factory=_LosesAnswers, check_same_thread=False)

    for engine in (lake._catalog.engine, lake.log.engine):
        sa.event.listen(engine, "do_connect", connect)
        engine.dispose()
    _LosesAnswers.lose = when
    assert lake.append("embeddings", vectors(1), batch=("run", "1"))
    assert _LosesAnswers.lose is None, "the answer was not lost, so this tested nothing"
    assert not lake.append("embeddings", vectors(1), batch=("run", "1")), "it is there already"
    assert lake.head("embeddings").num_rows == 2 * ROWS
    _LosesAnswers.lose = "after"
    assert commit(lake).number == 1 and len(lake.commits()) == 1
    _LosesAnswers.lose = "before"
    with pytest.raises(sa.exc.OperationalError, match="closed the connection"):
        commit(lake)
    assert len(lake.commits()) == 1, "nothing was committed, and the caller was told"


def test_files_of_workers_are_registered_once(tmp_path: Path) -> None:
    lake = new_lake(tmp_path)
    files = {}
    for number in range(3):
        files[f"shard{number}"] = str(tmp_path / f"{number}.parquet")
        pq.write_table(vectors(number), files[f"shard{number}"])
    schema = vectors(0).schema
    some = {name: files[name] for name in ("shard0", "shard1")}
    assert lake.register("embeddings", "run", some, schema) == 2
    assert lake.register("embeddings", "run", files, schema) == 1, "two were there"
    assert Lake(lake.uri).register("embeddings", "run", files, schema) == 0
    assert lake.head("embeddings").num_rows == 3 * ROWS
    commit(lake)
    assert len(lake.snapshot("d").files("embeddings")) == 3
    wider = vectors(4).append_column("norm", pa.array([1.0] * ROWS))
    pq.write_table(wider, tmp_path / "4.parquet")
    lake.register("embeddings", "run", {"shard4": str(tmp_path / "4.parquet")}, wider.schema)
    rows = lake.head("embeddings").sort_by("clip_id")
    assert rows["norm"].to_pylist() == [None] * (3 * ROWS) + [1.0] * ROWS, "older files say nothing of the new column"


def test_a_sweep_takes_old_orphans_only(tmp_path: Path) -> None:
    lake = new_lake(tmp_path)
    lake.append("embeddings", vectors(0))
    commit(lake)
    data = Path(lake.snapshot("d").files("embeddings")[0]).parent
    for name, age in (("old.parquet", 30), ("young.parquet", 1)):
        pq.write_table(vectors(9), data / name)
        os.utime(data / name, (time.time() - age * 3600,) * 2)
    assert [Path(path).name for path in sweep(lake, hours=24, dry_run=True).files] == ["old.parquet"]
    assert (data / "old.parquet").exists()
    swept = sweep(lake, hours=24)
    assert [Path(path).name for path in swept.files] == ["old.parquet"] and swept.bytes > 0
    assert not (data / "old.parquet").exists() and (data / "young.parquet").exists()
    assert lake.snapshot("d").files("embeddings") and lake.head("embeddings").num_rows == ROWS


def test_expiry_keeps_the_newest_and_the_tagged(tmp_path: Path) -> None:
    lake = new_lake(tmp_path)
    for number in range(5):
        lake.replace("embeddings", "embedder", vectors(number))
        commit(lake)
    tag = lake.tag(lake.snapshot("d", 2), "trained")
    assert lake.tag(lake.snapshot("d", 2), "trained") == tag
    with pytest.raises(WrongCall, match="a tag never moves"):
        lake.tag(lake.snapshot("d", 3), "trained")
    with pytest.raises(WrongCall, match="at least 1"):
        expire(lake, keep=0)
    before = len(found_below(join(lake.uri, "tables")))
    assert expire(lake, keep=1, hours=0) == [1, 3, 4]
    assert [each.number for each in lake.commits()] == [2, 5]
    assert len(sweep(lake, hours=0).files) >= 3 and len(found_below(join(lake.uri, "tables"))) < before
    assert open_snapshot(f"{lake.uri}#d@trained").number == 2
    assert pq.read_table(lake.snapshot("d", "trained").files("embeddings")[0])["clip_id"][0].as_py() == "000001-000"
    assert pq.read_table(lake.snapshot("d").files("embeddings")[0])["clip_id"][0].as_py() == "000004-000"
    with pytest.raises(UnknownSnapshot, match="no snapshot 3"):
        lake.snapshot("d", 3)
    lake.log.untag("d", "trained")
    assert expire(lake, keep=1, hours=0) == [2]


def test_compaction_sorts_files_against_one_another(tmp_path: Path) -> None:
    """Batches whose keys interleave become files whose ranges do not touch; what is apart and large enough is left alone."""
    lake, rows = new_lake(tmp_path), 4000
    for number in range(5):
        ids = [f"{(i * 5 + number) * 7919 % 1_000_003:07d}" for i in range(rows)]
        values = pa.array([[float(number)] * 4] * rows, pa.list_(pa.float32()))
        lake.append("embeddings", pa.table({"clip_id": ids, "embedder": ["e"] * rows, "embedding": values}))
    before = lake.head("embeddings").sort_by("clip_id")
    commit(lake)
    size = sum(Path(file).stat().st_size for file in lake.snapshot("d").files("embeddings")) / (1 << 20)
    [done] = [each for each in compact(lake, size / 4) if each.table == "embeddings"]
    assert done.before == 5
    commit(lake)
    files = lake.snapshot("d").files("embeddings")
    spans = sorted((keys[0].as_py(), keys[-1].as_py()) for keys in (pq.read_table(f)["clip_id"] for f in files))
    assert done.after == len(files) and all(a[1] < b[0] for a, b in itertools.pairwise(spans))
    assert lake.head("embeddings").sort_by("clip_id").equals(before)
    [again] = [each for each in compact(lake, 1e-6) if each.table == "embeddings"]
    assert again.before == again.after and lake.snapshot("d").files("embeddings") == files, "nothing left to do"


def test_compaction_changes_files_and_no_row(tmp_path: Path) -> None:
    lake = new_lake(tmp_path)
    for number in range(6):
        lake.append("embeddings", vectors(5 - number))
    lake.append("embeddings", vectors(9).append_column("norm", pa.array([1.0] * ROWS)))
    commit(lake)
    before, old = lake.head("embeddings").sort_by("clip_id"), lake.snapshot("d").files("embeddings")
    [done] = [each for each in compact(lake) if each.table == "embeddings"]
    assert (done.before, done.after) == (7, 1)
    assert lake.head("embeddings").equals(before), "sorted, so in the same order"
    assert lake.snapshot("d").files("embeddings") == old, "a snapshot never changes"
    assert next(each for each in compact(lake) if each.table == "embeddings").after == 1
    commit(lake)
    assert len(lake.snapshot("d").files("embeddings")) == 1
    expire(lake, keep=1, hours=0)
    assert set(sweep(lake, hours=0).files) >= {Path(path).relative_to(lake.uri).as_posix() for path in old}
    assert lake.head("embeddings").equals(before)
