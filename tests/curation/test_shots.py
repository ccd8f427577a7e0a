"""Cuts, dissolves and fades; shots without them; the referee; the command that prints them."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from api.cli import main
from curation.clips.blends import Blends, transition_lag
from curation.clips.frames import span_pictures
from curation.clips.signals import SIGNALS
from curation.clips.strip import Strip, make_strip
from curation.clips.time import Clock
from curation.shots import transnet
from curation.shots.lengths import cut_clips, shot_spans
from curation.shots.strip_detector import find_transitions
from curation.shots.transitions import Cut, Gradual, Transitions, Verdict, Window, settle
from models.transnet import packaged_weights

SAMPLES = Path(__file__).parents[2] / "samples"
FPS = 25


def strip_of(pictures: np.ndarray) -> Strip:
    """The strip of pictures [F, 36, 64], with the signals that transitions are found by."""
    x, n = pictures.round().clip(0, 255).astype(np.uint8), len(pictures)
    blends = Blends(transition_lag(FPS))
    for start in range(0, n, 64):
        blends.add(x[start : start + 64])
    signals = blends.result() | {
        "luma_change": np.append(np.nan, np.abs(np.diff(x.astype(float), axis=0)).mean((1, 2))),
        "brightness": x.mean((1, 2)),
        "contrast": x.std((1, 2)),
    }
    clock = Clock(pts=np.arange(n), end_pts=n, time_base=Fraction(1, FPS))
    return Strip(video_id="made", clock=clock, keyframes=np.zeros(n, bool), signals=signals)


def moving(seed: int, frames: int) -> np.ndarray:
    """A slow pan over a random landscape, float [frames, 36, 64]."""
    rough = np.random.default_rng(seed).uniform(20, 220, (9, 40))
    wide = np.kron(rough, np.ones((4, 4)))
    return np.stack([wide[:, t // 8 : t // 8 + 64] for t in range(frames)])


def dissolve(a: np.ndarray, b: np.ndarray, length: int) -> np.ndarray:
    share = ((np.arange(length) + 1) / (length + 1))[:, None, None]
    return np.concatenate([a[:-length], a[-length:] * (1 - share) + b[:length] * share, b[length:]])


def found(strip: Strip) -> tuple[list[int], list[tuple[int, int, str]]]:
    answer = find_transitions(strip)
    return [c.frame for c in answer.cuts], [(g.start_frame, g.end_frame, g.kind) for g in answer.gradual]


def gradual(start: int, end: int, kind: str = "dissolve") -> Gradual:
    return Gradual(
        start_frame=start,
        end_frame=end,
        start_seconds=start / FPS,
        end_seconds=end / FPS,
        kind=kind,  # type: ignore[arg-type]
    )


# --- what is measured ------------------------------------------------------------------------------------------------


def test_blends_are_the_same_in_batches_and_in_one():
    pictures = np.random.default_rng(0).integers(0, 256, (50, 36, 64), dtype=np.uint8)
    whole, parts = Blends(6), Blends(6)
    whole.add(pictures)
    for start, end in ((0, 5), (5, 6), (6, 30), (30, 50)):
        parts.add(pictures[start:end])
    x = pictures.astype(float)
    for name, values in whole.result().items():
        np.testing.assert_array_equal(values, parts.result()[name])
        assert values.shape == (50,) and np.isnan(values[[5, 44]]).all() and np.isfinite(values[6:44]).all()
    assert whole.result()["long_change"][20] == pytest.approx(np.abs(x[26] - x[14]).mean(), rel=1e-6)
    assert whole.result()["blend_residual"][20] == pytest.approx(np.abs(x[20] - (x[14] + x[26]) / 2).mean(), rel=1e-6)


def test_a_video_shorter_than_the_lag_has_no_blends():
    blends = Blends(6)
    blends.add(np.zeros((7, 36, 64), np.uint8))
    assert all(np.isnan(values).all() and len(values) == 7 for values in blends.result().values())


# --- what is found ---------------------------------------------------------------------------------------------------


def test_a_cut_is_found_at_its_frame():
    assert found(strip_of(np.concatenate([moving(1, 60), moving(2, 60)]))) == ([60], [])


@pytest.mark.parametrize("length", [6, 12, 24, 30])
def test_a_dissolve_is_found_with_its_ends(length):
    cuts, spans = found(strip_of(dissolve(moving(1, 80), moving(2, 80), length)))
    assert cuts == [] and len(spans) == 1
    start, end, kind = spans[0]
    assert kind == "dissolve" and abs(start - (80 - length)) <= 3 and abs(end - 80) <= 3


def test_a_flash_is_no_cut():
    pictures = moving(1, 80)
    pictures[40] = 235
    assert found(strip_of(pictures)) == ([], [])


def test_light_that_grows_is_no_dissolve():
    pictures = moving(1, 80).copy()
    pictures += np.clip(np.arange(80) - 30, 0, 20)[:, None, None] * 1.5
    assert found(strip_of(pictures)) == ([], [])


def test_fades_at_the_ends_and_through_black():
    a, b = moving(1, 80), moving(2, 80)
    up, down = np.linspace(0, 1, 20)[:, None, None], np.linspace(1, 0, 20)[:, None, None]
    a, b = a - 16, b - 16
    a[:20] *= up
    a[-20:] *= down
    b[:20] *= up
    b[-20:] *= down
    cuts, spans = found(strip_of(np.concatenate([a, np.zeros((5, 36, 64)), b]) + 16))
    assert cuts == [] and [kind for *_, kind in spans] == ["fade"] * 3
    wanted = [(0, 20), (60, 105), (145, 165)]
    for (start, end, _), (first, last) in zip(spans, wanted, strict=True):
        assert abs(start - first) <= 3 and abs(end - last) <= 3
    assert len(shot_spans(165, cuts, [(s, e) for s, e, _ in spans])) == 2


def test_a_black_video_has_no_transitions_and_a_span_of_two_frames_is_no_trouble():
    assert found(strip_of(np.full((50, 36, 64), 16.0))) == ([], [])
    assert found(strip_of(moving(1, 2))) == ([], [])


# --- shots and clips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuts", "spans", "head", "wanted"),
    [
        ([], [], 0, [(0, 100)]),
        ([40], [], 0, [(0, 40), (40, 100)]),
        ([40], [], 10, [(10, 40), (40, 100)]),
        ([5, 40], [], 10, [(10, 40), (40, 100)]),
        ([], [(30, 50)], 0, [(0, 30), (50, 100)]),
        ([], [(0, 20), (90, 100)], 0, [(20, 90)]),
        ([50], [(30, 50)], 0, [(0, 30), (50, 100)]),
        ([40], [(30, 50)], 0, [(0, 30), (50, 100)]),
        ([60], [(30, 50), (45, 55)], 0, [(0, 30), (55, 60), (60, 100)]),
        ([], [(0, 100)], 0, []),
    ],
)
def test_shots_are_what_cuts_and_transitions_leave(cuts, spans, head, wanted):
    assert shot_spans(100, cuts, spans, head) == wanted


def test_no_clip_holds_a_frame_of_a_transition():
    strip = strip_of(moving(1, 250))
    pieces = cut_clips(strip, [200], 2.0, gradual=[(0, 10), (100, 125)])
    assert [round(piece.shot_seconds * FPS) for piece in pieces] == [90, 75, 50]
    assert [piece.shot_rank for piece in pieces] == [1, 2, 3]
    assert [(p.start_frame, p.end_frame) for p in pieces] == [(30, 80), (138, 188), (200, 250)]


# --- the referee -----------------------------------------------------------------------------------------------------


def test_a_sure_referee_overturns_and_an_unsure_one_does_not():
    cut, window = Cut(frame=50, seconds=2.0, score=1.2), Window(start_frame=50, end_frame=51, closeness=0.8)
    answer = Transitions(cuts=[cut], gradual=[], unsure=[window])
    assert settle(answer, [Verdict(window=window, seen=None, probability=0.05)]).cuts == []
    assert settle(answer, [Verdict(window=window, seen=None, probability=0.4)]).cuts == [cut]
    assert settle(answer, [Verdict(window=window, seen=cut, probability=0.9)]).cuts == [cut]
    missed = Transitions(cuts=[], gradual=[], unsure=[window])
    settled = settle(missed, [Verdict(window=window, seen=cut, probability=0.9)])
    assert settled.cuts == [cut] and settled.unsure == []
    assert settle(missed, [Verdict(window=window, seen=gradual(40, 60), probability=0.95)]).gradual == [gradual(40, 60)]


def test_what_a_window_is_judged_from_stays_in_the_video():
    assert transnet.context(Window(start_frame=150, end_frame=151, closeness=1), 400) == (101, 201)
    assert transnet.context(Window(start_frame=3, end_frame=4, closeness=1), 60) == (0, 60)
    assert transnet.context(Window(start_frame=100, end_frame=180, closeness=1), 400) == (75, 205)


needs_blends = pytest.mark.skipif("long_change" not in SIGNALS, reason="the strip has no signals of blends")


@pytest.fixture(scope="module")
def nasa() -> Strip:
    return make_strip(str(SAMPLES / "nasa_13013_multishot_270p.mp4"), looks=False).strip


def test_the_network_finds_a_real_dissolve_and_cut_alone_and_as_referee(nasa):
    try:
        packaged_weights()
    except ValueError as error:
        pytest.skip(str(error))
    path = str(SAMPLES / "nasa_13013_multishot_270p.mp4")
    windows = [
        Window(start_frame=240, end_frame=241, closeness=0.9),
        Window(start_frame=160, end_frame=165, closeness=0.8),
        Window(start_frame=220, end_frame=221, closeness=0.7),  # seen already, with the first
        Window(start_frame=350, end_frame=351, closeness=0.1),  # beyond the budget
    ]
    verdicts, shown = transnet.judge(path, nasa, 3, windows, budget_frames=200)
    assert shown == 200 and [v.window for v in verdicts] == windows[:3]
    cut, blend, nothing = verdicts
    assert isinstance(cut.seen, Cut) and cut.seen.frame == 240 and cut.probability > 0.8
    assert isinstance(blend.seen, Gradual) and abs(blend.seen.start_frame - 149) <= 4
    assert nothing.seen is None and nothing.probability < 0.2
    alone = transnet.find_transitions(path, nasa.span(130, 280), 3)
    assert [c.frame for c in alone.cuts] == [110] and [g.kind for g in alone.gradual] == ["dissolve"]


def test_chunks_overlap_and_count_every_frame_once():
    frames = [np.full((1, 1, 3), i % 251, np.uint8) for i in range(2 * transnet.CHUNK + 60)]
    counted: list[int] = []
    for pictures, skip, count in transnet._chunks(iter(frames)):
        counted += pictures[skip : skip + count, 0, 0, 0].tolist()
        assert len(pictures) <= transnet.CHUNK + 2 * transnet.MARGIN
    assert counted == [i % 251 for i in range(len(frames))]


def test_pictures_of_a_span_are_upright_and_counted(nasa):
    clock = nasa.clock
    path = str(SAMPLES / "nasa_13013_multishot_270p.mp4")
    pictures = list(span_pictures(path, 3, int(clock.pts[100]), clock.frame_end_pts(109), 27, 48))
    assert len(pictures) == 10 and all(p.shape == (27, 48, 3) and p.dtype == np.uint8 for p in pictures)


# --- real videos -----------------------------------------------------------------------------------------------------

SAMPLE_TRANSITIONS = {  # file -> cuts, windows of gradual transitions
    "nasa_13013_multishot_270p.mp4": ([240], [(149, 179)]),
    "city_night_timelapse_mpeg2.mpg": ([116], []),
    "roof_handheld_360p.mp4": ([], []),
    "pattern_sd_grey_bars.mp4": ([], []),
    "bottles_static_360p.mp4": ([], []),
    "black_silent_10s.mp4": ([], []),
}


@needs_blends
@pytest.mark.parametrize("name", SAMPLE_TRANSITIONS)
def test_samples(name):
    cuts, windows = SAMPLE_TRANSITIONS[name]
    answer = find_transitions(make_strip(str(SAMPLES / name), looks=False).strip)
    assert [c.frame for c in answer.cuts] == cuts
    assert len(answer.gradual) == len(windows)
    for each, (start, end) in zip(answer.gradual, windows, strict=True):
        assert abs(each.start_frame - start) <= 5 and abs(each.end_frame - end) <= 5


@needs_blends
@pytest.mark.parametrize(
    ("name", "cuts", "windows"),
    [
        ("bbb_opening_multishot_720p_vp8.webm", [283, 376, 551], [(0, 48, "fade"), (690, 720, "fade")]),
        ("bbb_sky_1080p_hevc.ts", [], [(0, 50, "fade")]),
        ("bikes_multishot_272p.mp4", [30, 76, 137, 187, 242], []),
        ("pattern_portrait_hd.mp4", [], []),
    ],
)
def test_labelled_videos(shared_videos, name, cuts, windows):
    assert found_near(shared_videos / name) == (cuts, windows)


def found_near(path: Path) -> tuple[list[int], list[tuple[int, int, str]]]:
    """Cuts, and gradual transitions with their ends rounded to the labels' precision, ten frames."""
    labels = [0, 48, 50, 690, 720]
    cuts, spans = found(make_strip(str(path), looks=False).strip)
    near = lambda frame: min(labels, key=lambda label: abs(label - frame))  # noqa: E731
    return cuts, [(near(start), near(end), kind) for start, end, kind in spans]


@needs_blends
def test_the_command_prints_cuts_and_gradual_transitions(capsys):
    assert main(["shots", str(SAMPLES / "nasa_13013_multishot_270p.mp4"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["stream"] == 3 and answer["frames"] == 390
    assert [cut["frame"] for cut in answer["cuts"]] == [240] and set(answer["cuts"][0]) == {"frame", "seconds", "score"}
    (each,) = answer["gradual"]
    assert set(each) == {"start_frame", "end_frame", "start_seconds", "end_seconds", "kind"}
    assert each["kind"] == "dissolve" and abs(each["start_seconds"] - 149 / 29.97) < 0.2
