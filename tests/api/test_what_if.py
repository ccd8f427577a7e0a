"""Statistics of a snapshot of 200,000 clips, which are more than a commit samples: exact, estimated, and said which."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from api.what_if import wilson
from curation.clips import Lake
from curation.clips.relocate import relocate
from curation.clips.schema import TABLES, arrow_schema
from curation.clips.statistics import rule_signals
from curation.decide import COMPARE
from curation.recipes import Recipe, Rule, load_recipe

CLIPS, OTHERS = 200_000, 5_000
RECIPE = Recipe(
    name="many",
    near_duplicate_similarity=0.9,
    rules=(
        Rule(name="visual.sharpness", signal="sharpness", comparison=">=", threshold=15),
        Rule(name="visual.borders", signal="border_share", comparison="<=", threshold=0.06),
        Rule(name="motion.jitter", signal="jitter", comparison="<", threshold=2.5),
        Rule(name="motion.static", signal="static_share", comparison="<=", threshold=0.6),
    ),
)
RULES = RECIPE.all_rules


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    """Of every clip: one score over five decades, one of a few values, one that is missing for a tenth of the clips."""
    draw = np.random.default_rng(3)
    jitter = draw.gamma(2, 1, CLIPS)
    jitter[draw.random(CLIPS) < 0.1] = np.nan
    return {
        "shot_seconds": draw.uniform(3.9, 40, CLIPS),
        "duration_seconds": draw.uniform(4, 16, CLIPS),
        "sharpness": np.exp(draw.normal(4, 2, CLIPS)),
        "border_share": draw.choice([0.0, 0.03, 0.13], CLIPS, p=[0.8, 0.1, 0.1]),
        "jitter": jitter,
        "static_share": draw.beta(1, 4, CLIPS),
    }


@pytest.fixture(scope="module")
def failures(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {rule.name: fails(scores, rule, rule.threshold) for rule in RULES}


@pytest.fixture(scope="module")
def copies(failures: dict[str, np.ndarray]) -> np.ndarray:
    """bool [N]: clips that pass all rules, of which every fifth is a copy."""
    passing = ~np.any(list(failures.values()), 0)
    return passing & (np.arange(CLIPS) % 5 == 0)


def fails(scores: dict[str, np.ndarray], rule: Rule, threshold: float) -> np.ndarray:
    values = scores[rule.signal]
    return ~COMPARE[rule.comparison](values, threshold) & ~np.isnan(values)


def filled(table: str, columns: dict[str, Any], extra: dict[str, pa.DataType] | None = None) -> pa.Table:
    """Rows of a lake's table: null in columns that are not given."""
    length = len(next(iter(columns.values())))
    schema = arrow_schema(TABLES[table], extra)
    return pa.table([pa.array(columns.get(f.name, pa.nulls(length)), f.type) for f in schema], schema=schema)


