"""Hostile media through the real door: nobody but the decoder's child dies, every file gets its row and its reason, nothing else is read."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from curation.clips import Lake, UnreadableVideo, WrongCall
from curation.clips.frames import Scan, decode_look
from curation.clips.storage import local_copy
from curation.measure import Measurement, Video, facts_of_row, measure
from curation.pipeline import curate
from curation.prison import Prison
from curation.recipes import load_recipe
from curation.sources.footage import find_footage
from curation.workers import Identifier
from tests.conftest import SAMPLES
from tests.hostile_media import SECRET, make_hostile, make_odd_entries

QUICK = (
    "hls.mp4", "hls_file_url.mkv", "ffconcat.mp4", "ffconcat_sibling.mkv", "dref_outside.mov", "archive.mp4", "drawing.mp4", "empty.mp4",
    "random.mp4", "moov_twice.mp4", "nested_10000_deep.mp4", "mdat_negative.mp4", "timescale_0.mp4", "stts_of_4_billion.mp4",
    "stsz_all_of_2_gib.mp4", "edit_backwards.mp4", "pixels_4_billion_wide.mp4", "fragments_cut_0.55.mp4", "header_flipped_3.mp4",
    "cut_60.mkv", "zeroed.ts", "huge_photographs.mkv", "sound_only.mp4", "grows_in_the_middle.ts", "times_backwards.mkv", "line\nbreak.mp4",
)  # fmt: skip
SECONDS = 30.0  # that a file may take
CHILD_BYTES = 2 << 30


class Door:
    """What a worker of Ray does with a file, in this process: identity, container, decode, scores."""

    def __init__(self) -> None:
        self.identifier, self.prison = Identifier(), Prison()

    def __call__(self, path: Path) -> tuple[dict[str, Any], Measurement | None]:
        found = self.identifier({"uri": str(path)})
        if found["cause"] is not None:
            return found, None
        video = Video(
            uri=str(path), video_id=found["sha256"][:32], sha256=found["sha256"], size=found["size"], facts=facts_of_row(found)
        )  # fmt: skip
        measured = measure(video, load_recipe("demo"), False, self.prison, "", {})
        return measured.video, measured

    @property
    def peak(self) -> int:
        return max(self.identifier.prison.peak_bytes, self.prison.peak_bytes)

    def close(self) -> None:
        self.identifier.prison.close()
        self.prison.close()


def test_some_hostile_files_get_a_reason_or_a_number(tmp_path: Path) -> None:
    paths = make_hostile(tmp_path / "in", QUICK)
    assert [Path(each.uri) for each in find_footage([str(tmp_path / "in")])[0]] == sorted(paths)
    door, causes, slowest = Door(), Counter[str](), 0.0
    door(paths[-1])  # models are loaded once, and are nobody's fault
    for path in paths:
        started = time.monotonic()
        row, measured = door(path)
        slowest = max(slowest, time.monotonic() - started)
        causes[row.get("cause") or "measured"] += 1
        if row.get("cause"):
            assert len(row["error"]) > 10 and row["attempts"] in (1, 2)
        else:
            assert measured is not None and all(
                json.loads(clip["unmeasured_signals"]) is not None for clip in measured.clips
            )
    door.close()
    print({"files": len(paths), "seconds at most": round(slowest, 1), "child MiB": door.peak >> 20}, dict(causes))
    assert slowest < SECONDS and door.peak < CHILD_BYTES and "" not in causes


def test_what_is_no_regular_file_neither_enters_nor_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    [inside] = make_hostile(folder, ["two_pictures.mp4"])
    make_odd_entries(folder)
    (folder / b"not utf-8 \xff.mp4".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    found, passed_over = find_footage([str(folder)])
    assert [each.uri for each in found] == [str(inside)] and passed_over == 7
    for odd in ("fifo.mp4", "device.mp4", "socket.mp4"):
        with pytest.raises(WrongCall, match="neither a file nor a folder"):
            find_footage([str(folder / odd)])
        with pytest.raises(UnreadableVideo, match="no regular file"), local_copy(str(folder / odd)):
            pass
    door = Door()
    row, _ = door(folder / "fifo.mp4")  # as a list may name it
    door.close()
    assert row["cause"] == "missing"


def looks_like(path: Path) -> list[np.ndarray]:
    """Small pictures of a video, one a second."""
    return [cv2.resize(decode_look(look), (16, 9)).astype(int) for batch in Scan(str(path)) for _, look in batch.looks]


def test_a_list_in_a_video_s_clothes_shows_nothing_of_other_files(tmp_path: Path) -> None:
    """Whatever decodes of files that name another one, none of its pictures are that one's."""
    names = ["hls.mp4", "hls_sibling.mp4", "hls_file_url.mkv", "hls_http.mp4", "ffconcat.mp4", "ffconcat_sibling.mkv", "ffconcat_http.mp4",
             "dash.mp4", "sdp.mp4", "drawing.mp4", "two_pictures.mp4"]  # fmt: skip
    paths = make_hostile(tmp_path / "in", names)
    assert looks_like(tmp_path / SECRET), "the one that is named can be read"
    for path in paths[:-1]:
        with pytest.raises(UnreadableVideo) as caught:
            looks_like(path)
        assert caught.value.cause in ("format_not_allowed", "unreadable")
        assert SECRET not in str(caught.value)


