"""The clock of a strip against files of which every time stamp is known: written here packet by packet, or looked up by hand.

Every picture of a written file is its number: grey level 20 + 6 x number. So a clip that was cut out and played shows whether it
starts and ends where the manifest says.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from curation.clips.cutting import Span, cut
from curation.clips.frames import read_frames
from curation.clips.strip import Decoded, make_strip
from tests.conftest import SAMPLES

NINETY_KILOHERTZ = Fraction(1, 90_000)


def write(
    path: Path,
    pts: Sequence[int],
    base: Fraction,
    b_frames: int = 0,
    ratio: Fraction | None = None,
    size: tuple[int, int] = (128, 96),
    options: dict[str, str] | None = None,
) -> Path:
    """An H.264 video with these presentation times, in units of `base`."""
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream = container.add_stream(
            "libx264", rate=25, options={"crf": "10", "bf": str(b_frames), "preset": "veryfast"}
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = base
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for number, stamp in enumerate(pts):
            picture = np.full((size[1], size[0]), 20 + 6 * number, np.uint8)
            picture[: size[1] // 4, : size[0] // 4] = 235  # the corner that is above on the left
            grey = av.VideoFrame.from_ndarray(picture, format="gray")
            frame = grey.reformat(format="yuv420p", src_color_range="MPEG", dst_color_range="MPEG")
            frame.pts, frame.time_base = stamp, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def strip(path: Path) -> Decoded:
    return make_strip(str(path), looks=False)


def clip_of(path: Path, decoded: Decoded, first: int, last: int) -> Span:
    clock = decoded.strip.clock
    return Span(clip_id="c", stream_index=decoded.facts.stream_index, start_pts=int(clock.pts[first]),
                end_pts=clock.frame_end_pts(last - 1), time_base=clock.time_base, num_frames=last - first)  # fmt: skip


def plays_where_the_manifest_says(
    path: Path, decoded: Decoded, first: int, last: int, shown_first: int, folder: Path, copied: bool = True
) -> None:
    """Cut frames first..last both ways: what plays are the pictures shown_first, shown_first + 1, ..., at their times, and no other."""
    span = clip_of(path, decoded, first, last)
    want = decoded.strip.clock.frame_seconds[first:last] - decoded.strip.clock.frame_seconds[first]
    for way in ("copy", "exact"):
        (folder / way).mkdir()
        [piece] = cut(str(path), [span], str(folder / way), way)  # type: ignore[arg-type]
        assert piece.way == (way if copied else "exact") and piece.file is not None, piece.why or piece.error
        again = strip(folder / way / piece.file)
        clip = slice(piece.in_frame, piece.in_frame + piece.num_frames)
        base = float(piece.time_base)
        got = (again.strip.clock.pts[clip] - piece.start_pts) * base
        assert got == pytest.approx(want, abs=max(base, float(span.time_base)))
        assert (piece.end_pts - piece.start_pts) * base == pytest.approx(float(span.end - span.start), abs=base)
        numbers = [round((level - 20) / 6) for level in _grey(folder / way / piece.file)[clip]]
        assert numbers == list(range(shown_first, shown_first + last - first)), way
        if piece.way == "exact":
            assert len(again.strip) == last - first and again.strip.clock.end_pts == piece.end_pts


def _grey(path: Path) -> list[float]:
    """Luma of every presented picture in its middle."""
    with av.open(str(path)) as container:
        planes = [frame.reformat(format="gray").to_ndarray() for frame in container.decode(video=0)]
    return [float(p[p.shape[0] // 2, p.shape[1] // 2]) for p in planes]


def test_variable_frame_rate_keeps_every_interval(tmp_path: Path) -> None:
    times = [0, 1001, 2002, 9009, 9510, 10010, 15015, 16016, 30030, 31031]
    path = write(tmp_path / "vfr.mp4", times, Fraction(1, 30_000))
    clock = (decoded := strip(path)).strip.clock
    assert clock.time_base == Fraction(1, 30_000) and clock.pts.tolist() == times
    assert clock.frame_seconds[3] == pytest.approx(0.3003) and clock.frame_end_pts(2) == 9009
    assert len(clock) == 10 and clock.end_pts > 31031
    plays_where_the_manifest_says(path, decoded, 3, 8, 3, tmp_path)


def test_variable_frame_rate_of_a_real_file(shared_videos: Path) -> None:
    clock = strip(shared_videos / "odd_vfr_cups.mp4").strip.clock
    assert (len(clock), clock.time_base, clock.end_pts) == (30, Fraction(1, 30_000), 85_085)
    assert clock.pts[[0, 1, 2, 28, 29]].tolist() == [0, 1001, 2002, 77_077, 84_084]
    assert clock.duration_seconds == pytest.approx(85_085 / 30_000)


def test_an_edit_list_hides_what_lies_before_it(tmp_path: Path) -> None:
    """MP4 stores pictures before time 0 and an edit list that begins at 0: 20 are stored, the last 15 are the video."""
    path = write(tmp_path / "edited.mp4", [1000 * i for i in range(-5, 15)], Fraction(1, 25_000))
    clock = (decoded := strip(path)).strip.clock
    assert clock.pts.tolist() == [1000 * i for i in range(15)] and clock.end_pts == 15_000
    assert clock.duration_seconds == pytest.approx(0.6)
    plays_where_the_manifest_says(path, decoded, 2, 9, 7, tmp_path)  # the sixth and later of those that were written


def test_an_edit_list_of_a_real_file(shared_videos: Path) -> None:
    """86 packets; nine of them lie outside the edit list."""
    decoded = strip(shared_videos / "roof_portrait_1080p_hevc10.mp4")
    clock = decoded.strip.clock
    assert (len(clock), clock.time_base, int(clock.pts[0]), int(clock.pts[-1])) == (77, Fraction(1, 600), 0, 1521)
    assert (decoded.facts.width, decoded.facts.height, decoded.facts.rotation) == (1080, 1920, 270)


def test_a_late_start_is_time_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "late.mp4", [15_000 + 1200 * i for i in range(12)], Fraction(1, 30_000))
    clock = (decoded := strip(path)).strip.clock
    assert clock.pts.tolist() == [15_000 + 1200 * i for i in range(12)] and clock.end_pts == 29_400
    assert clock.frame_seconds[0] == 0 and clock.duration_seconds == pytest.approx(0.48)
    plays_where_the_manifest_says(path, decoded, 4, 9, 4, tmp_path)


def test_a_late_start_of_a_real_transport_stream(shared_videos: Path) -> None:
    clock = strip(shared_videos / "bbb_sky_1080p_hevc.ts").strip.clock
    assert (len(clock), int(clock.pts[0]), clock.end_pts, clock.time_base) == (120, 133_500, 583_500, NINETY_KILOHERTZ)
    assert clock.frame_seconds[0] == 0 and clock.duration_seconds == 5.0


def test_a_negative_start_is_time_zero(tmp_path: Path) -> None:
    """A transport stream's clock has 33 bits; across its end FFmpeg counts the first pictures below zero."""
    start = 2**33 - 10 * 3600
    options = {"muxdelay": "0", "output_ts_offset": "0"}
    path = write(tmp_path / "wraps.ts", [start + 3600 * i for i in range(30)], NINETY_KILOHERTZ, options=options)
    clock = (decoded := strip(path)).strip.clock
    assert clock.pts[0] < 0 < clock.pts[-1]
    assert np.diff(clock.pts).tolist() == [3600] * 29 and clock.end_pts - clock.pts[0] == 30 * 3600
    assert clock.frame_seconds[0] == 0 and clock.duration_seconds == pytest.approx(1.2)
    plays_where_the_manifest_says(path, decoded, 12, 20, 12, tmp_path)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "avi"])
