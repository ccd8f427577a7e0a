"""The strip, the shots and the filters against what a person saw in the sample clips (samples/SOURCES.csv)."""

import csv
from functools import cache

import numpy as np
import pytest

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import probe, read_frames
from curation.clips.strip import Decoded, make_strip, read_strip, write_strips
from curation.contracts import ClipView, Unmeasured
from curation.motion.jitter import Jitter
from curation.motion.static import Static
from curation.motion.vmaf_motion import VmafMotion
from curation.shots import pyscenedetect
from curation.shots.strip_detector import find_cuts
from curation.visual.borders import Borders
from curation.visual.brightness import Brightness
from curation.visual.text import Text
from tests.conftest import SAMPLES

with (SAMPLES / "SOURCES.csv").open() as _file:
    ROWS = {row["file"]: row for row in csv.DictReader(_file)}
READABLE = [name for name in ROWS if name != "odd_invalid_bitstream_vp9.webm"]


@cache
def decoded(name: str) -> Decoded:
    return make_strip(str(SAMPLES / name), name)


def view(name: str) -> ClipView:
    d = decoded(name)
    seconds = d.strip.clock.frame_seconds
    return ClipView(facts=d.facts, strip=d.strip, looks=[(float(seconds[i]), look) for i, look in d.looks])


@pytest.mark.parametrize("name", READABLE)
def test_cuts_are_found_at_their_frames_and_nowhere_else(name: str) -> None:
    labelled = [int(frame) for frame in ROWS[name]["hard_cuts"].split()]
    assert [cut.frame for cut in find_cuts(decoded(name).strip)] == labelled


def test_pyscenedetect_is_selectable_and_finds_the_same_cut() -> None:
    name = "city_night_timelapse_mpeg2.mpg"
    cuts = pyscenedetect.find_cuts(str(SAMPLES / name), decoded(name).strip, "content")
    assert 116 in [cut.frame for cut in cuts]


@pytest.mark.parametrize("name", READABLE)
def test_size_and_duration_are_as_displayed_and_decoded(name: str) -> None:
    d, row = decoded(name), ROWS[name]
    assert (d.facts.width, d.facts.height) == (int(row["width"]), int(row["height"]))
    assert d.strip.clock.duration_seconds == pytest.approx(float(row["duration_seconds"]), abs=0.15)
    assert d.facts.has_audio == (row["has_audio"] == "yes")


def test_borders_are_found_where_there_are_bars_and_not_in_a_dark_scene() -> None:
    bars = Borders().score(view("pattern_sd_grey_bars.mp4"))
    assert bars["crop_left"] == pytest.approx(32, abs=4) and bars["crop_width"] == pytest.approx(416, abs=4)
    rim = Borders().score(view("toy_elf_480p.mp4"))
    assert rim["crop_left"] == pytest.approx(8, abs=2) and rim["crop_width"] == pytest.approx(704, abs=5)
    assert Borders().score(view("nasa_13013_multishot_270p.mp4"))["border_share"] == 0
    black = Borders().score(view("black_silent_10s.mp4"))["border_share"]
    assert black == Unmeasured("its pictures are nearly all dark"), "a black clip says nothing about borders"


def test_text_is_read_on_the_screencast_and_not_on_the_beetle() -> None:
    screencast, beetle = (
        Text().score(view("screencast_hello_480p_theora.ogv")),
        Text().score(view("beetle_bw_360p.mp4")),
    )
    assert screencast["text_score"] is not None and beetle["text_score"] is not None
    assert screencast["text_score"] >= 0.6 > beetle["text_score"]


def test_static_shaky_and_lively_clips_are_told_apart() -> None:
    still, lively = (
        Static().score(view(n))["static_share"] for n in ("screencast_hello_480p_theora.ogv", "toy_elf_480p.mp4")
    )
    assert still is not None and lively is not None and still > 0.9 and lively < 0.1
    shaken, locked = (Jitter().score(view(n))["jitter"] for n in ("roof_handheld_360p.mp4", "bottles_static_360p.mp4"))
    assert shaken is not None and locked is not None and shaken > 2.4 > 1 > locked


