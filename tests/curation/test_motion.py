"""The motion filters on pictures whose motion is known: drawn ones, real ones, and copies with one fault."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import degrade
from curation.caption.template import camera_motion
from curation.clips.frames import write_video
from curation.clips.global_motion import Follower
from curation.clips.native_motion import native_motion
from curation.clips.strip import make_strip
from curation.contracts import ClipView, Unmeasured, filters
from tests.conftest import SAMPLES

STEADY = [each for each in filters() if each.rung != "models"]
GROUND_TRUTH = Path(__file__).parents[2].parent / "shared" / "videos" / "gt_vmaf"


def _scores(path: str) -> dict[str, float | Unmeasured]:
    decoded = make_strip(path, looks=False)
    view = ClipView(facts=decoded.facts, strip=decoded.strip, video_seconds=decoded.strip.clock.duration_seconds)
    return {name: value for each in STEADY for name, value in each.score(view).items()}


def _made(tmp_path: Path, make, *more) -> dict[str, float | Unmeasured]:
    target = str(tmp_path / "copy.mp4")
    make(str(SAMPLES / "bee_720p.mp4"), target, *more)
    return _scores(target)


def _scene(height: int = 720, width: int = 1280) -> np.ndarray:
    generator = np.random.default_rng(3)
    layers = [cv2.resize(generator.random((height // k, width // k), np.float32), (width, height)) for k in (80, 20, 8)]
    return np.uint8(40 + 170 * np.clip(sum(layers) / 3, 0, 1))


def _warped(scene: np.ndarray, x: float = 0, y: float = 0, zoom: float = 1, roll: float = 0) -> np.ndarray:
    """The middle of a scene at half size, moved in pixels of the result, zoomed, and turned clockwise as seen, in degrees."""
    matrix = cv2.getRotationMatrix2D((scene.shape[1] / 2, scene.shape[0] / 2), -roll, zoom / 2)
    matrix[:, 2] += (x - scene.shape[1] / 4, y - scene.shape[0] / 4)
    return cv2.warpAffine(scene, matrix, (scene.shape[1] // 2, scene.shape[0] // 2), flags=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("move", "signal", "expected", "words"),
    [
        ({"x": -3.0}, "pan", 3 * 25 / 640, "pan right"),
        ({"x": 3.0}, "pan", -3 * 25 / 640, "pan left"),
        ({"y": 2.0}, "tilt", 2 * 25 / 640, "tilt up"),
        ({"zoom": 0.01}, "zoom", 0.25, "zoom in"),
        ({"zoom": -0.006}, "zoom", -0.15, "zoom out"),
        ({"roll": 0.5}, "roll", -12.5, "roll anticlockwise"),
    ],
)
def test_a_camera_that_moves_is_measured_in_its_units(
    tmp_path: Path, move: dict[str, float], signal: str, expected: float, words: str
) -> None:
    scene = _scene()
    frames = []
    for i in range(30):
        now = {name: value * i for name, value in move.items()}
        now["zoom"] = np.exp(now.get("zoom", 0.0))
        frames.append(cv2.cvtColor(_warped(scene, **now), cv2.COLOR_GRAY2RGB))
    write_video(tmp_path / "move.mp4", np.stack(frames), 25.0)
    scores = _scores(str(tmp_path / "move.mp4"))
    assert scores[signal] == pytest.approx(expected, rel=0.15)
    assert camera_motion(scores) == words
    assert scores["object_share"] < 0.05 and scores["camera_stands"] == 0 and scores["jitter"] < 0.3


def test_an_object_is_told_from_the_camera(tmp_path: Path) -> None:
    scene, ball = _scene(), _scene(240, 240)
    frames = []
    for i in range(40):
        picture = _warped(scene, x=-2.0 * i)
        picture[120:240, 40 + 5 * i : 160 + 5 * i] = ball[:120, :120]
        frames.append(cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB))
    write_video(tmp_path / "ball.mp4", np.stack(frames), 25.0)
    scores = _scores(str(tmp_path / "ball.mp4"))
    assert scores["pan"] == pytest.approx(2 * 25 / 640, rel=0.2)
    area = 120 * 120 / (360 * 640)
    assert area < scores["object_share"] < 6 * area, "coarse: what is near an object moves with it"
    assert 7 * 25 / 640 * area < scores["object_motion"] < 3 * 7 * 25 / 640 * area


def test_a_step_does_not_know_its_neighbours() -> None:
    scene = _scene(144, 256)
    pictures = [_warped(scene, x=2.0 * i, y=np.sin(i)) for i in range(8)]
    follower = Follower(*pictures[0].shape)
    whole, parts = follower.follow(pictures), [follower.follow(pictures[i : i + 2]) for i in range(7)]
    np.testing.assert_allclose(whole.shift, np.concatenate([part.shift for part in parts]), atol=1e-6)
    np.testing.assert_allclose(whole.growth, np.concatenate([part.growth for part in parts]), atol=1e-6)


def test_small_pictures_and_black_ones_are_no_accident(tmp_path: Path) -> None:
    tiny = np.stack([cv2.cvtColor(_warped(_scene(96, 128), x=i), cv2.COLOR_GRAY2RGB) for i in range(20)])
    write_video(tmp_path / "tiny.mp4", tiny, 20.0)  # 64 x 48
    assert _scores(str(tmp_path / "tiny.mp4"))["pan"] == pytest.approx(-20 / 64, rel=0.2)
    black = _scores(str(SAMPLES / "black_silent_10s.mp4"))
    assert isinstance(black["pan"], Unmeasured) and black["freeze_seconds"] == pytest.approx(9.96, abs=0.1)


# 3-frame excerpt of VMAF's own test film; figures of a check in double precision, and of libvmaf's integer version for 8 bits
@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.skipif(not GROUND_TRUTH.is_dir(), reason="optional test videos are not beside the checkout")
def test_native_motion_is_vmafs(bits: int) -> None:
    plane = np.fromfile(GROUND_TRUTH / f"src01_hrc00_576x324_3frames_yuv420p{bits}le.yuv", "<u2")
    frames = plane.reshape(3, -1)[:, : 576 * 324].reshape(3, 324, 576)
    found = [native_motion(frames[i], frames[i + 1], bits) for i in range(2)]
    assert found == pytest.approx([4.579442, 4.214324], abs=1e-3)
    assert sum(found) / 3 == pytest.approx(2.931255, abs=1e-3)


def test_native_motion_is_the_difference_of_blurred_pictures() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.integers(0, 256, (2, 90, 130), np.uint8)
    taps = np.array([0.054488685, 0.244201342, 0.402619947, 0.244201342, 0.054488685])

    def blurred(picture: np.ndarray) -> np.ndarray:
        rows = np.apply_along_axis(np.convolve, 0, np.pad(picture.astype(float), 2, mode="reflect"), taps, "valid")
        return np.apply_along_axis(np.convolve, 1, rows, taps, "valid")

    assert native_motion(before, after) == pytest.approx(np.abs(blurred(after) - blurred(before)).mean(), abs=1e-4)
    wide = [np.uint16(picture) * 4 for picture in (before, after)]
    assert native_motion(*wide, bits=10) == pytest.approx(native_motion(before, after), abs=1e-4)


def test_native_motion_of_a_pair_a_second_stands_for_all_frames() -> None:
    """FFmpeg's vmafmotion over the whole file says 6.459 and 1.452; the calibration of small pictures is 2 and 15 % off."""
    assert _scores(str(SAMPLES / "toy_elf_480p.mp4"))["vmaf_motion_native"] == pytest.approx(6.459, rel=0.04)
    assert _scores(str(SAMPLES / "beetle_bw_360p.mp4"))["vmaf_motion_native"] == pytest.approx(1.452, rel=0.06)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float | Unmeasured]:
    return _made(tmp_path_factory.mktemp("plain"), degrade.plain_copy)