def test_b_frames_come_in_presentation_order(container: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"b.{container}", list(range(30)), Fraction(1, 25), b_frames=3)
    clock = (decoded := strip(path)).strip.clock
    with av.open(str(path)) as file:
        stored = [packet.pts for packet in file.demux(video=0) if packet.size]
    if container != "avi":  # it stores no presentation times, and FFmpeg makes up some in the order of the packets
        assert stored != sorted(stored), "without B-frames this proves nothing"
    assert len(clock) == 30 and clock.frame_seconds == pytest.approx(np.arange(30) / 25, abs=0.0011)
    assert clock.duration_seconds == pytest.approx(1.2, abs=0.0011)
    plays_where_the_manifest_says(path, decoded, 7, 19, 7, tmp_path, copied=container != "avi")


@pytest.mark.parametrize(
    ("matrix", "rotation", "corner"),
    [((0, 1, -1, 0), 270, (0, -1)), ((-1, 0, 0, -1), 180, (-1, -1)), ((0, -1, 1, 0), 90, (-1, 0))],
)
def test_a_display_matrix_turns_size_and_picture(
    matrix: tuple[int, int, int, int], rotation: int, corner: tuple[int, int], tmp_path: Path
) -> None:
    """(a, b, c, d) of the track header: (0, 1, -1, 0) is a quarter to the right, so the corner above left comes above right."""
    path = write(tmp_path / "turned.mp4", range(10), Fraction(1, 25))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: ids, times, layer and volume come before the matrix
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, signed=True) for value in values)
    path.write_bytes(data)
    decoded = strip(path)
    sideways = rotation != 180
    assert decoded.facts.rotation == rotation
    assert (decoded.facts.width, decoded.facts.height) == ((96, 128) if sideways else (128, 96))
    span = clip_of(path, decoded, 3, 8)
    for way in ("copy", "exact"):
        (tmp_path / way).mkdir()
        [piece] = cut(str(path), [span], str(tmp_path / way), way)  # type: ignore[arg-type]
        file = tmp_path / way / str(piece.file)
        facts = strip(file).facts
        assert (facts.width, facts.height) == (decoded.facts.width, decoded.facts.height)
        row = {"uri": str(file), "stream_index": 0, "start_pts": piece.start_pts, "end_pts": piece.end_pts,
               "time_base_numerator": piece.time_base.numerator, "time_base_denominator": piece.time_base.denominator}  # fmt: skip
        [picture] = read_frames(row, [0.0], facts.height, facts.width)
        bright = {(y, x) for y in (0, -1) for x in (0, -1) if picture[y, x].mean() > 200}
        assert bright == {corner}, way


