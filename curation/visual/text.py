"""Text over the picture: titles, subtitles, watermarks, screens."""

from functools import cache
from typing import Any, final

import numpy as np

from curation.contracts import ClipView, Filter, Score, Signal

PICTURES = 4
CERTAIN = 0.9  # once a picture is this sure, further ones (0.25-0.55 CPU-s each) cannot change any verdict


@cache
def _reader() -> Any:
    from rapidocr import RapidOCR  # 0.4 s to import; only workers that read need it

    one_thread = {
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return RapidOCR(params=one_thread | {"Global.log_level": "error"})


def read_text(picture: np.ndarray) -> list[tuple[str, float, float]]:
    """Words in an RGB picture [H, W, 3]: [(text, detection x recognition score, share of the picture's area)]."""
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    detected = _reader()(bgr, use_det=True, use_cls=False, use_rec=False)
    if detected.boxes is None or not len(detected.boxes):
        return []
    found = []
    for box, detection in zip(detected.boxes, detected.scores, strict=True):
        x0, y0 = np.maximum(np.floor(box.min(axis=0)), 0).astype(int)
        x1, y1 = np.ceil(box.max(axis=0)).astype(int) + 1
        read = _reader()(bgr[y0:y1, x0:x1], use_det=False, use_cls=False, use_rec=True)
        for text, recognition in zip(read.txts or (), read.scores or (), strict=True):
            if text.strip():
                area = (x1 - x0) * (y1 - y0) / (bgr.shape[0] * bgr.shape[1])
                found.append((text.strip(), float(detection) * float(recognition), float(area)))
    return found


@final
class Text(Filter):
    """The paper keeps a clip if detection x recognition score is below 0.6 on all sampled frames (section 3.2.1)."""

    stage = "visual"
    signals = (
        Signal(
            name="text_score",
            unit="0..1",
            meaning="highest detection x recognition score of any text on up to 4 pictures",
        ),
        Signal(name="text_share", unit="0..1", meaning="largest share of one picture's area that text covers"),
    )
    rung = "models"

    def score(self, clip: ClipView) -> dict[str, Score]:
        pictures = clip.pictures(PICTURES)
        if not pictures:
            return self.unmeasured("no picture was taken of it")
        best, share = 0.0, 0.0
        for picture in pictures:
            words = read_text(picture)
            best = max([best, *(score for _, score, _ in words)])
            share = max(share, min(1.0, sum(area for _, score, area in words if score >= 0.3)))
            if best >= CERTAIN:
                break
        return {"text_score": best, "text_share": share}
