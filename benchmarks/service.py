"""How fast the service answers over a large manifest: pages anywhere, filters, what-if; and how much memory it takes.

`python -m benchmarks.service --rows 2000000` makes a lake of drawn rows (by the lake's own writer), asks a service in this process,
without a network between, and prints a table. A lake that is there already is asked as it is.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings
from curation.clips import Lake
from curation.clips.schema import TABLES, arrow_schema
from curation.contracts import signals
from curation.decide import COMPARE
from curation.recipes import Rule, load_recipe

RECIPE = "moviegen_256"
CLIPS_PER_VIDEO = 10
ROWS_AT_A_TIME = 1_000_000


def _filled(table: str, columns: dict[str, Any], extra: dict[str, pa.DataType] | None = None) -> pa.Table:
    """Rows of a lake's table: the columns given, null in all others."""
    schema = arrow_schema(TABLES[table], extra)
    length = len(next(iter(columns.values())))
    return pa.table(
        [pa.array(columns.get(field.name, pa.nulls(length)), field.type) for field in schema], schema=schema
    )


def _ids(draw: np.random.Generator, count: int) -> np.ndarray:
    """Sorted ids of 32 hexadecimal digits."""
    halves = draw.integers(0, 2**63, (count, 2), dtype=np.uint64)
    return np.sort(np.array([f"{first << np.uint64(1):016x}{second:016x}" for first, second in halves]))


def _scores(draw: np.random.Generator, signal: str, rules: Sequence[Rule], count: int) -> np.ndarray:
    """float64 [count]: every rule on this signal rejects about 3 % of them."""
    asked = [rule for rule in rules if rule.signal == signal]
    low = max((rule.threshold for rule in asked if rule.comparison[0] == ">"), default=None)
    high = min((rule.threshold for rule in asked if rule.comparison[0] == "<"), default=None)
    if low is not None and high is not None:
        return draw.uniform(low - 0.03 * (high - low), high + 0.03 * (high - low), count)
    values = draw.gamma(2.0, 10.0, count)
    return low + values - 2.7 if low is not None else (high or 0.0) + values - 53.6