@pytest.mark.parametrize(
    ("name", "published"),
    [("bee_720p.mp4", 7.897), ("toy_elf_480p.mp4", 6.459), ("beetle_bw_360p.mp4", 1.452), ("bottles_static_360p.mp4", 0.502),
     ("roof_handheld_360p.mp4", 9.593), ("pattern_sd_grey_bars.mp4", 11.896), ("flower_timelapse_540p_vp8.webm", 1.107)],
)  # fmt: skip
def test_vmaf_motion_is_near_ffmpegs_own_filter(name: str, published: float) -> None:
    measured = VmafMotion().score(view(name))["vmaf_motion"]
    assert measured is not None and 0.7 < measured / published < 1.45, f"{measured:.2f} against {published}"


def test_black_is_black() -> None:
    assert Brightness().score(view("black_silent_10s.mp4"))["brightness"] == pytest.approx(16, abs=1)


def test_a_strip_survives_storage_and_gives_spans(tmp_path) -> None:
    first, second = decoded("toy_elf_480p.mp4").strip, decoded("bee_720p.mp4").strip
    path = str(tmp_path / "shard.parquet")
    write_strips(path, [first, second])
    again = read_strip(path, "bee_720p.mp4")
    assert np.array_equal(again.clock.pts, second.clock.pts) and again.clock.end_pts == second.clock.end_pts
    for name, values in second.signals.items():
        assert np.array_equal(again.signals[name], values, equal_nan=True), name
    span = read_strip(path, "toy_elf_480p.mp4", 1.0, 2.0)
    assert len(span) == 30 and span.clock.pts[0] == first.clock.pts[30]


def test_strips_stay_below_four_kilobytes_a_second(tmp_path) -> None:
    strips = [decoded(name).strip for name in READABLE]
    path = tmp_path / "shard.parquet"
    write_strips(str(path), strips)
    seconds = sum(strip.clock.duration_seconds for strip in strips)
    assert path.stat().st_size / seconds < 4_000


def test_frames_are_read_at_their_times_upright_and_without_borders() -> None:
    d = decoded("pattern_sd_grey_bars.mp4")
    clip = {
        "uri": str(SAMPLES / "pattern_sd_grey_bars.mp4"), "stream_index": d.facts.stream_index,
        "start_pts": int(d.strip.clock.pts[60]), "end_pts": int(d.strip.clock.pts[150]),
        "time_base_numerator": d.facts.time_base.numerator, "time_base_denominator": d.facts.time_base.denominator,
        "width": 480, "height": 720,
    }  # fmt: skip
    whole = read_frames(clip, [0.0, 1.0, 2.0], 90, 60)
    assert whole.shape == (3, 90, 60, 3) and whole[:, :, :3].mean() < 30 < whole.mean()
    box = {"crop_left": 32, "crop_top": 0, "crop_width": 416, "crop_height": 720}
    inner = read_frames(clip | box, [0.0, 1.0, 2.0], 90, 52)
    assert inner[:, :, :3].mean() > 60
    everything = read_frames(
        clip | {"start_pts": 0}, [2.0, 3.0], 90, 60
    )  # the same instants, counted from the video's start
    assert np.array_equal(everything[0], whole[0]) and np.array_equal(everything[1], whole[1])


def test_what_cannot_be_read_says_why(tmp_path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    words = tmp_path / "words.mp4"
    words.write_text("this is no video")
    picture = tmp_path / "picture.mp4"
    picture.write_bytes(decoded("bee_720p.mp4").looks[0][1])
    cases = {str(empty): "empty", str(words): "unreadable", str(tmp_path / "nothing.mp4"): "missing",
             str(SAMPLES / "odd_invalid_bitstream_vp9.webm"): "nothing_decodes", str(picture): "format_not_allowed"}  # fmt: skip
    for path, cause in cases.items():
        with pytest.raises(UnreadableVideo) as caught:
            probe(path)
        assert caught.value.cause == cause, f"{path}: {caught.value.cause}, {caught.value}"
