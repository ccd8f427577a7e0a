"""Every shot detector against labelled videos and against joins of real clips at known frames.

python -m benchmarks.shots [FOLDER] [--json] [--detectors strip,strip+transnet,...] [--joined 10]

FOLDER holds videos and their SOURCES.csv (file, hard_cut_frames or hard_cuts, and, where known, n_shots and gradual_and_notes or gradual); samples/ by default. A cut counts
within one frame, once. A gradual transition counts as found where any transition overlaps its window, and a cut inside such a
window is neither right nor wrong. Intervals: 95 % of 2,000 resamplings of the videos.
"""

import argparse
import csv
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import count_frames, span_pictures, write_video
from curation.clips.strip import Decoded, make_strip
from curation.shots import pyscenedetect, strip_detector, transnet
from curation.shots.detectors import REFEREE_SHARE
from curation.shots.transitions import Transitions, settle

TOLERANCE = 1  # frames
JOINED_SIZE = (360, 640)  # pixels (rows, columns)
JOINED_FPS = 25
JOINED_SHOTS = 8
DISSOLVES = (6, 8, 12, 16, 24, 32, 48)  # frames
FADES = (8, 12, 20)  # frames on either side of black


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A video and what is in it. gradual and neutral: frame windows (half-open); neutral ones are scored neither way."""

    path: Path
    cuts: tuple[int, ...]
    gradual: tuple[tuple[int, int], ...] = ()
    neutral: tuple[tuple[int, int], ...] = ()


@dataclass
class Score:
    """Counts of one video or of many."""

    right: int = 0
    wrong: int = 0
    missed: int = 0
    gradual_found: int = 0
    gradual_missed: int = 0
    gradual_right: int = 0
    gradual_wrong: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def f1(self) -> float:
        return _ratio(2 * self.right, 2 * self.right + self.wrong + self.missed)


@dataclass
class Run:
    """One detector's scores and cost over many videos."""

    scores: dict[str, Score] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    shown_frames: int = 0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def labels(folder: Path) -> Iterator[Labelled]:
    """The labelled videos of a folder."""
    with (folder / "SOURCES.csv").open() as file:
        for row in csv.DictReader(file):
            path = folder / row["file"]
            if not path.is_file() or not row.get("n_shots", not row.get("expected_fate")):
                continue
            notes = row.get("gradual_and_notes") or row.get("gradual") or ""
            windows = [
                (word, int(start), int(end) + 1)
                for word, start, end in re.findall(r"(dissolve|fade-in|fades out) (\d+)-(?:about )?(\d+)", notes)
            ]
            if notes.strip() == "fade-in":
                windows.append(("fade-in", 0, 24))
            yield Labelled(
                path=path,
                cuts=tuple(int(frame) for frame in (row.get("hard_cut_frames") or row.get("hard_cuts") or "").split()),
                gradual=tuple((start, end) for _, start, end in windows),
                neutral=tuple((int(a), int(b) + 1) for a, b in re.findall(r"(\d+)-(\d+) vertical slide", notes)),
            )


def compare(found: Transitions, truth: Labelled) -> Score:
    """Score one video."""
    free = [*truth.gradual, *truth.neutral]
    score, left = Score(), list(truth.cuts)
    for cut in found.cuts:
        near = min(left, key=lambda frame: abs(frame - cut.frame), default=None)
        if near is not None and abs(near - cut.frame) <= TOLERANCE:
            left.remove(near)
            score.right += 1
        elif not any(start - TOLERANCE <= cut.frame <= end + TOLERANCE for start, end in free):
            score.wrong += 1
    score.missed = len(left)
    spans = [(each.start_frame, each.end_frame) for each in found.gradual]
    anything = spans + [(cut.frame, cut.frame + 1) for cut in found.cuts]
    for window in truth.gradual:
        hit = any(_overlap(window, span) for span in anything)
        score.gradual_found += hit
        score.gradual_missed += not hit
    for span in spans:
        if any(_overlap(span, window) for window in truth.gradual):
            score.gradual_right += 1
        elif not any(_overlap(span, window) for window in truth.neutral):
            score.gradual_wrong += 1
    return score


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


# --- joined videos ---------------------------------------------------------------------------------------------------