def make_lake(folder: str, rows: int, seed: int = 0) -> None:
    """A data set `bench` of so many clips, each of ten of one video; scores are drawn, fates follow from them."""
    draw = np.random.default_rng(seed)
    recipe = load_recipe(RECIPE)
    lake = Lake(folder)
    lake.create()
    known = {name: pa.float64() for name in signals()}
    videos = _ids(draw, max(1, rows // CLIPS_PER_VIDEO))
    uris = np.char.add("/footage/", np.char.add(videos, ".mp4"))
    ids = _ids(draw, rows)
    of_video = draw.integers(0, len(videos), rows)
    rules = recipe.all_rules
    masks = np.zeros(rows, np.int64)
    with lake.committer():
        lake.append(
            "videos",
            _filled("videos", {"uri": uris, "video_id": videos, "duration_seconds": np.full(len(videos), 80.0)}),
        )
        for begin in range(0, rows, ROWS_AT_A_TIME):
            part = slice(begin, min(rows, begin + ROWS_AT_A_TIME))
            count = part.stop - part.start
            numbers = {signal: _scores(draw, signal, rules, count) for signal in dict.fromkeys(r.signal for r in rules)}
            for i, rule in enumerate(rules):
                fails = ~COMPARE[rule.comparison](numbers[rule.signal], rule.threshold)
                masks[part] |= fails.astype(np.int64) << i
            clips = numbers | {
                "clip_id": ids[part], "video_id": videos[of_video[part]], "start_seconds": draw.uniform(0, 60, count), "width": np.full(count, 1280), "height": np.full(count, 720),
            }  # fmt: skip
            lake.append("clips", _filled("clips", clips, known))
            captions = {"clip_id": ids[part], "caption": [f"a drawn clip, number {i}" for i in range(count)]}
            lake.append("captions", _filled("captions", captions))
        sets, place = np.unique(masks, return_inverse=True)
        names = [[rule.name for i, rule in enumerate(rules) if mask >> i & 1] for mask in sets.tolist()]
        first = pa.array([failed[0] if failed else None for failed in names], pa.string()).take(pa.array(place))
        rejected = masks > 0
        lake.replace(
            "decisions", "dataset",
            _filled(
                "decisions",
                {
                    "dataset": ["bench"] * rows, "kind": ["clip"] * rows, "uri": uris[of_video], "video_id": videos[of_video],
                    "clip_id": ids, "fate": np.where(rejected, "rejected", "kept"),
                    "stage": np.where(rejected, "visual", None), "rule": first,
                    "failed_rules": pa.array(names, pa.list_(pa.string())).take(pa.array(place)),
                },
            ),
        )  # fmt: skip
        counts = {
            f"{kind}s_{fate}": 0 for kind in ("video", "clip") for fate in ("rejected", "duplicate", "quarantined")
        }
        counts |= {
            "videos_in": len(videos), "videos_kept": len(videos), "clips_in": rows, "clips_kept": int((~rejected).sum()),
            "clips_rejected": int(rejected.sum()),
        }  # fmt: skip
        lake.commit(
            "bench", recipe_hash=recipe.hash, recipe=recipe.model_dump(mode="json"), code_version="benchmark", counts=counts,
            measured_by="drawn",
        )  # fmt: skip


def timed(ask: Callable[[], Any], times: int) -> np.ndarray:
    """float64 [times, 2]: milliseconds by the clock and of all cores, of each call."""
    found = []
    for _ in range(times):
        begun, busy = time.perf_counter(), time.process_time()
        ask()
        found.append((1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - busy)))
    return np.array(found)


def measure(folder: str, times: int) -> list[tuple[str, np.ndarray]]:
    """Milliseconds by question; the first of each kind is the cold one."""
    draw = np.random.default_rng(1)
    state = tempfile.mkdtemp()
    with TestClient(
        create_app(Settings(data=folder, state_dir=Path(state), query_seconds=600)), base_url="http://127.0.0.1:8000"
    ) as client:
        rows = "/v1/datasets/bench/rows?table=clips&limit=100"

        def get(path: str) -> Any:
            answer = client.get(path)
            assert answer.status_code == 200, answer.text
            return answer.json()

        def filtered(where: Any, **more: Any) -> Any:
            answer = client.post("/v1/datasets/bench/filter", json={"where": where, **more})
            assert answer.status_code == 200, answer.text
            return answer.json()

        def anywhere(where: Any = None, **more: Any) -> Any:
            """A page after a clip id that is drawn."""
            beyond = {"column": "clip_id", "is": ">", "value": draw.bytes(16).hex()}
            return filtered({"all": [beyond] + ([where] if where else [])}, **more)

        kept = {"column": "fate", "is": "=", "value": "kept"}
        sharp = {"all": [kept, {"column": "sharpness", "is": ">", "value": 30}]}
        deep = [get(rows)["next"]]

        def following() -> None:
            deep[0] = get(f"{rows}&after={deep[0]}")["next"]

        few = ["clip_id", "uri", "fate", "sharpness"]
        what_if = "/v1/datasets/bench/whatif"
        files = Lake(folder).snapshot("bench").files("clips")
        passing = " AND ".join(
            f'("{rule.signal}" IS NULL OR "{rule.signal}" {rule.comparison} '
            f"{30 if rule.name == 'visual.sharpness' else rule.threshold})"
            for rule in load_recipe(RECIPE).all_rules
        )
        database = duckdb.connect(config={"threads": 2, "memory_limit": "1GiB"})
        database.execute("SET parquet_metadata_cache = true")

        def raw() -> Any:
            return database.sql(f"SELECT count(*) FROM read_parquet({files!r}) WHERE {passing}").fetchall()

        return [
            ("first page", timed(lambda: get(rows), times)),
            ("next pages, by cursor", timed(following, times)),
            ("a page anywhere, all columns", timed(anywhere, times)),
            ("a page anywhere, 4 columns", timed(lambda: anywhere(columns=few), times)),
            ("a page anywhere of kept clips", timed(lambda: anywhere(kept, columns=few), times)),
            ("a page anywhere, by fate and score", timed(lambda: anywhere(sharp, columns=few), times)),
            (
                "count by fate",
                timed(
                    lambda: filtered(kept | {"value": draw.choice(["kept", "rejected"])}, count=True, columns=few), 4
                ),
            ),
            ("page in the order of a score", timed(lambda: filtered(kept, order="-sharpness", columns=few), 3)),
            ("what-if, first", timed(lambda: get(f"{what_if}?visual.sharpness=25"), 1)),
            ("raw scan of its columns, first", timed(raw, 1)),
            *zip(
                ("what-if, exact", "raw scan of its columns"),
                # in turn, so that what else the machine does falls on both
                np.stack(
                    [
                        [
                            timed(lambda: get(f"{what_if}?visual.sharpness={draw.uniform(31, 40)}"), 1)[0],
                            timed(raw, 1)[0],
                        ]
                        for _ in range(15)
                    ],
                    axis=1,
                ),
                strict=True,
            ),
            ("what-if, a rule left out", timed(lambda: get(f"{what_if}?visual.sharpness=-1e9"), 10)),
            (
                "what-if, estimated",
                timed(lambda: get(f"{what_if}?estimate=true&visual.sharpness={draw.uniform(31, 40)}"), 10),
            ),
            ("funnel", timed(lambda: get("/v1/datasets/bench/funnel"), 4)),
            ("scores of a sample", timed(lambda: get("/v1/datasets/bench/scores"), 2)),
            ("histograms", timed(lambda: get("/v1/datasets/bench/histograms"), 4)),
            ("statistics of one column", timed(lambda: get("/v1/datasets/bench/statistics?columns=sharpness"), 2)),
            ("co-rejection", timed(lambda: get("/v1/datasets/bench/corejection"), 2)),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--lake", help="where the lake is made, or lies already")
    asked = parser.parse_args()
    folder = asked.lake or tempfile.mkdtemp()
    if not Lake.exists(folder):
        begun = time.perf_counter()
        make_lake(folder, asked.rows)
        print(f"made {asked.rows:,} clips in {time.perf_counter() - begun:.0f} s")
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("| question | p50 ms | p95 ms | p50 CPU ms | p95 CPU ms |\n| --- | --- | --- | --- | --- |")
    for name, found in measure(folder, asked.times):
        (wall, wall_95), (busy, busy_95) = np.percentile(found, [50, 95], axis=0).T
        print(f"| {name} | {wall:.0f} | {wall_95:.0f} | {busy:.0f} | {busy_95:.0f} |", flush=True)
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"largest resident set: {now / 2**20:.2f} GiB, {made / 2**20:.2f} before the first question")


if __name__ == "__main__":
    main()
