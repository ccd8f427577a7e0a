"""The mix of landscape and portrait is a step of the whole set, and leaves its sentence on what it takes."""

from typing import Any

import pytest

from curation.content.orientation import surplus
from curation.decide import decide_clips
from curation.recipes import Recipe, load_recipe


def _clip(name: str, wide: bool) -> dict[str, Any]:
    width, height = (640, 360) if wide else (360, 640)
    return {"clip_id": name, "video_id": name, "uri": f"/{name}.mp4", "width": width, "height": height,
            "duration_seconds": 5.0, "shot_seconds": 5.0, "shot_rank": 1.0}  # fmt: skip


CLIPS = [_clip(f"w{i}", True) for i in range(40)] + [_clip(f"t{i}", False) for i in range(10)]


@pytest.mark.parametrize(("share", "wide", "tall"), [(0.6, 15, 10), (0.8, 40, 10), (0.9, 40, 4)])
def test_as_many_stay_as_the_share_allows(share: float, wide: int, tall: int) -> None:
    rows = decide_clips(CLIPS, {}, Recipe(name="mix", landscape_share=share))
    kept = [row["clip_id"] for row in rows if row["fate"] == "kept"]
    assert (sum(name[0] == "w" for name in kept), sum(name[0] == "t" for name in kept)) == (wide, tall)
    for row in rows:
        if row["fate"] == "rejected":
            assert (
                row["rule"] == "content.orientation"
                and row["value"] > row["threshold"]
                and "has room for" in row["reason"]
            )


def test_a_larger_set_keeps_what_a_smaller_one_kept_of_the_same_draws() -> None:
    names = [f"w{i}" for i in range(40)]
    small, drawn = surplus([True] * 40 + [False] * 8, [*names, *"abcdefgh"], 0.6)
    large, _ = surplus([True] * 40 + [False] * 12, [*names, *"abcdefghijkl"], 0.6)
    assert small.sum() == 28 and large.sum() == 22 and not (large[:40] & ~small[:40]).any()
    assert drawn[:40][small[:40]].min() > drawn[:40][~small[:40]].max()


def test_a_set_of_one_orientation_is_left_alone() -> None:
    gone, _ = surplus([True] * 5, list("abcde"), 0.6)
    assert not gone.any() and not surplus([], [], 0.6)[0].any()
    lonely, _ = surplus([True] * 99 + [False], [str(i) for i in range(100)], 0.6)
    assert not lonely.any(), "a mix that costs more than three quarters is not made"
    assert not surplus([True, False], ["a", "b"], 0.6)[0].all()


def test_the_papers_sets_have_the_papers_mix() -> None:
    assert load_recipe("moviegen_256").landscape_share == 0.6 and load_recipe("moviegen_768").landscape_share == 0.8