def test_freezes(tmp_path: Path, plain: dict[str, float]) -> None:
    scores = _made(tmp_path, degrade.freeze)
    assert scores["freeze_seconds"] == pytest.approx(2.0, abs=0.1) and plain["freeze_seconds"] < 0.1
    assert 0.45 < scores["still_share"] < 0.6


def test_loops(tmp_path: Path, plain: dict[str, float]) -> None:
    scores = _made(tmp_path, degrade.loop)
    assert scores["loop_likeness"] > 0.7 > 0.4 > plain["loop_likeness"]
    assert scores["loop_seconds"] % 1.0 == pytest.approx(0, abs=0.05) or scores["loop_seconds"] % 1.0 > 0.95


@pytest.mark.parametrize("path", ["in", "across"])
def test_a_still_under_a_virtual_camera_is_a_slide(tmp_path: Path, plain: dict[str, float], path: str) -> None:
    scores = _made(tmp_path, degrade.glide, path)
    assert scores["still_share"] > 0.8 > 0.2 > plain["still_share"] and scores["static_share"] < 0.2


def test_repeated_frames_are_no_frames(tmp_path: Path, plain: dict[str, float]) -> None:
    scores = _made(tmp_path, degrade.repeat_frames)
    assert scores["fps"] == pytest.approx(30, abs=0.1) and scores["distinct_fps"] == pytest.approx(10, abs=1)
    assert scores["repeated_share"] > 0.6 and plain["distinct_fps"] == pytest.approx(30, abs=1)


def test_what_is_played_faster_moves_less_steadily(tmp_path: Path) -> None:
    make_source = str(SAMPLES / "toy_elf_480p.mp4")
    degrade.plain_copy(make_source, str(tmp_path / "plain.mp4"))
    degrade.speed_up(make_source, str(tmp_path / "fast.mp4"))
    fast, plain = (_scores(str(tmp_path / name)) for name in ("fast.mp4", "plain.mp4"))
    assert fast["motion_incoherence"] > plain["motion_incoherence"]


def test_wipes_flashes_dissolves_and_exposure(tmp_path: Path, plain: dict[str, float]) -> None:
    assert _made(tmp_path, degrade.wipe)["wipe_likeness"] > 0.4 > 0.2 > plain["wipe_likeness"]
    assert _made(tmp_path, degrade.flashes)["flashes_per_second"] > 1 > plain["flashes_per_second"] == 0
    assert _made(tmp_path, degrade.crossfade)["transition_share"] > 0.1 > plain["transition_share"] == 0
    assert _made(tmp_path, degrade.overexpose)["white_clipped"] > 0.25 > 0.05 > plain["white_clipped"]
    assert _made(tmp_path, degrade.underexpose)["black_clipped"] > plain["black_clipped"]
