"""Marks drawn over real clips are found where the picture moves, and nothing is claimed where it stands still."""

from pathlib import Path

import pytest

from benchmarks.degrade import overlay_mark, subtitle
from curation.clips.strip import make_strip
from curation.contracts import ClipView, Unmeasured
from curation.recipes import load_recipe
from curation.visual.logo import Logo
from tests.conftest import SAMPLES

THRESHOLD = next(rule.threshold for rule in load_recipe("demo").rules if rule.name == "visual.logo")


def view(path: Path) -> ClipView:
    d = make_strip(str(path), path.name)
    seconds = d.strip.clock.frame_seconds
    return ClipView(facts=d.facts, strip=d.strip, looks=[(float(seconds[i]), look) for i, look in d.looks])


@pytest.mark.parametrize(
    ("name", "corner", "alpha"),
    [("bee_720p.mp4", "top left", 0.5), ("toy_elf_480p.mp4", "bottom right", 1.0), ("roof_handheld_360p.mp4", "top right", 0.5)],
)  # fmt: skip
def test_a_mark_in_a_corner_is_found_and_as_large_as_it_is(
    name: str, corner: str, alpha: float, tmp_path: Path
) -> None:
    truth = overlay_mark(str(SAMPLES / name), str(tmp_path / name), corner, alpha)
    marked = view(tmp_path / name)
    scores = Logo().score(marked)
    assert scores["logo_score"] > THRESHOLD
    drawn = truth["box"][2] * truth["box"][3] / (marked.facts.width * marked.facts.height)
    assert 0.4 * drawn < scores["logo_share"] < 2.5 * drawn


def test_burned_in_letters_are_a_mark(tmp_path: Path) -> None:
    subtitle(str(SAMPLES / "toy_elf_480p.mp4"), str(tmp_path / "copy.mp4"))
    assert Logo().score(view(tmp_path / "copy.mp4"))["logo_score"] > THRESHOLD


@pytest.mark.parametrize(
    "name",
    ["bee_720p.mp4", "toy_elf_480p.mp4", "toy_elf_480p_vp8.webm", "roof_handheld_360p.mp4", "roof_portrait_pan_hdr10_av1.mp4",
     "pattern_sd_grey_bars.mp4", "odd_corrupt_middle.mp4"],
)  # fmt: skip
def test_moving_pictures_and_the_edges_of_their_borders_have_none(name: str) -> None:
    score = Logo().score(view(SAMPLES / name))["logo_score"]
    assert isinstance(score, float) and score <= THRESHOLD


@pytest.mark.parametrize(
    "name", ["bottles_static_360p.mp4", "screencast_hello_480p_theora.ogv", "flower_timelapse_540p_vp8.webm"]
)
def test_where_everything_stands_still_nothing_is_said(name: str) -> None:
    score = Logo().score(view(SAMPLES / name))["logo_score"]
    assert isinstance(score, Unmeasured) and "stands still" in score


def test_a_black_clip_shows_nothing() -> None:
    assert Logo().score(view(SAMPLES / "black_silent_10s.mp4"))["logo_score"] == Unmeasured("its pictures show nothing")


@pytest.mark.parametrize(
    "name", ["pattern_sd_large_logo_bars.mp4", "pattern_sd_small_logo_bars.mp4", "tractor_burnedtext_288p_vp9.webm"]
)
def test_marks_that_others_drew_are_found(name: str, shared_videos: Path) -> None:
    assert Logo().score(view(shared_videos / name))["logo_score"] > THRESHOLD
