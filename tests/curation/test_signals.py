"""The numbers of the strip, against pictures whose numbers are known."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from curation.clips import frames
from curation.clips.errors import UnreadableVideo
from curation.clips.signals import _blockiness, _noise
from curation.clips.strip import Strip, make_strip, read_strip, write_strips
from curation.prison import Prison
from tests.conftest import SAMPLES

rng = np.random.default_rng(0)


def _texture(height: int, width: int) -> np.ndarray:
    coarse = rng.normal(size=(height // 12, width // 12)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 40 + 120, 20, 230)


def _encode(path: Path, pictures: list[np.ndarray], codec: str, pixel_format: str = "yuv420p", **options: str) -> str:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], pixel_format
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")))
        container.mux(stream.encode())
    return str(path)


def _pan(pixels: int, count: int = 40) -> list[np.ndarray]:
    wide = _texture(288, 512 + pixels * count).astype(np.uint8)
    return [wide[:, pixels * i : pixels * i + 512] for i in range(count)]


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_block_motion_of_a_pan_from_codec_vectors_and_from_flow(tmp_path: Path, codec: str) -> None:
    """4 pixels of 512 a frame are 0.78 %; VP9 exports no vectors, so its motion is ours."""
    options = {"bf": "0", "preset": "veryfast"} if codec == "libx264" else {"deadline": "realtime", "cpu-used": "8"}
    path = _encode(tmp_path / "pan.mkv", _pan(4), codec, **options)
    strip = make_strip(path, looks=False).strip
    motion = strip.sampled("block_motion")
    assert len(motion) >= 8
    # the fit is to real footage, much of which encoders skip: half of what a pure pan has
    assert np.median(motion) == pytest.approx(100 * 4 / 512, rel=0.15 if codec == "libx264" else 0.5)
    assert np.median(strip.sampled("flow_motion")) == pytest.approx(100 * 4 / 512, rel=0.1)
    assert np.median(strip.sampled("camera_x")) == pytest.approx(-25 * 4 / 512, rel=0.05)
    assert np.abs(np.median(strip.sampled("camera_zoom"))) < 0.01 and np.median(strip.sampled("object_share")) < 0.02


def test_a_still_picture_moves_nothing(tmp_path: Path) -> None:
    still = [_texture(288, 512).astype(np.uint8)] * 30
    strip = make_strip(_encode(tmp_path / "still.mp4", still, "libx264"), looks=False).strip
    assert strip.sampled("block_motion").max() < 0.02
    assert np.nanmax(strip.signals["luma_change"]) < 0.5


def test_noise_is_measured_where_the_picture_is_flat() -> None:
    picture = np.full((128, 640), 120.0)
    picture[:, 400:] = rng.uniform(0, 255, (128, 240))  # texture, which is not noise
    noisy = np.clip(picture + rng.normal(0, 5, picture.shape), 0, 255).astype(np.uint8)
    flat, narrow = picture[:, :400].astype(np.uint8), picture[:, :20].astype(np.uint8)
    assert _noise([noisy, flat, narrow, noisy]) == pytest.approx([5, 0, np.nan, 5], rel=0.1, nan_ok=True)


def test_blockiness_sees_the_codecs_grid_and_no_other() -> None:
    ramp = np.tile(np.linspace(0, 255, 640), (128, 1))
    blocks = ramp.reshape(128, 80, 8).mean(axis=2).repeat(8, axis=1)
    assert _blockiness((blocks + rng.normal(0, 1, blocks.shape)).clip(0, 255).astype(np.uint8)) > 1
    assert abs(_blockiness(np.roll(_texture(128, 640), 4, axis=1).astype(np.uint8))) < 0.2
    assert np.isnan(_blockiness(np.full((128, 640), 90, np.uint8)))


def test_signals_do_not_depend_on_where_batches_end(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(SAMPLES / "beetle_bw_360p.mp4")
    whole = make_strip(path, looks=False).strip
    monkeypatch.setattr(frames, "BATCH", 7)
    pieces = make_strip(path, looks=False).strip
    assert np.array_equal(whole.clock.pts, pieces.clock.pts)
    for name, values in whole.signals.items():
        np.testing.assert_allclose(values, pieces.signals[name], rtol=1e-4, atol=1e-4, equal_nan=True, err_msg=name)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "gbrp10le", "gbrp12le", "gray10le"])
def test_native_motion_is_in_8_bit_luma_whatever_the_format(tmp_path: Path, pixel_format: str) -> None:
    pictures = _pan(4)
    strip = make_strip(_encode(tmp_path / "pan.mkv", pictures, "ffv1", pixel_format), looks=False).strip
    grey = make_strip(_encode(tmp_path / "grey.mkv", pictures, "ffv1", "gray"), looks=False).strip
    full = 1.0 if pixel_format.startswith(("gray", "gbr")) else 219 / 255
    expected = full * np.nanmean(grey.signals["native_motion"])
    assert np.nanmean(strip.signals["native_motion"]) == pytest.approx(expected, rel=0.03)
    assert np.flatnonzero(~np.isnan(strip.signals["native_motion"])).tolist() == [12, 37], "one pair a second"


def test_what_moves_before_a_cut_is_not_the_next_clips_motion(tmp_path: Path) -> None:
    """Two locked pictures, each still; a step of a tenth of a second lies across the cut."""
    stills = [_texture(288, 512).astype(np.uint8) for _ in range(2)]
    path = _encode(tmp_path / "cut.mkv", [stills[0]] * 31 + [stills[1]] * 40, "libvpx-vp9", deadline="realtime")
    clip = make_strip(path, looks=False).strip.span(31, 71)
    assert clip.after_first("flow_motion").max() > 0.5 > 0.05 > clip.steps("flow_motion").max()
    assert len(clip.steps("flow_motion")) >= 10


def test_thumbnails_come_back_from_the_stored_strip(tmp_path: Path) -> None:
    strip = make_strip(str(SAMPLES / "roof_portrait_pan_hdr10_av1.mp4"), "v", looks=False).strip
    write_strips(str(tmp_path / "s.parquet"), [strip])
    back: Strip = read_strip(str(tmp_path / "s.parquet"), "v")
    assert back.thumbnails.keys() == strip.thumbnails.keys() and len(back.thumbnails) >= 8
    for frame, picture in strip.thumbnails.items():
        assert picture.shape == (32, 18) and np.array_equal(back.thumbnails[frame], picture)
    span = back.span(20, 60)
    assert set(span.thumbnails) == {f - 20 for f in back.thumbnails if 20 <= f < 60}


@pytest.mark.parametrize(
    ("size", "codec", "pixel_format"),
    [
        ((7680, 4320), "libx265", "yuv420p10le"),
        ((3840, 2160), "libx264", "yuv420p"),
        ((640, 360), "libx264", "yuv422p10le"),
    ],
)
def test_8k_4k_and_ten_bits_survive_the_prison(
    tmp_path: Path, size: tuple[int, int], codec: str, pixel_format: str
) -> None:
    picture = cv2.resize(_texture(270, 480), size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    path = _encode(tmp_path / "big.mkv", [picture] * 3, codec, pixel_format, preset="ultrafast")
    prison = Prison()
    decoded = prison.run(make_strip, path, seconds=120)
    prison.close()
    assert len(decoded.strip) == 3 and (decoded.facts.width, decoded.facts.height) == size
    assert decoded.facts.pixel_format == pixel_format
    assert decoded.strip.signals["brightness"].mean() == pytest.approx(picture.mean() * 219 / 255 + 16, abs=4)


def test_pictures_beyond_all_measure_are_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_PIXELS", 100_000)
    with pytest.raises(UnreadableVideo, match="1280x720") as caught:
        make_strip(str(SAMPLES / "bee_720p.mp4"))
    assert caught.value.cause == "too_large"


def test_a_very_wide_video_without_vectors_is_measured(tmp_path: Path) -> None:
    """OpenCV's flow crashes on pictures with fewer than 32 rows; they are given some."""
    pictures = [p[:96] for p in _pan(4, 12)]
    strip = make_strip(_encode(tmp_path / "wide.mkv", pictures, "libvpx-vp9", deadline="realtime"), looks=False).strip
    assert len(strip) == 12 and len(strip.sampled("block_motion")) == 3
    assert strip.sampled("camera_x") == pytest.approx(-25 * 4 / 512, rel=0.1)


def test_the_decoders_memory_is_flat_over_calls() -> None:
    prison = Prison()
    peaks = []
    for _ in range(8):
        prison.run(make_strip, str(SAMPLES / "bee_720p.mp4"), seconds=60)
        peaks.append(prison.peak_bytes)
    prison.close()
    assert peaks[-1] - peaks[1] < 24 << 20
