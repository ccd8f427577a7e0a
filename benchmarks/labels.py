"""What people saw in the labelled videos, as the rows of a SOURCES.csv say it, in words that can be counted.

A label that says neither yes nor no ("thin dark edge", "small screen content") counts neither way.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

Labels = Mapping[str, str]
STATIC, PAN, TILT, ZOOM, ROLL, HANDHELD = "static", "pan", "tilt", "zoom", "roll", "handheld"


def read_labels(folder: Path) -> dict[str, Labels]:
    """Rows of FOLDER/SOURCES.csv by file name; empty where there is none."""
    path = folder / "SOURCES.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        return {row["file"]: row for row in csv.DictReader(lines)}


def is_single_shot(row: Labels) -> bool:
    """Labels of camera and motion are of whole videos, so only these can be scored."""
    return not (row.get("hard_cut_frames") or row.get("hard_cuts")) and row.get("n_shots", "1") in ("", "1")


def has_text(row: Labels) -> bool | None:
    """Overlaid or filmed text that can be read."""
    words = row.get("text", "")
    if words.startswith("yes"):
        return True
    return False if words.startswith("no") else None


def has_mark(row: Labels) -> bool | None:
    """A logo or watermark over the picture; burned-in letters that stay count as one."""
    words = row.get("text", "")
    if "logo" in words or "burned in" in words:
        return True
    return False if words.startswith("no") else None


def has_inset(row: Labels) -> bool | None:
    """A picture inside the picture."""
    said = row.get("description", "") + row.get("shows", "")
    if "inset" in said or "same recording" in said:
        return True
    return False if has_text(row) is False else None


def has_borders(row: Labels) -> bool | None:
    """Bars; where a crop box is named, see `crop_box`."""
    words = row.get("borders", "")
    if re.search(r"letterbox|pillarbox\b|side bars", words):
        return True
    return False if words == "no" or words.startswith(("no;", "no ")) else None


def crop_box(row: Labels) -> tuple[int, int, int, int] | None:
    """(width, height, left, top) of the picture inside bars, where a person named it."""
    words = row.get("borders", "")
    full = re.search(r"(\d+)x(\d+)\+(\d+)\+(\d+)", words)
    if full:
        width, height, left, top = (int(n) for n in full.groups())
        return width, height, left, top
    found = re.fullmatch(r"(\d+):(\d+):(\d+):(\d+)", row.get("cropdetect", "") or "")
    if has_borders(row) and found:
        width, height, left, top = (int(n) for n in found.groups())
        return width, height, left, top
    return None


def is_still(row: Labels) -> bool | None:
    """Nothing that a model of motion could learn from: a frozen picture, a screen, a slideshow."""
    words = f"{row.get('camera', '')} {row.get('description', '')} {row.get('shows', '')}"
    if re.search(r"frozen|static screen|stills", words):
        return True
    return False if row.get("camera") else None


def is_shaky(row: Labels) -> bool | None:
    """Shaken so that nobody would want to watch it; an ordinary hand is not."""
    words = row.get("camera", "")
    if re.search(r"shak", words):
        return True
    return False if words and "jitter" not in words else None


def camera_words(row: Labels) -> set[str]:
    """Every name under which the labelled move would be right; empty where the label does not tell."""
    words = row.get("camera", "")
    if re.search(r"n/a|none|mixed|CG|weave|with zooms|^slow$", words) or not words:
        return set()
    found = set()
    for name, pattern in (
        (PAN, r"\bpan\b|slide|tracking"),
        (TILT, r"tilt|tracking"),
        (ZOOM, r"push|zoom|forward|tracking"),
        (ROLL, r"rotation|orbit"),
        (HANDHELD, r"handheld|shak|tracking"),
    ):
        if re.search(pattern, words):
            found.add(name)
    if re.search(r"^static|nearly static", words) and not found - {HANDHELD}:
        found |= {STATIC}
    if "drift" in words or "slight" in words:
        found |= {STATIC, PAN, TILT}
    return found


def count(verdicts: Iterable[tuple[bool, bool]]) -> tuple[int, int, int, int]:
    """(right, wrong, missed, passed) of (objected, should object)."""
    tally = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for objected, should in verdicts:
        tally[objected, should] += 1
    return tally[True, True], tally[True, False], tally[False, True], tally[False, False]
