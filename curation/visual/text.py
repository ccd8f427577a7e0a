"""Text over the picture: titles, subtitles, watermarks, screens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import cv2
import numpy as np

from curation.clips.errors import WrongCall
from curation.contracts import ClipView, Filter, Models, Score, Signal, Unmeasured
from curation.visual.lettering import lettering

if TYPE_CHECKING:
    from models.content.reading import Word

PICTURES = 4
CERTAIN = 0.7  # once text is this sure, further pictures change no verdict; drawn text has 0.7-0.9, the paper's rule stands at 0.6
# luma per pixel; every labelled film with text has a look of 9 or more. Of 378 titles drawn on plain footage that are read, 3 stay below (9 below 8), of
# faint and half-transparent ones a fifth; of looks without text a fifth, too
LEAST_LETTERING = 7.0
STEADY = 0.15  # of its height, and two pixels: what a detector's box of unmoving text moves by
SAME_LINE = 0.35  # of its height: letters with and without descenders


@final
class Text(Filter):
    """The paper keeps a clip if detection x recognition score is below 0.6 on all sampled frames (section 3.2.1).

    Text that was filmed is told from text that was laid over by its place: an overlay stays where it is while the picture
    moves, and its lines come again in the same band (subtitles). Text that two pictures show in different places is
    carried along by the camera or by what it stands on, and is no overlay; neither are credits that scroll. Where neither the
    camera nor the thing moves, nothing tells a sign from a title: both count as overlays.
    """

    stage = "visual"
    signals = (
        Signal(
            name="text_score",
            unit="0..1",
            meaning="highest detection x recognition score of any text on up to 4 pictures; 0 where nothing looks like writing",
            version=2,
        ),
        Signal(
            name="text_share",
            unit="0..1",
            meaning="largest share of one picture's area that text covers",
            version=2,
        ),
        Signal(
            name="overlay_text_score",
            unit="0..1",
            meaning="highest score at which text is seen on two pictures in the same place or line",
        ),
    )
    rung = "models"
    cost = 18.0

    def score(self, clip: ClipView) -> dict[str, Score]:
        if not clip.looks:
            return self.unmeasured("no picture was taken of it")
        from models.content.reading import read_words

        pictures = clip.pictures(PICTURES)
        seen: list[list[Word]] = []
        best, share, overlay = 0.0, 0.0, 0.0
        for picture in _far_apart(pictures):
            words: list[Word] = []
            if lettering(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)) >= LEAST_LETTERING:
                words = read_words(picture, clip.models.text_reader, clip.models.easyocr_weights)
            seen.append(words)
            area = picture.shape[0] * picture.shape[1]
            best = max([best, *(word.score for word in words)])
            share = max(share, min(1.0, sum(_area(word.box) for word in words if word.score >= 0.3) / area))
            overlay = overlay_score(seen)
            if best >= CERTAIN and overlay >= CERTAIN:
                break
        steady: Score = overlay
        if len(pictures) == 1 and best:
            steady = Unmeasured("a single picture does not tell what stays")
        return {"text_score": best, "text_share": share, "overlay_text_score": steady}

    def measured_with(self, models: Models) -> str:
        from models.content.reading import reader_name

        return reader_name(models.text_reader)

    def require(self, models: Models) -> None:
        if models.text_reader != "easyocr":
            return
        from models.content.reading import require_easyocr

        try:
            require_easyocr(models.easyocr_weights)
        except ValueError as error:
            raise WrongCall(str(error)) from error


def _far_apart(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The first, the last, then those between: what moves has moved most between the first two."""
    return [*pictures[:1], *pictures[:0:-1][:1], *pictures[1:-1]]


def overlay_score(pictures: "Sequence[Sequence[Word]]") -> float:
    """The highest score at which a text stands in the same place of two pictures, and in no other place of any; 0 for none."""
    best = 0.0
    for number, words in enumerate(pictures):
        others = [other for place, other in enumerate(pictures) if place != number]
        for word in words:
            found = [max((o.score for o in other if _same_place(word, o)), default=0.0) for other in others]
            moved = any(
                not score and any(_same_text(word, o) for o in other)
                for score, other in zip(found, others, strict=True)
            )
            if found and not moved:
                best = max(best, min(word.score, max(found)))
    return best


def _same_place(one: "Word", other: "Word") -> bool:
    """Whether two words share a place: the same words within the reach of a box's error, others on the same line."""
    (left, top, right, bottom), (other_left, other_top, other_right, other_bottom) = one.box, other.box
    height = bottom - top
    off_line = max(abs(top - other_top), abs(bottom - other_bottom))
    # of lines that are set to the left, to the right or centred, one of these stays
    off = min(abs(left - other_left), abs(right - other_right), abs(left + right - other_left - other_right) / 2)
    slack = SAME_LINE if not _same_text(one, other) else STEADY
    return off_line <= slack * height + 2 and off <= slack * height + 2


def _same_text(one: "Word", other: "Word") -> bool:
    return one.text.casefold() == other.text.casefold()


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
