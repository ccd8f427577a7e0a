"""Insets made of real clips are found on moving and on still backgrounds; windows, facades and bars are none."""

from pathlib import Path

import pytest

from benchmarks.degrade import inset, pillarbox
from curation.clips.strip import make_strip
from curation.contracts import ClipView
from curation.recipes import load_recipe
from curation.visual.picture_in_picture import PictureInPicture
from tests.conftest import SAMPLES

THRESHOLD = next(rule.threshold for rule in load_recipe("demo").rules if rule.name == "visual.picture_in_picture")


def view(path: Path) -> ClipView:
    d = make_strip(str(path), path.name)
    seconds = d.strip.clock.frame_seconds
    return ClipView(facts=d.facts, strip=d.strip, looks=[(float(seconds[i]), look) for i, look in d.looks])


@pytest.mark.parametrize(
    ("small", "large", "corner", "share"),
    [
        ("bee_720p.mp4", "roof_handheld_360p.mp4", "top left", 0.3),
        ("bottles_static_360p.mp4", "toy_elf_480p.mp4", "bottom right", 0.25),
        ("roof_handheld_360p.mp4", "bottles_static_360p.mp4", "top right", 0.35),
    ],
)
def test_an_inset_is_found_and_as_large_as_it_is(
    small: str, large: str, corner: str, share: float, tmp_path: Path
) -> None:
    truth = inset(str(SAMPLES / small), str(tmp_path / "copy.mp4"), str(SAMPLES / large), corner, share)
    scores = PictureInPicture().score(view(tmp_path / "copy.mp4"))
    assert scores["inset_score"] > THRESHOLD
    assert scores["inset_share"] == pytest.approx(truth["share"], rel=0.25)


def test_the_webcam_over_the_screen_is_found() -> None:
    scores = PictureInPicture().score(view(SAMPLES / "screencast_hello_480p_theora.ogv"))
    assert scores["inset_score"] > THRESHOLD
    assert scores["inset_share"] == pytest.approx(0.06, abs=0.02)


@pytest.mark.parametrize(
    "name",
    ["bee_720p.mp4", "bottles_static_360p.mp4", "flower_timelapse_540p_vp8.webm", "pattern_sd_grey_bars.mp4",
     "roof_handheld_360p.mp4", "roof_portrait_pan_hdr10_av1.mp4", "toy_elf_480p.mp4"],
)  # fmt: skip
def test_whole_pictures_have_none(name: str) -> None:
    assert PictureInPicture().score(view(SAMPLES / name))["inset_score"] <= THRESHOLD


def test_bars_are_no_inset(tmp_path: Path) -> None:
    pillarbox(str(SAMPLES / "toy_elf_480p.mp4"), str(tmp_path / "copy.mp4"))
    assert PictureInPicture().score(view(tmp_path / "copy.mp4"))["inset_score"] <= THRESHOLD
