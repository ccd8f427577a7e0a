"""What a recipe decides from scores: rules, copies, balance, held-out split, and the sentence each leaves behind."""

from typing import Any

import numpy as np
import pytest

from curation.content.concept_balance import clusters, draws, keep_probability
from curation.content.near_duplicates import duplicate_groups
from curation.decide import decide_clips, decide_video
from curation.ledger import check, counts_of
from curation.recipes import Recipe, Rule


def _clip(name: str, **signals: Any) -> dict[str, Any]:
    base = {"clip_id": name, "video_id": f"v-{name}", "uri": f"/{name}.mp4", "width": 640, "height": 360,
            "duration_seconds": 5.0, "shot_seconds": 5.0, "shot_rank": 1.0, "sharpness": 100.0}  # fmt: skip
    return base | signals


RULES = (
    Rule(name="visual.sharpness", signal="sharpness", comparison=">=", threshold=50),
    Rule(name="motion.static", signal="static_share", comparison="<=", threshold=0.5),
)
RECIPE = Recipe(name="test", rules=RULES)


def test_the_first_failure_in_recipe_order_is_named_and_all_are_listed() -> None:
    [row] = decide_clips([_clip("a", sharpness=10.0, static_share=0.9)], {}, RECIPE)
    assert (row["fate"], row["stage"], row["rule"]) == ("rejected", "visual", "visual.sharpness")
    assert (row["value"], row["comparison"], row["threshold"]) == (10.0, ">=", 50.0)
    assert row["reason"] == "sharpness 10 is below 50" and row["failed_rules"] == ["visual.sharpness", "motion.static"]


def test_unmeasured_is_not_failed() -> None:
    [row] = decide_clips([_clip("a", static_share=None)], {}, RECIPE)
    assert row["fate"] == "kept" and row["unmeasured"] == ["motion.static"] and row["reason"] is None


def test_a_value_just_at_the_threshold_is_kept() -> None:
    [row] = decide_clips([_clip("a", sharpness=50.0, static_share=0.5)], {}, RECIPE)
    assert row["fate"] == "kept"


def test_the_better_of_two_copies_stays() -> None:
    generator = np.random.default_rng(0)
    vector, other = generator.normal(size=(2, 64)).astype(np.float32)
    vectors = {"small": vector, "large": vector + 0.01, "other": other}
    vectors = {name: v / np.linalg.norm(v) for name, v in vectors.items()}
    clips = [_clip("small"), _clip("large", width=1280, height=720), _clip("other")]
    rows = {
        r["clip_id"]: r
        for r in decide_clips(clips, vectors, RECIPE.model_copy(update={"near_duplicate_similarity": 0.95}))
    }
    assert rows["small"]["fate"] == "duplicate" and rows["small"]["duplicate_of"] == "large"
    assert rows["large"]["fate"] == rows["other"]["fate"] == "kept"
    assert rows["small"]["split"] == rows["large"]["split"], "copies never stand on both sides of the held-out split"


def test_a_rejected_clip_makes_no_copy_of_a_good_one() -> None:
    vector = np.ones(8, np.float32) / np.sqrt(8)
    clips = [_clip("blurred", sharpness=1.0, width=4000), _clip("good")]
    rows = decide_clips(
        clips, {"blurred": vector, "good": vector}, RECIPE.model_copy(update={"near_duplicate_similarity": 0.9})
    )
    assert [r["fate"] for r in rows] == ["rejected", "kept"]


def test_groups_are_connected_components() -> None:
    angles = np.deg2rad([0, 10, 20, 90])
    groups, nearest = duplicate_groups(
        np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), np.cos(np.deg2rad(11))
    )
    assert groups.tolist() == [0, 0, 0, 3]
    assert nearest[0] == pytest.approx(np.cos(angles[1]), abs=1e-5)


def test_large_concepts_are_thinned_by_the_inverse_square_root_of_their_size() -> None:
    cluster = np.array([0] * 400 + [1] * 4)
    share = keep_probability(cluster, keep_below=4)
    assert share[0] == pytest.approx((4 / 400) ** 0.5) and share[-1] == 1
    drawn = draws([f"clip-{i}" for i in range(20_000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.01) and drawn.min() >= 0 and drawn.max() < 1
    assert np.array_equal(draws(["a", "b"]), draws(["a", "b"]))


def test_concepts_are_clusters_of_direction() -> None:
    generator = np.random.default_rng(1)
    centres = np.eye(32, dtype=np.float32)[:3]
    vectors = np.repeat(centres, 3, axis=0) + generator.normal(scale=0.02, size=(9, 32)).astype(np.float32)
    found = clusters(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    assert [len(set(found[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1] and len(set(found)) == 3


def test_a_video_sums_up_its_clips() -> None:
    video = {"uri": "/v.mp4", "video_id": "v", "cause": None, "error": None}
    rejected = [{"fate": "rejected", "rule": "motion.static"}] * 3 + [{"fate": "rejected", "rule": "visual.text"}]
    row = decide_video(video, rejected, None, RECIPE)
    assert row["fate"] == "rejected" and row["reason"] == "no clip survived: 3 x motion.static, 1 x visual.text"
    assert decide_video(video, [*rejected, {"fate": "kept", "rule": None}], None, RECIPE)["fate"] == "kept"
    broken = decide_video(video | {"cause": "empty", "error": "the file has zero bytes"}, [], None, RECIPE)
    assert (broken["fate"], broken["rule"], broken["reason"]) == (
        "quarantined",
        "source.empty",
        "the file has zero bytes",
    )
    assert decide_video(video, [], "/first.mp4", RECIPE)["duplicate_of"] == "/first.mp4"


def test_a_lost_row_stops_the_commit() -> None:
    rows = [{"kind": "video", "fate": "kept"}, {"kind": "clip", "fate": "kept"}, {"kind": "clip", "fate": "rejected"}]
    check(counts_of(rows), videos_in=1, clips_in=2)
    with pytest.raises(AssertionError, match="3 clips entered"):
        check(counts_of(rows), videos_in=1, clips_in=3)
