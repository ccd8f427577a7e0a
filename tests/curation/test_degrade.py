"""Every copy has the fault it says it has, and is the same each time it is made."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.degrade import DEGRADATIONS, LONG_SIDE, SECONDS, freeze, letterbox, read, slideshow, speed_up, windowbox
from curation.clips.frames import probe
from curation.clips.strip import make_strip
from curation.contracts import ClipView
from curation.visual.borders import Borders
from tests.conftest import SAMPLES

SOURCE = str(SAMPLES / "beetle_bw_360p.mp4")


@pytest.mark.parametrize("fault", DEGRADATIONS)
def test_every_copy_is_short_small_and_says_what_is_true_of_it(fault: str, tmp_path: Path) -> None:
    degradation = DEGRADATIONS[fault]
    truth = degradation.make(SOURCE, str(tmp_path / "copy.mp4"))
    facts = probe(str(tmp_path / "copy.mp4"))
    assert truth and degradation.signals and max(facts.width, facts.height) <= LONG_SIDE
    assert facts.claimed_seconds is not None and 0 < facts.claimed_seconds <= SECONDS + 0.1


def test_a_copy_is_made_twice_the_same(tmp_path: Path) -> None:
    for name in ("first.mp4", "second.mp4"):
        DEGRADATIONS["noise"].make(SOURCE, str(tmp_path / name))
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


@pytest.mark.parametrize("make", [letterbox, windowbox])
def test_the_crop_box_is_where_the_borders_filter_finds_it(make, tmp_path: Path) -> None:
    truth = make(SOURCE, str(tmp_path / "copy.mp4"))
    decoded = make_strip(str(tmp_path / "copy.mp4"))
    scores = Borders().score(ClipView(facts=decoded.facts, strip=decoded.strip))
    assert all(scores[side] == pytest.approx(pixels, abs=4) for side, pixels in truth.items())


def test_pictures_stand_where_they_are_said_to(tmp_path: Path) -> None:
    path = str(tmp_path / "copy.mp4")
    held = freeze(SOURCE, path)["frozen_seconds"]
    frames, fps = read(path)
    steps = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
    middle = steps[round(held[0] * fps) + 1 : round(held[1] * fps) - 2]
    assert middle.max() < 0.5 < steps[: round(held[0] * fps) - 1].mean()
    stills = slideshow(SOURCE, path)["stills"]
    frames, _ = read(path)
    assert (np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3)) > 2).sum() == stills - 1


def test_a_faster_copy_is_as_much_shorter(tmp_path: Path) -> None:
    whole, _ = read(SOURCE, 16.0)
    speed_up(SOURCE, str(tmp_path / "copy.mp4"))
    assert len(read(str(tmp_path / "copy.mp4"))[0]) == -(-len(whole) // 4)