@pytest.mark.slow
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    [huge] = make_hostile(tmp_path / "in", ["huge.mp4"])
    door = Door()
    row, _ = door(huge)
    door.close()
    assert row["cause"] == "too_large" and "12000x12000" in row["error"]
    assert door.peak < 300 << 20, "one decoded picture of that size takes 216 MB more than the 160 of the process"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_hostile_files_in_one_run(ray_cluster: None, tmp_path: Path) -> None:
    """Through Ray, with healthy neighbours: in = kept + rejected + duplicate + quarantined, a row and a reason each."""
    paths = make_hostile(tmp_path / "in")
    make_odd_entries(tmp_path / "in")
    healthy = [SAMPLES / "bee_720p.mp4", SAMPLES / "beetle_bw_360p.mp4"]
    peaks: list[float] = []
    started = time.monotonic()
    sources = [str(tmp_path / "in"), *map(str, healthy)]
    commit = curate(
        sources, load_recipe("demo"), str(tmp_path / "lake"), progress=lambda p: peaks.append(p.costs.get("peak_bytes", 0))
    )  # fmt: skip
    seconds = time.monotonic() - started
    ledger = Lake(str(tmp_path / "lake")).snapshot("demo").table("ledger").to_pylist()
    rows = [row for row in ledger if row["kind"] == "video"]
    names = [name for name in (path.name for path in paths) if name.isprintable() or "\udcff" not in name]
    assert sorted(Path(row["uri"]).name for row in rows) == sorted([*names, *(path.name for path in healthy)])
    assert all(row["reason"] for row in rows if row["fate"] != "kept")
    fates = Counter(row["fate"] for row in rows)
    assert sum(fates.values()) == commit.counts["videos_in"] == len(names) + len(healthy)
    parts = [commit.counts[f"videos_{fate}"] for fate in ("kept", "rejected", "duplicate", "quarantined")]
    assert sum(parts) == commit.counts["videos_in"]
    assert {row["fate"] for row in rows if Path(row["uri"]) in healthy} <= {"kept", "duplicate"}
    causes = Counter(row["rule"] for row in rows if row["fate"] == "quarantined")
    print(
        {"files": len(rows), "seconds": round(seconds), "worker and child MiB": int(max(peaks)) >> 20},
        dict(fates),
        dict(causes),
    )
    assert len(rows) >= 150 and max(peaks) < CHILD_BYTES + (1 << 30)