def test_rotation_flags_of_real_files(shared_videos: Path) -> None:
    seen = {}
    for name in ("dog_in_bed_720p_rot270flag.mp4", "fireplace_dog_720p_rot180flag.mp4", "bbb_fade_1080p_rot90flag.mp4"):
        facts = strip(shared_videos / name).facts
        seen[name.split("_rot")[1]] = (facts.rotation, facts.width, facts.height)
    assert seen == {"270flag.mp4": (90, 720, 1280), "180flag.mp4": (180, 1280, 720), "90flag.mp4": (270, 1080, 1920)}


def test_a_sample_aspect_ratio_widens_the_displayed_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "wide.mp4", range(10), Fraction(1, 25), ratio=Fraction(4, 3), size=(96, 72))
    decoded = strip(path)
    assert decoded.facts.sample_aspect_ratio == Fraction(4, 3)
    assert (decoded.facts.width, decoded.facts.height) == (128, 72)
    for way in ("copy", "exact"):
        (tmp_path / way).mkdir()
        [piece] = cut(str(path), [clip_of(path, decoded, 3, 8)], str(tmp_path / way), way)  # type: ignore[arg-type]
        facts = strip(tmp_path / way / str(piece.file)).facts
        assert (facts.sample_aspect_ratio, facts.width, facts.height) == (Fraction(4, 3), 128, 72)


def test_a_sample_aspect_ratio_of_a_real_file(shared_videos: Path) -> None:
    facts = strip(shared_videos / "apollo_moonwalk_240p_vp9.mp4").facts
    assert (facts.sample_aspect_ratio, facts.width, facts.height) == (Fraction(45, 44), 327, 240)


def test_of_several_video_streams_of_a_real_file_the_best_is_read() -> None:
    decoded = strip(SAMPLES / "nasa_13013_multishot_270p.mp4")
    clock = decoded.strip.clock
    assert (decoded.facts.stream_index, decoded.facts.width, decoded.facts.height) == (3, 480, 270)
    assert clock.pts.tolist() == [1001 * i for i in range(390)] and clock.end_pts == 390_390
    assert clock.duration_seconds == pytest.approx(13.013)


def test_a_container_that_lies_about_its_duration_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "lies.mkv", range(0, 1200, 40), Fraction(1, 1000))
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Duration, eight bytes of float, in milliseconds
    data[at : at + 8] = np.array(3_600_000.0, ">f8").tobytes()
    path.write_bytes(data)
    decoded = strip(path)
    assert decoded.facts.claimed_seconds == 3600
    assert decoded.strip.clock.pts.tolist() == list(range(0, 1200, 40)) and decoded.strip.clock.end_pts == 1200
    plays_where_the_manifest_says(path, decoded, 25, 30, 25, tmp_path)


def test_a_real_fragmented_file_has_the_second_that_decodes(shared_videos: Path) -> None:
    """Older FFmpegs read 143,165 s from its header."""
    clock = strip(shared_videos / "man_office_1s_fragmented.mp4").strip.clock
    assert (len(clock), clock.time_base, int(clock.pts[0]), clock.end_pts) == (30, Fraction(1, 30_000), 2002, 32_032)
    assert clock.duration_seconds == pytest.approx(1.001)
