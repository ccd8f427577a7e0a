"""Clips cut from real videos, decoded again and compared with their source frame by frame, and by ear."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest

from api.cli import main
from curation import cut as cutting_room
from curation.clips import Lake, UnreadableVideo, WrongCall
from curation.clips.commits import Commit
from curation.clips.cutting import CutFile, Span, Way, cut
from curation.clips.frames import ScanEnd, _decoded, _open, _stream, _upright, probe
from curation.cut import cut_clips, cut_video, index_uri
from curation.pipeline import Progress, curate
from curation.prison import Prison
from curation.recipes import Recipe
from tests.conftest import SAMPLES

READABLE = sorted(p.name for p in SAMPLES.iterdir() if p.suffix not in (".md", ".csv") and "invalid" not in p.name)
SHARED = [  # what is special about it
    "bbb_sky_1080p_hevc.ts",  # MPEG-TS that starts at 1.48 s, HEVC in Annex B
    "roof_portrait_1080p_hevc10.mp4",  # edit list: 86 packets, 77 presented frames; 10 bit; rotated
    "ladybug_288p_vc1.wmv",  # time stamps in decode order
    "odd_vfr_cups.mp4",  # variable frame rate
    "screencast_hello_480p_mpeg2.mpg",  # MPEG-PS, open groups of pictures
    "apollo_moonwalk_240p_vp9.mp4",  # sample aspect ratio 45:44
    "dog_in_bed_720p_rot270flag.mp4",
    "fireplace_dog_720p_rot180flag.mp4",
    "asl_bird_480p.mkv",  # starts at 33 ms
    "odd_avi_mpeg4_960x400.avi",
    "odd_size_641x359.mp4",
    "odd_h265_10bit.mp4",
    "odd_vvc_codec_5s.mp4",
    "bbb_opening_multishot_720p_vp8.webm",
]
CANNOT_BE_COPIED = {"ladybug_288p_vc1.wmv", "odd_corrupt_middle.mp4"}
MAY_BE_ENCODED = {"odd_vvc_codec_5s.mp4"}  # where the clip starts before the first key picture


@dataclass
class Decoded:
    stamps: list[int]
    end: int
    base: Fraction
    stream_index: int
    pictures: list[bytes]
    damaged: bool


def raw(frame: av.VideoFrame) -> bytes:
    """The picture as decoded, without the padding of its lines."""
    parts = []
    for plane, component in zip(frame.planes, frame.format.components, strict=False):
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)
        parts.append(lines[:, : component.width * (2 if component.bits > 8 else 1)].tobytes())
    return b"".join(parts)


def decode(path: Path) -> Decoded:
    end = ScanEnd()
    with _open(str(path)) as container:
        stream = _stream(container)
        found = [(stamp, raw(frame)) for stamp, frame in _decoded(container, stream, end)]
        base, index = Fraction(stream.time_base), stream.index
    return Decoded([s for s, _ in found], end.end_pts, base, index, [p for _, p in found], end.decode_errors > 0)


@lru_cache(maxsize=1)  # tests of one file follow one another
def source_of(path: Path) -> Decoded:
    return decode(path)


def spans(source: Decoded) -> list[Span]:
    """Two spans that begin on no keyframe, as a rule, and the video's last and first frames."""
    n = len(source.stamps)
    cuts = [(n // 4, n // 4 + 10), (n // 2, n // 2 + 7), (n - 5, n), (0, 6)]
    stamps = [*source.stamps, source.end]
    return [
        Span(clip_id=f"{first:032x}", stream_index=source.stream_index, start_pts=stamps[first], end_pts=stamps[last],
             time_base=source.base, num_frames=last - first)
        for first, last in cuts
    ]  # fmt: skip


def colours(path: Path, start: int, number: int) -> Iterator[np.ndarray]:
    """Displayed pictures as numbers, RGB."""
    with _open(str(path)) as container:
        for i, (_, frame) in enumerate(_decoded(container, _stream(container))):
            if start <= i < start + number:
                rotation = round(frame.rotation / 90) * 90 % 360
                yield _upright(frame.to_ndarray(format="rgb24"), rotation).astype(np.float32)


def on_the_clock(piece: CutFile, got: list[int], span: Span, stamps: list[int]) -> None:
    tick = max(piece.time_base, span.time_base)
    for here, there in zip(got, stamps, strict=True):
        assert abs((here - piece.start_pts) * piece.time_base - (there - span.start_pts) * span.time_base) <= tick
    assert abs((piece.end_pts - piece.start_pts) * piece.time_base - (span.end - span.start)) <= tick


@pytest.mark.parametrize("way", ["copy", "exact"])
@pytest.mark.parametrize("name", [*READABLE, *SHARED])
def test_a_cut_file_is_its_clip_frame_by_frame(
    name: str, way: Way, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = (request.getfixturevalue("shared_videos") if name in SHARED else SAMPLES) / name
    source, shown = source_of(path), probe(str(path))
    wanted = spans(source)
    pieces = cut(str(path), wanted, str(tmp_path), way, damaged=source.damaged)
    assert [p.error for p in pieces] == [None] * len(wanted)
    if way == "copy" and name not in MAY_BE_ENCODED:
        assert {p.way for p in pieces} == {"exact" if name in CANNOT_BE_COPIED else "copy"}, [p.why for p in pieces]
    for span, piece in zip(wanted, pieces, strict=True):
        assert piece.file is not None and (piece.why is None) == (piece.way == way)
        first = source.stamps.index(span.start_pts)
        file = tmp_path / piece.file
        got = decode(file)
        clip = slice(piece.in_frame, piece.in_frame + piece.num_frames)
        assert piece.num_frames == span.num_frames
        on_the_clock(piece, got.stamps[clip], span, source.stamps[first : first + span.num_frames])
        facts = probe(str(file))
        assert (facts.width, facts.height) == (shown.width, shown.height)
        if piece.way == "copy":
            assert got.pictures[clip] == source.pictures[first : first + span.num_frames], "bit by bit"
            assert facts.rotation == shown.rotation and facts.sample_aspect_ratio == shown.sample_aspect_ratio
            continue
        assert len(got.stamps) == span.num_frames and piece.in_frame == 0 and got.stamps[0] == 0
        assert got.end == piece.end_pts, "the last frame is shown as long as in its source"
        for ours, theirs in zip(colours(file, 0, span.num_frames), colours(path, first, span.num_frames), strict=True):
            psnr = 10 * np.log10(255**2 / max(1e-9, float(((ours - theirs) ** 2).mean())))
            assert psnr > 35, f"{psnr:.1f} dB"


# --- sound ------------------------------------------------------------------------------------------------------------


def heard(path: Path) -> tuple[float, int, np.ndarray]:
    """Time of the first sample on the file's clock, rate, and all samples of the best audio stream as one channel."""
    with _open(str(path)) as container:
        stream = container.streams.best("audio", related=_stream(container))
        frames = [frame for packet in container.demux(stream) for frame in packet.decode()]
        blocks = [b.to_ndarray() for f in frames for b in av.AudioResampler("fltp", "mono", f.sample_rate).resample(f)]
        return float(frames[0].pts * frames[0].time_base), frames[0].sample_rate, np.concatenate(blocks, axis=1)[0]


def excerpt(path: Path, start: float, seconds: float) -> np.ndarray:
    first, rate, samples = heard(path)
    at = round((start - first) * rate)
    return samples[max(0, at) : at + round(seconds * rate)]


@pytest.mark.parametrize("way", ["copy", "exact"])
@pytest.mark.parametrize(
    ("name", "frames"),
    [("bee_720p.mp4", (40, 90)), ("toy_elf_480p.mp4", (70, 130)), ("toy_elf_480p_vp8.webm", (70, 130)),
     ("nasa_13013_multishot_270p.mp4", (100, 160)), ("roof_portrait_pan_hdr10_av1.mp4", (30, 80)),
     ("bbb_sky_1080p_hevc.ts", (40, 80)), ("screencast_hello_480p_mpeg2.mpg", (100, 160)), ("bbb_opening_multishot_720p_vp8.webm", (283, 340))],
)  # fmt: skip
def test_sound_stays_with_its_pictures(
    name: str, frames: tuple[int, int], way: Way, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path = (request.getfixturevalue("shared_videos") if name in SHARED else SAMPLES) / name
    source = source_of(path)
    first, last = frames
    span = Span(clip_id="c", stream_index=source.stream_index, start_pts=source.stamps[first], end_pts=source.stamps[last],
                time_base=source.base, num_frames=last - first)  # fmt: skip
    [piece] = cut(str(path), [span], str(tmp_path), way)
    assert piece.way == way and piece.file is not None
    margin, length = 0.1, float(span.end - span.start) - 0.2  # within, so that both hold every sample
    theirs = excerpt(path, float(span.start) + margin, length)
    ours = excerpt(tmp_path / piece.file, float(piece.start_pts * piece.time_base) + margin, length)
    size = min(len(ours), len(theirs))
    ours, theirs = ours[:size], theirs[:size]
    assert theirs.std() > 1e-4, "a silent excerpt proves nothing"
    spectrum = np.fft.rfft(ours, 2 * size) * np.conj(np.fft.rfft(theirs, 2 * size))
    correlation = np.fft.irfft(spectrum)
    lag = int(correlation.argmax())
    lag -= 2 * size if lag > size else 0
    likeness = correlation.max() / np.sqrt((ours**2).sum() * (theirs**2).sum())
    rate = heard(path)[1]
    assert abs(lag) / rate < 0.002 and likeness > 0.95, f"{1000 * lag / rate:.1f} ms, {likeness:.3f}"
    if way == "exact":
        start, rate, samples = heard(tmp_path / piece.file)
        assert abs(start) < 0.001 and len(samples) / rate < float(span.end - span.start) + 1024 / rate


# --- groups of pictures that lean on their neighbours -------------------------------------------------------------------


def leaning(path: Path, codec: str, options: dict[str, str]) -> None:
    """A bar that moves over noise, 90 frames, in open groups of 15 pictures with B-frames."""
    noise = np.random.default_rng(0).integers(0, 80, (96, 128, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for i in range(90):
            picture = noise.copy()
            picture[:, i : i + 20] += 100
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [("libx264", "mp4", {"x264-params": "keyint=15:min-keyint=15:open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}),
     ("libx264", "ts", {"x264-params": "keyint=15:min-keyint=15:open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}),
     ("libx264", "ts", {"x264-params": "keyint=15:intra-refresh=1:bframes=0:scenecut=0"}),
     ("libx265", "mp4", {"x265-params": "keyint=15:min-keyint=15:open-gop=1:bframes=3:scenecut=0:log-level=none:pools=none:frame-threads=1"}),
     ("mpeg2video", "mpg", {"g": "15", "bf": "2"}),
     ("mpeg4", "avi", {"g": "15", "bf": "2"})],
)  # fmt: skip
def test_open_groups_and_recovery_points_are_cut_where_a_decoder_can_begin(
    codec: str, suffix: str, options: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / f"leaning.{suffix}"
    leaning(path, codec, options)
    source = decode(path)
    stamps = [*source.stamps, source.end]
    wanted = [
        Span(clip_id=f"{first}", stream_index=0, start_pts=stamps[first], end_pts=stamps[first + 12], time_base=source.base, num_frames=12)
        for first in (0, 14, 29, 33, 45, 58, 78)
    ]  # fmt: skip
    for span, piece in zip(wanted, cut(str(path), wanted, str(tmp_path), "copy"), strict=True):
        assert piece.file is not None, piece.error
        first, got = source.stamps.index(span.start_pts), decode(tmp_path / piece.file)
        clip = slice(piece.in_frame, piece.in_frame + 12)
        on_the_clock(piece, got.stamps[clip], span, source.stamps[first : first + 12])
        assert piece.way == "exact" or got.pictures[clip] == source.pictures[first : first + 12]


# --- whole runs -----------------------------------------------------------------------------------------------------------

RECIPE = Recipe(name="all", rules=(), near_duplicate_similarity=None, balance=False)
FOOTAGE = ("city_night_timelapse_mpeg2.mpg", "odd_corrupt_middle.mp4", "toy_elf_480p_vp8.webm")


@pytest.fixture
def lake(ray_cluster: None, curated: tuple[Path, Commit], tmp_path: Path) -> Path:
    """A lake of the test's own with nothing cut; its tables lie where they were written."""
    shutil.copytree(curated[0], tmp_path / "lake")
    return tmp_path / "lake"


@pytest.fixture(scope="module")
def curated(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Commit]:
    folder = tmp_path_factory.mktemp("footage")
    for name in FOOTAGE:
        shutil.copy(SAMPLES / name, folder / name)
    return folder.parent / "curated", curate([str(folder)], RECIPE, str(folder.parent / "curated"))


def test_every_kept_clip_has_a_row_and_a_file_and_is_cut_once(lake: Path) -> None:
    snapshot = Lake(str(lake)).snapshot()
    kept = {row["clip_id"]: row for row in snapshot.kept_clips().to_pylist()}
    said: list[Progress] = []
    table = cut_clips(snapshot, "copy", progress=said.append)
    assert {Path(row["source_uri"]).name for row in table.to_pylist()} == set(FOOTAGE)
    assert (said[0].stage, said[0].done, said[-1].done, said[-1].total) == ("cut", 0, len(kept), len(kept))
    for row in table.to_pylist():
        clip = kept.pop(row["clip_id"])
        assert (
            row["uri"]
            == f"clips/{row['clip_id'][:2]}/{row['clip_id']}.{'mkv' if 'vp8' in row['source_uri'] else 'mp4'}"
        )
        assert row["error"] is None and (lake / row["uri"]).stat().st_size == row["bytes"]
        assert row["num_frames"] == clip["num_frames"]
        assert row["end_seconds"] - row["start_seconds"] == pytest.approx(
            clip["end_seconds"] - clip["start_seconds"], abs=0.002
        )
        assert (row["way"], row["why"]) == (
            ("exact", "the video is damaged") if "corrupt" in row["source_uri"] else ("copy", None)
        )
    assert not kept and not (lake / "clips" / "parts").exists()
    written = {path: path.stat().st_mtime_ns for path in (lake / "clips").rglob("*.m*")}
    said.clear()
    assert cut_clips(snapshot, "copy", progress=said.append).equals(table)
    assert said[0].done == len(table) and len(said) == 1, "nothing was left to do"
    assert {path: path.stat().st_mtime_ns for path in (lake / "clips").rglob("*.m*")} == written
    with pytest.raises(WrongCall, match="--cut copy"):
        cut_clips(snapshot, "exact")


def test_a_killed_run_continues_with_the_videos_it_had_not_cut(lake: Path) -> None:
    snapshot = Lake(str(lake)).snapshot()
    jobs = cutting_room._jobs(str(lake), snapshot.kept_clips().to_pylist(), "copy", set())
    job = next(job for job in jobs if "vp8" in job["uri"])
    prison = Prison()
    assert cut_video(job, prison) == {"cut": len(job["clips"]), "failed": 0}
    prison.close()
    before = {path: path.stat().st_mtime_ns for path in (lake / "clips").rglob("*.mkv")}
    said: list[Progress] = []
    table = cut_clips(snapshot, "copy", progress=said.append)
    assert said[0].done == len(job["clips"]) and table["error"].null_count == len(table)
    assert before and {path: path.stat().st_mtime_ns for path in before} == before


def test_a_source_that_is_gone_is_a_row_and_harms_no_neighbour(lake: Path, curated: tuple[Path, Commit]) -> None:
    gone = next(curated[0].parent.glob(f"footage*/{FOOTAGE[0]}"))
    data = gone.read_bytes()
    try:
        gone.unlink()
        rows = cut_clips(Lake(str(lake)).snapshot(), "exact").to_pylist()
    finally:
        gone.write_bytes(data)
    lost = [row for row in rows if row["source_uri"] == str(gone)]
    assert lost and all(row["uri"] is None and row["error"] for row in lost)
    assert all(
        row["error"] is None and row["way"] == "exact" and row["in_frame"] == 0 for row in rows if row not in lost
    )
    again = cut_clips(Lake(str(lake)).snapshot(), "exact").to_pylist()
    assert [row["error"] for row in again] == [None] * len(rows), "what failed is tried again"


def test_a_decoder_that_dies_costs_its_own_video_only(tmp_path: Path) -> None:
    class Dying:
        def run(self, *_: object, seconds: float) -> None:
            raise UnreadableVideo("decoder_killed", "the decoder died (SIGSEGV)")

    clip = {"clip_id": "0" * 32, "stream_index": 0, "start_pts": 0, "end_pts": 9, "time_base_numerator": 1,
            "time_base_denominator": 30, "num_frames": 9}  # fmt: skip
    job = {"lake_uri": str(tmp_path), "uri": str(SAMPLES / "bee_720p.mp4"), "way": "copy", "damaged": False,
           "part": "clips/parts/p.parquet", "clips": [clip]}  # fmt: skip
    assert cut_video(job, Dying()) == {"cut": 0, "failed": 1}  # type: ignore[arg-type]


def test_the_command_line_cuts_and_says_what_it_did(
    lake: Path, curated: tuple[Path, Commit], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "all.yaml"
    recipe.write_text(json.dumps(RECIPE.model_dump(mode="json")))
    footage = next(path for path in curated[0].parent.iterdir() if path.name.startswith("footage"))
    words = ["curate", str(footage), "--recipe", str(recipe), "--out", str(lake), "--cut", "copy"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["cut"]["failed"] == 0 and (said["cut"]["copy"], said["cut"]["exact"]) == (2, 1)
    assert said["cut"]["index"] == index_uri(Lake(str(lake)).snapshot()) and Path(said["cut"]["index"]).exists()
    assert main(words) == 0 and "copied" in capsys.readouterr().out
    assert main([*words[:-1], "exact"]) != 0
