"""Previews: small, playable, made once, cut in ranges, and only of clips that are in the lake."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.previews import PreviewMaker
from api.settings import Settings
from curation.clips import UnreadableVideo
from curation.clips.frames import probe


def clip_of(clips: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(clip for clip in clips if Path(clip["uri"]).name.startswith(name))


def test_an_mpeg2_clip_becomes_something_browsers_play(
    client: TestClient, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    clip = clip_of(clips, "city_night_timelapse_mpeg2")
    assert probe(clip["uri"]).codec == "mpeg2video"
    response = client.get(f"/v1/clips/{clip['clip_id']}/preview.mp4")
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4")
    (tmp_path / "preview.mp4").write_bytes(response.content)
    facts = probe(str(tmp_path / "preview.mp4"))
    assert (facts.codec, facts.pixel_format) == ("h264", "yuv420p")
    assert facts.height <= 360 and facts.width / facts.height == pytest.approx(clip["width"] / clip["height"], rel=0.02)
    assert facts.claimed_seconds is not None and 0.5 < facts.claimed_seconds <= 4.05
    assert response.content.index(b"moov") < response.content.index(b"mdat"), "plays before it is whole"


def test_ranges_are_answered(client: TestClient, clips: list[dict[str, Any]]) -> None:
    url = f"/v1/clips/{clip_of(clips, 'bee')['clip_id']}/preview.mp4"
    whole = client.get(url).content
    part = client.get(url, headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    beyond = client.get(url, headers={"range": f"bytes={len(whole)}-"})
    assert beyond.status_code == 416


def test_a_portrait_clip_stays_portrait(client: TestClient, clips: list[dict[str, Any]], tmp_path: Path) -> None:
    from PIL import Image

    clip = clip_of(clips, "roof_portrait")
    assert clip["height"] > clip["width"]
    (tmp_path / "poster.webp").write_bytes(client.get(f"/v1/clips/{clip['clip_id']}/poster.webp").content)
    with Image.open(tmp_path / "poster.webp") as poster:
        assert poster.height > poster.width and poster.height <= 240


@pytest.fixture(scope="module")
def shared_maker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreviewMaker]:
    maker = PreviewMaker(Settings(cache_dir=tmp_path_factory.mktemp("previews")))
    yield maker
    maker.close()


@pytest.fixture
def maker(shared_maker: PreviewMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PreviewMaker:
    """With an empty cache; its child, which takes seconds to start, is the module's."""
    monkeypatch.setattr(shared_maker, "folder", tmp_path / "cache")
    return shared_maker


def test_many_ask_and_one_makes(maker: PreviewMaker, clips: list[dict[str, Any]]) -> None:
    clip = clip_of(clips, "odd_corrupt_middle")
    found: list[tuple[Path, int]] = []

    def ask() -> None:
        path = maker.get(clip, "mp4")
        found.append((path, os.stat(path).st_ino))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1, "one file, written once"
    assert [path.name for path in maker.folder.iterdir()] == [f"{clip['clip_id']}.mp4.preview"]


def test_the_cache_forgets_what_was_used_longest_ago(
    maker: PreviewMaker, clips: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "cache_bytes", 1)
    first, second = maker.get(clips[0], "webp"), maker.get(clips[1], "webp")
    assert not first.exists() and second.exists()
    assert maker.get(clips[0], "webp").exists() and not second.exists()


def test_a_source_that_is_gone_or_hangs_is_said(
    maker: PreviewMaker, clips: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreadableVideo, match="no file"):
        maker.get(clips[0] | {"uri": str(tmp_path / "gone.mp4")}, "mp4")
    os.mkfifo(tmp_path / "hangs.mp4")  # opening it for reading waits for ever
    with monkeypatch.context() as hurry:
        hurry.setattr(maker, "seconds", 0.5)
        with pytest.raises(UnreadableVideo):
            maker.get(clips[1] | {"uri": str(tmp_path / "hangs.mp4")}, "mp4")
    assert maker.get(clips[2], "webp").exists(), "the next one works"
    assert not list(maker.folder.glob(".*")), "nothing unfinished is left"


def test_what_was_made_outlives_its_source(maker: PreviewMaker, clips: list[dict[str, Any]], tmp_path: Path) -> None:
    video = tmp_path / "moved.mp4"
    shutil.copy(clip_of(clips, "bee")["uri"], video)
    clip = clip_of(clips, "bee") | {"uri": str(video)}
    assert maker.get(clip, "webp").exists()
    video.unlink()
    assert maker.get(clip, "webp").exists()
    with pytest.raises(UnreadableVideo):
        maker.get(clip, "mp4")