@pytest.fixture(scope="module")
def many(
    scores: dict[str, np.ndarray], failures: dict[str, np.ndarray], copies: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Path:  # fmt: skip
    """A lake of two data sets: `many`, and `other`, whose clips lie in the same table."""
    lake = Lake(str(tmp_path_factory.mktemp("many") / "lake"))
    lake.create()
    draw = np.random.default_rng(9)  # 95 % of intervals hold, these of this draw all do
    ids = [draw.bytes(16).hex() for _ in range(CLIPS + OTHERS)]
    columns = {name: pa.array(np.append(values, values[:OTHERS]), from_pandas=True) for name, values in scores.items()}
    names = {name: np.where(failed, name, "") for name, failed in failures.items()}
    failed = [[name for name in row if name] for row in zip(*names.values(), strict=True)]
    failed = [["content.near_duplicates"] if copy else row for row, copy in zip(failed, copies, strict=True)]
    missing = np.isnan(scores["jitter"])
    sets = {"many": (ids[:CLIPS], failed), "other": (ids[CLIPS:], [[] for _ in range(OTHERS)])}
    with lake.committer():
        lake.append("videos", filled("videos", {"uri": ["v"], "video_id": ["v"], "duration_seconds": [80.0]}))
        rows = {"clip_id": ids, "video_id": ["v"] * len(ids)} | columns
        lake.append("clips", filled("clips", rows, {rule.signal: pa.float64() for rule in RULES}))
        lake.append("captions", filled("captions", {"clip_id": ids[:1], "caption": ["a clip"]}))
        for dataset, (clip_ids, rules) in sets.items():
            fates = ["duplicate" if r and r[0].startswith("content.") else "rejected" if r else "kept" for r in rules]
            decisions = {
                "dataset": [dataset] * len(clip_ids),
                "kind": ["clip"] * len(clip_ids),
                "uri": ["v"] * len(clip_ids),
                "video_id": ["v"] * len(clip_ids),
                "clip_id": clip_ids,
                "fate": fates,
                "rule": [r[0] if r else None for r in rules],
                "failed_rules": rules,
                "unmeasured": [["motion.jitter"] if is_missing else [] for is_missing in missing[: len(clip_ids)]],
            }
            lake.replace("decisions", "dataset", filled("decisions", decisions))
            counts = {
                f"{kind}s_{fate}": 0 for kind in ("video", "clip") for fate in ("in", "kept", "rejected", "duplicate", "quarantined")
            }  # fmt: skip
            counts |= {f"clips_{fate}": fates.count(fate) for fate in set(fates)} | {"clips_in": len(clip_ids)}
            lake.commit(
                dataset, recipe_hash=RECIPE.hash, recipe=RECIPE.model_dump(mode="json"), code_version="0", counts=counts,
                measured_by="drawn",
            )  # fmt: skip
    return Path(lake.uri)


@pytest.fixture(scope="module")
def asked(many: Path, open_service: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with open_service(Settings(data=str(many), state_dir=tmp_path_factory.mktemp("state"))) as opened:
        yield opened


def counted(
    scores: dict[str, np.ndarray], failures: dict[str, np.ndarray], copies: np.ndarray, thresholds: dict[str, float]
) -> dict[str, int]:
    """The same by hand."""
    failed = np.any([fails(scores, rule, thresholds.get(rule.name, rule.threshold)) for rule in RULES], 0)
    before = ~np.any(list(failures.values()), 0) & ~copies
    passing = ~failed & ~copies
    certain = passing & (before | ~np.isnan(scores["jitter"]))
    return {
        "clips": CLIPS,
        "kept": int(certain.sum()),
        "entering": int((certain & ~before).sum()),
        "leaving": int((before & ~certain).sum()),
        "unmeasured": int((passing & ~certain).sum()),
        "set_aside": int((~failed & copies).sum()),
    }


MOVED: list[dict[str, float]] = [
    {"visual.sharpness": 60.0},
    {"visual.sharpness": 2.0},
    {"motion.jitter": 1.0, "visual.sharpness": 5.0},
    {"motion.jitter": 5.0},
    {"motion.static": 0.2, "visual.borders": 0.01, "shots.clip_length": 8.0},
    {"visual.sharpness": 2500.0, "motion.jitter": 0.3},
]
DROPPED: list[dict[str, float]] = [
    {},
    {"visual.sharpness": 0.0},
    {"motion.jitter": 1e9, "visual.borders": 1.0},
    {"motion.jitter": -1.0},
    {"visual.borders": -1.0, "visual.sharpness": -5.0},
]


@pytest.mark.parametrize("thresholds", MOVED + DROPPED, ids=str)
def test_an_exact_count_is_what_counting_by_hand_gives(
    asked: TestClient, scores: Any, failures: Any, copies: Any, thresholds: dict[str, float]
) -> None:
    told = asked.get("/v1/datasets/many/whatif", params=thresholds).json()
    assert told["counts"] == counted(scores, failures, copies, thresholds)
    assert told["exact"] and told["sampled"] is None and told["intervals"] is None


@pytest.mark.parametrize("thresholds", MOVED, ids=str)
def test_an_estimate_says_so_and_its_intervals_hold_the_exact_counts(
    asked: TestClient, scores: Any, failures: Any, copies: Any, thresholds: dict[str, float]
) -> None:
    told = asked.get("/v1/datasets/many/whatif", params=thresholds | {"estimate": True}).json()
    assert not told["exact"] and told["sampled"] == 50_000 and told["counts"].pop("clips") == CLIPS
    exact = counted(scores, failures, copies, thresholds)
    for name, number in told["counts"].items():
        interval = told["intervals"][name]
        assert interval["low"] <= number <= interval["high"] and interval["low"] <= exact[name] <= interval["high"]
        assert interval["high"] - interval["low"] < 0.01 * CLIPS


@pytest.mark.parametrize("thresholds", DROPPED, ids=str)
def test_what_the_commit_counted_is_no_estimate(asked: TestClient, thresholds: dict[str, float]) -> None:
    told = asked.get("/v1/datasets/many/whatif", params=thresholds | {"estimate": True}).json()
    assert told == asked.get("/v1/datasets/many/whatif", params=thresholds).json() and told["exact"]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """2,000 draws of 500 of 5,000, of which 5 % count: hypergeometric, as a sample without replacement is."""
    draws = np.random.default_rng(0).hypergeometric(250, 4_750, 500, 2_000)
    held = [wilson(int(n), 500, 5_000) for n in draws]
    assert 0.94 <= np.mean([each.low <= 250 <= each.high for each in held]) <= 0.975
    assert wilson(3, 40, 40).low == wilson(3, 40, 40).high == 3
    assert wilson(0, 40, 400).low == 0 < wilson(0, 40, 400).high


def test_funnel_and_co_rejection_of_many_clips_are_those_of_the_rows(
    asked: TestClient, failures: dict[str, np.ndarray], copies: np.ndarray, scores: dict[str, np.ndarray]
) -> None:
    funnel = asked.get("/v1/datasets/many/funnel").json()
    left = np.ones(CLIPS, bool)
    number = np.sum(list(failures.values()), 0)
    for step, rule in zip(funnel["steps"], RULES, strict=False):
        assert (step["rule"], step["entered"]) == (rule.name, left.sum())
        assert step["rejected"] == (left & failures[rule.name]).sum()
        assert step["only_this_rule"] == (failures[rule.name] & (number == 1)).sum()
        left &= ~failures[rule.name]
    assert funnel["steps"][-1]["rule"] == "content.near_duplicates"
    assert funnel["steps"][-1]["rejected"] == copies.sum()
    assert funnel["kept_seconds"] == pytest.approx(scores["duration_seconds"][left & ~copies].sum(), abs=0.2)
    told = asked.get("/v1/datasets/many/corejection").json()
    for i, one in enumerate(told["rules"]):
        for j, other in enumerate(told["rules"]):
            if one in failures and other in failures:
                assert told["clips"][i][j] == (failures[one] & failures[other]).sum()


def test_histograms_of_many_clips_are_counted_not_scaled(
    asked: TestClient, failures: dict[str, np.ndarray], copies: np.ndarray, scores: dict[str, np.ndarray]
) -> None:
    signals = {told["signal"]: told for told in asked.get("/v1/datasets/many/histograms").json()["signals"]}
    assert signals["sharpness"]["scale"] == "log" and signals["shot_seconds"]["scale"] == "linear"
    kept = ~np.any(list(failures.values()), 0) & ~copies
    number = np.sum(list(failures.values()), 0)
    for rule in RULES:
        told, values = signals[rule.signal], scores[rule.signal]
        assert told["exact"] and told["unmeasured"] == np.isnan(values).sum()
        assert told["low"] <= rule.threshold <= told["high"] and 16 <= len(told["all"]) <= 64
        make = np.geomspace if told["scale"] == "log" else np.linspace
        edges = make(told["low"], told["high"], len(told["all"]) + 1)
        edges[0], edges[-1] = -np.inf, np.inf
        alone = failures[rule.name] & (number == 1)
        for name, which in (("all", ~np.isnan(values)), ("kept", kept), ("only_this", alone)):
            expected = np.histogram(values[which & ~np.isnan(values)], edges)[0]
            assert np.abs(np.array(told[name]) - expected).sum() <= 4, (rule.signal, name)  # an edge, rounded
            assert sum(told[name]) == expected.sum()
        [counts] = told["rules"]
        assert (counts["rejects"], counts["only_this"]) == (failures[rule.name].sum(), alone.sum())


def test_a_lake_of_before_answers_the_same_by_a_scan(
    client: TestClient, demo_lake: Path, open_service: Any, tmp_path: Path
) -> None:
    shutil.copytree(demo_lake, tmp_path / "lake")
    relocate(str(tmp_path / "lake"))
    shutil.rmtree(tmp_path / "lake" / "statistics")
    asked = ["funnel", "histograms", "corejection", "scores", "whatif", "whatif?visual.sharpness=200&estimate=true"]
    with open_service(Settings(data=str(tmp_path / "lake"), state_dir=tmp_path / "state")) as old:
        for path in asked:
            before, now = (each.get(f"/v1/datasets/demo/{path}").json() for each in (old, client))
            for name in [name for name in before if isinstance(before[name], float)]:
                assert now.pop(name) == pytest.approx(
                    before.pop(name), abs=1e-3
                )  # the commit counts whole microseconds
            assert now == before, path


@pytest.mark.parametrize("name", ["demo", "moviegen_256", "moviegen_768"])
def test_a_commit_knows_which_score_every_rule_compares(name: str) -> None:
    recipe = load_recipe(name)
    signals = rule_signals(recipe.model_dump(mode="json"))
    assert {rule.name: rule.signal for rule in recipe.all_rules}.items() <= signals.items()
