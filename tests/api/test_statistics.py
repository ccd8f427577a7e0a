"""Histograms and what-if against the same counts made by hand from the rows."""

import operator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from curation.recipes import load_recipe

DATASET = "/v1/datasets/demo"
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
RULES = load_recipe("demo").all_rules


def fails(clip: dict[str, Any], thresholds: dict[str, float]) -> bool:
    return any(
        clip[rule.signal] is not None
        and not COMPARE[rule.comparison](clip[rule.signal], thresholds.get(rule.name, rule.threshold))
        for rule in RULES
    )


def test_nothing_changed_is_what_was_decided(client: TestClient, clips: list[dict[str, Any]]) -> None:
    counts = client.get(f"{DATASET}/whatif").json()["counts"]
    assert counts["kept"] == sum(clip["fate"] == "kept" for clip in clips)
    assert (counts["entering"], counts["leaving"], counts["unmeasured"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "thresholds",
    [
        {"visual.sharpness": 1000.0},
        {"motion.static": 0.05, "motion.jitter": 1.0},
        {"visual.borders": 1.0},
        {"visual.borders": 1.0, "motion.static": 1.0, "motion.amount": 0.0, "visual.text": 1.0, "visual.black": 0.0},
        {rule.name: 1e9 if rule.comparison in (">", ">=") else -1e9 for rule in RULES},
    ],
    ids=str,
)
def test_what_if_counts_what_the_rows_say(
    client: TestClient, clips: list[dict[str, Any]], thresholds: dict[str, float]
) -> None:
    told = client.get(f"{DATASET}/whatif", params=thresholds).json()
    aside = [str(clip["rule"]).startswith("content.") for clip in clips]
    passing = [not fails(clip, thresholds) and not left for clip, left in zip(clips, aside, strict=True)]
    lacking = [any(clip[rule.signal] is None for rule in RULES) and clip["fate"] != "kept" for clip in clips]
    kept = [passes and not lacks for passes, lacks in zip(passing, lacking, strict=True)]
    before = [clip["fate"] == "kept" for clip in clips]
    assert told["counts"] == {
        "clips": len(clips),
        "kept": sum(kept),
        "entering": sum(now and not then for now, then in zip(kept, before, strict=True)),
        "leaving": sum(then and not now for now, then in zip(kept, before, strict=True)),
        "unmeasured": sum(p and lacks for p, lacks in zip(passing, lacking, strict=True)),
        "set_aside": sum(left and not fails(clip, thresholds) for clip, left in zip(clips, aside, strict=True)),
    }
    assert {name: told["thresholds"][name] for name in thresholds} == thresholds


def test_histograms_count_every_measured_clip_once(client: TestClient, clips: list[dict[str, Any]]) -> None:
    signals = client.get(f"{DATASET}/histograms").json()["signals"]
    assert [found["signal"] for found in signals] == list(dict.fromkeys(rule.signal for rule in RULES))
    for found in signals:
        assert len(found["all"]) == len(found["kept"]) == len(found["only_this"]) == 64
        assert sum(found["all"]) + found["unmeasured"] == len(clips)
        measured = [clip for clip in clips if clip[found["signal"]] is not None]
        assert sum(found["kept"]) == sum(clip["fate"] == "kept" for clip in measured)
        assert all(k + o <= a for a, k, o in zip(found["all"], found["kept"], found["only_this"], strict=True))
        assert found["low"] < found["high"]
        for rule in found["rules"]:
            assert found["low"] <= rule["threshold"] <= found["high"]


def test_rules_that_reject_alone_agree_with_the_ledger(client: TestClient, clips: list[dict[str, Any]]) -> None:
    signals = client.get(f"{DATASET}/histograms").json()["signals"]
    rules = {rule["rule"]: rule for found in signals for rule in found["rules"]}
    assert any(rule["only_this"] for rule in rules.values())
    for name, rule in rules.items():
        assert rule["rejects"] == sum(name in clip["failed_rules"] for clip in clips)
        assert rule["only_this"] == sum(clip["failed_rules"] == [name] for clip in clips)


def test_scores_are_columns_of_the_same_clips(client: TestClient, clips: list[dict[str, Any]]) -> None:
    scores = client.get(f"{DATASET}/scores").json()
    by_id = {clip["clip_id"]: clip for clip in clips}
    assert scores["clips"] == len(clips) and sorted(scores["clip_id"]) == sorted(by_id)
    for i, clip_id in enumerate(scores["clip_id"]):
        clip = by_id[clip_id]
        assert (scores["kept"][i], scores["rule"][i]) == (clip["fate"] == "kept", clip["rule"])
        for signal, column in scores["signals"].items():
            assert column[i] == (None if clip[signal] is None else pytest.approx(clip[signal], rel=1e-6))


def test_more_clips_than_the_page_takes_are_sampled_by_hash(
    settings: Any, open_service: Any, clips: list[dict[str, Any]]
) -> None:
    with open_service(settings.model_copy(update={"score_sample": 5})) as few:
        scores = few.get(f"{DATASET}/scores").json()
    assert scores["clips"] == len(clips)
    assert sorted(scores["clip_id"]) == sorted(clip["clip_id"] for clip in clips)[:5]
    assert all(len(column) == 5 for column in scores["signals"].values())