def join(sources: list[Path], folder: Path, number: int) -> Iterator[Labelled]:
    """Videos of real single-shot clips joined at known frames, half of the joins hard, the others dissolves and fades to black."""
    random = np.random.default_rng(20261121)
    clips = []
    for path in sources:
        decoded = make_strip(str(path), looks=False)
        clock, count = decoded.strip.clock, min(90, len(decoded.strip))
        start = int(random.integers(0, len(decoded.strip) - count + 1))
        pictures = span_pictures(
            str(path), decoded.facts.stream_index, int(clock.pts[start]), clock.end_pts, *JOINED_SIZE
        )
        clip = np.stack(list(islice(pictures, count)))
        if count >= 40 and clip[0].std() > 12 and clip[-1].std() > 12:
            clips.append(clip)
    for index in range(number):
        order = random.permutation(len(clips))[:JOINED_SHOTS]
        video, cuts, gradual = clips[order[0]], [], []
        for each in order[1:]:
            after, kind = clips[each], random.choice(["hard", "hard", "dissolve", "fade"])
            if kind == "hard":
                cuts.append(len(video))
                video = np.concatenate([video, after])
                continue
            length = int(random.choice(DISSOLVES if kind == "dissolve" else FADES))
            # a transition is at most a third of the shorter shot, and the one before it is left alone
            length = min(length, len(after) // 3, (len(video) - max([0, *cuts, *(end for _, end in gradual)])) // 3)
            tail, head = video[-length:].astype(np.float32), after[:length].astype(np.float32)
            share = ((np.arange(length, dtype=np.float32) + 1) / (length + 1))[:, None, None, None]
            start = len(video) - length
            if kind == "dissolve":
                middle = tail * (1 - share) + head * share
            else:
                middle = np.concatenate([tail * (1 - share), np.zeros_like(tail[:2]), head * share])
            video = np.concatenate([video[:start], middle.round().astype(np.uint8), after[length:]])
            gradual.append((start, start + len(middle)))
        path = folder / f"joined_{index:02}.mp4"
        write_video(path, video, JOINED_FPS, crf=26)
        yield Labelled(path=path, cuts=tuple(cuts), gradual=tuple(gradual))


# --- detectors -------------------------------------------------------------------------------------------------------


def by_strip(path: str, decoded: Decoded, run: Run) -> Transitions:
    return strip_detector.find_transitions(decoded.strip)


def by_strip_and_transnet(path: str, decoded: Decoded, run: Run) -> Transitions:
    found = strip_detector.find_transitions(decoded.strip)
    seen = sum(frames for frames in _FRAMES[: len(run.scores) + 1])
    # one window of credit, so that short videos are judged too
    budget = round(REFEREE_SHARE * seen) - run.shown_frames + transnet.WINDOW
    stream = decoded.facts.stream_index
    verdicts, shown = transnet.judge(path, decoded.strip, stream, found.unsure, budget)
    run.shown_frames += shown
    return settle(found, verdicts)


def by_transnet(path: str, decoded: Decoded, run: Run) -> Transitions:
    return transnet.find_transitions(path, decoded.strip, decoded.facts.stream_index)


def by_pyscenedetect(name: str) -> Callable[[str, Decoded, Run], Transitions]:
    def detect(path: str, decoded: Decoded, run: Run) -> Transitions:
        return Transitions(cuts=pyscenedetect.find_cuts(path, decoded.strip, name), gradual=[], unsure=[])

    return detect


DETECTORS: dict[str, Callable[[str, Decoded, Run], Transitions]] = {
    "strip": by_strip,
    "strip+transnet": by_strip_and_transnet,
    "transnet": by_transnet,
    **{name: by_pyscenedetect(name) for name in pyscenedetect.DETECTORS},
}
_FRAMES: list[int] = []  # of the videos so far, for the referee's share


def measure(videos: list[Labelled], detectors: list[str]) -> dict[str, object]:
    """All detectors over all videos; every cost includes the strip's decode, as a curation run pays it, and a second decode if any."""
    runs = {name: Run() for name in detectors}
    decode = strip = seconds = 0.0
    _FRAMES.clear()
    for truth in videos:
        path = str(truth.path)
        before = time.process_time()
        try:
            count_frames(path)
            after = time.process_time()
            decoded = make_strip(path, looks=False)
        except UnreadableVideo:
            continue
        decode += after - before
        own = time.process_time() - after
        strip += own
        seconds += decoded.strip.clock.duration_seconds
        _FRAMES.append(len(decoded.strip))
        for name, run in runs.items():
            before = time.process_time()
            found = DETECTORS[name](path, decoded, run)
            run.cpu_seconds += time.process_time() - before + own
            run.scores[truth.path.name] = compare(found, truth)
        print(f"  {truth.path.name}", file=sys.stderr)
    rows = {}
    for name, run in runs.items():
        scores = list(run.scores.values())
        total = sum(scores, Score())
        low, high = _interval(scores)
        rows[name] = {
            "f1": total.f1,
            "f1_low": low,
            "f1_high": high,
            "precision": _ratio(total.right, total.right + total.wrong),
            "recall": _ratio(total.right, total.right + total.missed),
            "gradual_recall": _ratio(total.gradual_found, total.gradual_found + total.gradual_missed),
            "gradual_precision": _ratio(total.gradual_right, total.gradual_right + total.gradual_wrong),
            "cpu_per_second": _ratio(run.cpu_seconds, seconds),
            "decodes": _ratio(run.cpu_seconds, decode),
            "shown_share": run.shown_frames / max(1, sum(_FRAMES)),
            "videos": {video: vars(score) for video, score in run.scores.items()},
        }
    return {
        "videos": len(_FRAMES),
        "frames": sum(_FRAMES),
        "cuts": sum(len(truth.cuts) for truth in videos),
        "gradual": sum(len(truth.gradual) for truth in videos),
        "decode_cpu_seconds": decode,
        "detectors": rows,
    }


def _interval(scores: list[Score]) -> tuple[float, float]:
    counts = np.array([[s.right, s.wrong + s.missed] for s in scores])
    random = np.random.default_rng(0)
    drawn = counts[random.integers(0, len(counts), (2000, len(counts)))].sum(axis=1)
    drawn = drawn[drawn.sum(axis=1) > 0]
    values = 2 * drawn[:, 0] / np.maximum(1, 2 * drawn[:, 0] + drawn[:, 1])
    return (float("nan"), float("nan")) if not len(values) else tuple(np.percentile(values, [2.5, 97.5]))


def show(title: str, table: dict) -> None:
    print(
        f"{title}: {table['videos']} videos, {table['frames']} frames, {table['cuts']} cuts, {table['gradual']} gradual"
    )
    print(
        "  detector         F1    95 %         precision recall  gradual: recall precision  CPU-s/s  decodes  referee"
    )
    for name, row in table["detectors"].items():
        print(
            f"  {name:<15} {row['f1']:.3f}  {row['f1_low']:.2f}-{row['f1_high']:.2f}   {row['precision']:>8.3f} "
            f"{row['recall']:>8.3f} {row['gradual_recall']:>14.2f} {row['gradual_precision']:>9.2f} "
            f"{row['cpu_per_second']:>10.3f} {row['decodes']:>8.1f} {row['shown_share']:>7.1%}"
        )
        for video, score in row["videos"].items():
            faults = {k: v for k, v in score.items() if v and k not in ("right", "gradual_found", "gradual_right")}
            if faults:
                print(f"      {video}: {', '.join(f'{v} {k}' for k, v in faults.items())}")


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.shots", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent.parent / "samples")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    parser.add_argument("--detectors", default=",".join(DETECTORS), help="some of the detectors, by commas")
    parser.add_argument("--joined", type=int, default=10, help="how many videos to make by joining clips")
    parser.add_argument("--only-joined", action="store_true", help="leave out the labelled videos")
    given = parser.parse_args(words)
    detectors = given.detectors.split(",")
    videos = list(labels(given.folder))
    tables = {} if given.only_joined else {"labelled": measure(videos, detectors)}
    with tempfile.TemporaryDirectory() as folder:
        single = [v.path for v in videos if not v.cuts and not v.gradual and not v.path.name.startswith("odd_")]
        if given.joined and len(single) >= JOINED_SHOTS:
            tables["joined"] = measure(list(join(single, Path(folder), given.joined)), detectors)
    if given.json:
        print(json.dumps(tables, allow_nan=True))
        return
    for title, table in tables.items():
        show(title, table)


if __name__ == "__main__":
    main(sys.argv[1:])
