"""The quality head: clean frames above damaged ones, from crops that keep the damage."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from curation.clips.frames import decode_look
from curation.clips.strip import Decoded, make_strip
from curation.contracts import ClipView
from curation.visual.quality import Quality, crops
from models.content.quality import REPORT, QualityModel, log_odds

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def bottles() -> Decoded:
    pytest.importorskip("efficientnet_lite_pytorch")
    return make_strip(str(SAMPLES / "bottles_static_360p.mp4"), "bottles")


def _score(decoded: Decoded, damage) -> float:
    looks = []
    for frame, look in decoded.looks[:6]:
        picture = damage(decode_look(look))
        coded = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
        looks.append((float(decoded.strip.clock.frame_seconds[frame]), coded))
    return float(Quality().score(ClipView(facts=decoded.facts, strip=decoded.strip, looks=looks))["visual_quality"])


def _starved(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], cv2.IMREAD_COLOR))


def test_a_clean_clip_scores_above_its_damaged_copies(bottles: Decoded) -> None:
    rng = np.random.default_rng(0)
    clean = _score(bottles, lambda p: p)
    damaged = {
        "blurred": _score(bottles, lambda p: cv2.GaussianBlur(p, (0, 0), 3)),
        "starved": _score(bottles, _starved),
        "noisy": _score(bottles, lambda p: np.clip(p + rng.normal(0, 25, p.shape), 0, 255).astype(np.uint8)),
        "dark": _score(bottles, lambda p: (p * 0.15).astype(np.uint8)),
    }
    assert clean > 0.9 and max(damaged.values()) < 0.5, damaged


def test_crops_are_native_pixels_with_the_most_contrast() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    picture[:, :208] = 128
    assert crops(picture).shape == (1, 224, 224, 3)
    cut = crops(picture, 2)
    assert {each.tobytes() for each in cut} <= {picture[68:292, x : x + 224].tobytes() for x in (0, 416)}
    assert cut[0].std() > cut[1].std()
    assert crops(picture[:100, :150]).shape == (1, 224, 224, 3), "a small picture is mirrored, not scaled"


def test_odds_are_a_logistic_regression_of_the_features() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    model = QualityModel()
    noise = np.random.default_rng(1).integers(0, 256, (2, 224, 224, 3), np.uint8)
    features = model.features(noise)
    by_hand = ((features - model.head["mean"]) / model.head["scale"] * model.head["weight"]).sum(1) + model.head["bias"]
    assert features.shape == (2, 544) and torch.isfinite(features).all()
    torch.testing.assert_close(torch.from_numpy(model(noise)), by_hand)
    torch.testing.assert_close(log_odds(model.head, features.mean(0, keepdim=True))[0], by_hand.mean())
    with pytest.raises(ValueError, match=r"uint8 \[N, 224, 224, 3\]"):
        model(noise[:, :100])


def test_the_stored_report_is_of_videos_held_out_by_group() -> None:
    report = json.loads(REPORT.read_text())
    assert report["groups"] >= 10 and report["held_out"]["all"]["auc"] > 0.9
    assert {"blur", "upscale", "jpeg", "h264", "noise", "banding", "exposure"} < set(report["held_out"])
