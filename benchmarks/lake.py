"""What a lake costs at size: appending, committing by many, a page anywhere, an exact count, and what the commit counted already.

python -m benchmarks.lake [--rows 5000000] [--folder FOLDER] [--json]

Rows are drawn, not measured: 13 score columns a clip, three rules, one data set. Questions are asked of the service, in one process,
without a network between. CPU seconds count all threads of a process. The folder (a temporary one by default) holds about 320 bytes a row and is kept where it is named.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):  # run as a file: packages are found from the tree
    sys.path[0] = os.path.dirname(sys.path[0])

import duckdb
import numpy as np
import pyarrow as pa
from fastapi.testclient import TestClient

from api.app import create_app
from api.pages import Asked, cursor_of
from api.settings import Settings
from api.tables import View
from curation.clips import Lake
from curation.clips.iceberg.compaction import compact
from curation.clips.schema import TABLES, arrow_schema
from curation.contracts import signals
from curation.recipes import Recipe, Rule

SCORES = tuple(sorted(signals())[:13])
RULES = tuple(
    Rule(name=f"visual.{name}", signal=name, comparison=">=", threshold=0.2 + 0.1 * i)
    for i, name in enumerate(SCORES[:3])
)
RECIPE = Recipe(name="d", rules=RULES)
BATCH = 1_000_000
COMPACTED = ("files", "page_p50_ms", "page_p95_ms", "page_cpu_p95_ms", "paging_peak_gib")


def drawn(start: int, count: int) -> tuple[pa.Table, list[bytes], np.ndarray]:
    """Clips, their identities and which rules they fail. Identities are hashes, as of real clips: batches interleave in their order."""
    chance = np.random.default_rng(start)
    digests = [hashlib.blake2b(i.to_bytes(8), digest_size=16).digest() for i in range(start, start + count)]
    ids = [digest.hex() for digest in digests]
    values = {name: chance.beta(2, 2, count) for name in SCORES}
    clips = pa.table(
        {"clip_id": ids, "video_id": [i[:8] for i in ids], "duration_seconds": chance.uniform(4, 16, count)} | values
    )
    failed = [values[rule.signal] < rule.threshold for rule in RULES]
    masks = sum((f.astype(np.int64) << i for i, f in enumerate(failed)), np.zeros(count, np.int64))
    return clips, digests, masks


def decided(ids: list[str], masks: np.ndarray) -> pa.Table:
    """Decisions of clips by which rules they fail."""
    count = len(ids)
    names = [[rule.name for i, rule in enumerate(RULES) if mask >> i & 1] for mask in range(1 << len(RULES))]
    known = pa.table(
        {
            "dataset": ["d"] * count,
            "kind": ["clip"] * count,
            "uri": [f"/footage/{i[:8]}.mp4" for i in ids],
            "video_id": [i[:8] for i in ids],
            "clip_id": ids,
            "fate": pa.array(["kept" if not n else "rejected" for n in names]).take(pa.array(masks)),
            "rule": pa.array([n[0] if n else None for n in names], pa.string()).take(pa.array(masks)),
            "failed_rules": pa.array(names, pa.list_(pa.string())).take(pa.array(masks)),
            "unmeasured": pa.array([[]] * count, pa.list_(pa.string())),
        }
    )
    return pa.concat_tables([known, arrow_schema(TABLES["decisions"]).empty_table()], promote_options="default")


def peak_gib() -> float:
    """Of this program: what getrusage tells includes the process that started it."""
    told = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return int(told) / (1 << 20)


def timed(action: Callable[[], Any], times: int = 1) -> tuple[Any, list[float]]:
    taken, result = [], None
    for _ in range(times):
        started = time.perf_counter()
        result = action()
        taken.append(time.perf_counter() - started)
    return result, taken


def _writer(uri: str, number: int, times: Any) -> None:
    for batch in range(8):
        started = time.perf_counter()
        lake = Lake(uri)
        with lake.committer(wait=600):
            rows = pa.table({"clip_id": [f"{number}-{batch}-{i}" for i in range(100)], "caption": ["a"] * 100})
            lake.append("captions", rows, batch=(str(number), str(batch)))
            lake.commit(f"d{number}", recipe_hash="h", recipe={}, code_version="0", counts={}, measured_by="m")
        times.put(time.perf_counter() - started)


def writers(folder: str) -> dict[str, Any]:
    """Eight processes, eight commits each, one lake."""
    lake = Lake(str(Path(folder, "writers")))
    lake.create()
    context = multiprocessing.get_context("spawn")
    times = context.Queue()
    running = [context.Process(target=_writer, args=(lake.uri, number, times)) for number in range(8)]
    for process in running:
        process.start()
    taken = [times.get() for _ in range(64)]
    for process in running:
        process.join()
    rows = lake.head("captions")
    assert len(lake.commits()) == 64 and rows.num_rows == 6_400 == len(set(rows["clip_id"].to_pylist()))
    return {"commits": 64, "p50_s": statistics.median(taken), "p95_s": float(np.percentile(taken, 95))}


class Decided:
    """Identities and decisions of all batches in 17 bytes a row, so that decisions can be written as a run writes them: sorted."""

    def __init__(self) -> None:
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, ids: list[bytes], masks: np.ndarray) -> None:
        """ids: 16 bytes each. masks: which rules failed, a bit each."""
        halves = np.frombuffer(b"".join(ids), ">u8").astype(np.uint64).reshape(-1, 2)
        self.parts.append((halves, masks.astype(np.uint8)))

    def batches(self) -> Iterator[pa.Table]:
        """Decisions in the order of clip_id."""
        halves = np.concatenate([part[0] for part in self.parts])
        masks = np.concatenate([part[1] for part in self.parts])
        self.parts.clear()
        order = np.argsort(halves[:, 0], kind="stable")  # equal first halves do not occur among so few
        for at in range(0, len(order), BATCH):
            some = order[at : at + BATCH]
            raw = halves[some].astype(">u8").tobytes()
            ids = [raw[i : i + 16].hex() for i in range(0, len(raw), 16)]
            yield decided(ids, masks[some])


def reading(uri: str, number: int) -> dict[str, Any]:
    """Pages and counts of one snapshot, in a process of their own, so that its memory is theirs."""
    snapshot = Lake(uri).snapshot("d", number)
    counted, [read] = timed(snapshot.statistics)  # before the service has read them
    with tempfile.TemporaryDirectory() as state, _service(uri, state) as client:

        def ask(path: str) -> Any:
            answer = client.get(f"/v1/datasets/d/{path}&snapshot={number}")
            assert answer.status_code == 200, answer.text
            return answer.json()

        def page(after: str) -> Any:
            return ask(f"rows?table=clips&limit=100&after={after}")

        view: View = client.app.state.service.views.open(snapshot, "clips")  # type: ignore[attr-defined]
        chance = np.random.default_rng(1)
        starts = [cursor_of(Asked().digest(view), 0, (chance.bytes(16).hex(),)) for _ in range(60)]
        page(starts[0])
        pages, busy = [], []
        for after in starts:
            began, started = time.process_time(), time.perf_counter()
            assert len(page(after)["rows"]) == 100 or snapshot.commit.counts["clips_in"] < BATCH
            pages.append(time.perf_counter() - started)
            busy.append(time.process_time() - began)
        paging_gib = peak_gib()
        files = snapshot.files("clips")
        moved = [(rule, rule.threshold + 0.05) for rule in RULES]
        raw = f"SELECT count(*) FROM read_parquet({files!r}) WHERE " + " AND ".join(
            f"({rule.signal} IS NULL OR {rule.signal} >= {threshold})" for rule, threshold in moved
        )
        what_if = "whatif?" + "&".join(f"{rule.name}={threshold}" for rule, threshold in moved)
        with duckdb.connect(config={"threads": 2}) as db:
            db.execute("SET parquet_metadata_cache = true")
            pairs = []
            for _ in range(15):  # in turn, so that what else the machine does falls on both
                expected, [floor] = timed(lambda: db.sql(raw).fetchall()[0][0])
                found, [ours] = timed(lambda: ask(what_if)["counts"]["kept"])
                assert found == expected
                pairs.append((ours, floor))
        found, masked = timed(lambda: counted.passing(without=[RULES[1].name]), 50)
        assert found == ask(f"whatif?{RULES[1].name}=-1")["counts"]["kept"]
    return {
        "files": len(files),
        "page_p50_ms": 1e3 * statistics.median(pages),
        "page_p95_ms": 1e3 * float(np.percentile(pages, 95)),
        "page_cpu_p50_ms": 1e3 * statistics.median(busy),
        "page_cpu_p95_ms": 1e3 * float(np.percentile(busy, 95)),
        "paging_peak_gib": paging_gib,
        "count_ms": 1e3 * statistics.median(ours for ours, _ in pairs),
        "raw_scan_ms": 1e3 * statistics.median(floor for _, floor in pairs),
        "count_over_raw": statistics.median(ours for ours, _ in pairs) / statistics.median(floor for _, floor in pairs),
        "counting_peak_gib": peak_gib(),
        "statistics_read_ms": 1e3 * read,
        "mask_count_ms": 1e3 * statistics.median(masked),
    }


def _service(uri: str, state: str) -> TestClient:
    settings = Settings(data=uri, state_dir=Path(state), query_seconds=600)
    return TestClient(create_app(settings), base_url="http://127.0.0.1:8000")


def read_apart(uri: str, number: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--read", uri, str(number)]
    found: dict[str, Any] = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return found


def measure(rows: int, folder: str) -> dict[str, Any]:
    lake = Lake(str(Path(folder, "lake")))
    lake.create()
    cpu, wall, verdicts = [], [], Decided()
    for start in range(0, rows, BATCH):
        clips, ids, masks = drawn(start, min(BATCH, rows - start))
        verdicts.add(ids, masks)
        before, started = time.process_time(), time.perf_counter()
        lake.append("clips", clips)
        cpu.append((time.process_time() - before) * BATCH / len(clips))
        wall.append((time.perf_counter() - started) * BATCH / len(clips))
        del clips
    for decisions in verdicts.batches():
        lake.append("decisions", decisions)

    def commit() -> int:
        recipe = RECIPE.model_dump(mode="json")
        counts = {"clips_in": rows}
        written = lake.commit(
            "d", recipe_hash=RECIPE.hash, recipe=recipe, code_version="0", counts=counts, measured_by="m"
        )
        return written.number

    number, [committed] = timed(commit)
    found = {
        "rows": rows,
        "append_cpu_s_per_million": statistics.median(cpu),
        "append_s_per_million": statistics.median(wall),
        "commit_with_statistics_s": committed,
        "bytes_per_row": sum(Path(f).stat().st_size for f in lake.snapshot("d", number).files("clips")) / rows,
        **read_apart(lake.uri, number),
    }
    before = time.process_time()
    with lake.committer():
        _, [compacted] = timed(lambda: compact(lake))
    found |= {
        "compact_s_per_million": compacted * BATCH / rows,
        "compact_cpu_s_per_million": (time.process_time() - before) * BATCH / rows,
        "writing_peak_gib": peak_gib(),
    }
    after = read_apart(lake.uri, commit())
    return found | {f"compacted_{name}": value for name, value in after.items() if name in COMPACTED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder")
    parser.add_argument("--no-writers", action="store_true", help="leave out the 64 commits of eight writers")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", nargs=2, metavar=("LAKE", "NUMBER"), help="pages and counts of a lake that is there")
    asked = parser.parse_args()
    if asked.read:
        print(json.dumps(reading(asked.read[0], int(asked.read[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="cinemill-lake-") as own:
        folder = asked.folder or own
        found = measure(asked.rows, folder)
        if not asked.no_writers:
            found["writers"] = writers(folder)
    print(json.dumps(found) if asked.json else "\n".join(f"{name:>26}  {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
