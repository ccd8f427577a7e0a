"""TransNetV2 as a shot detector of its own, or as the referee of another: a second decode, at 48x27 pixels.

It costs some 16 ms of CPU a frame, fifteen times a plain decode: the referee sees only what the strip's detector is unsure about.
"""

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np

from curation.clips.blends import transition_lag
from curation.clips.frames import span_pictures
from curation.clips.strip import Strip
from curation.shots.strip_detector import is_plain
from curation.shots.transitions import Cut, Gradual, Transitions, Verdict, Window
from models.transnet import HEIGHT, MIDDLE, WIDTH, WINDOW, TransNet, load_transnet, transition_probabilities

CHANGE = 0.5  # the paper's threshold for the head that fires once per transition
CHANGE_IN_GRADUAL = 0.3  # that head spreads over a long transition: 0.50-0.59 in the fades of four real videos
WITHIN = 0.5
GRADUAL_FRAMES = 4  # fewer in a row are a hard cut with its neighbours
CHUNK = 40 * MIDDLE  # frames held at once
MARGIN = (WINDOW - MIDDLE) // 2  # frames around those whose answer counts


@cache
def _network() -> TransNet:
    return load_transnet()


def find_transitions(path: str, strip: Strip, stream_index: int) -> Transitions:
    """All transitions of a video by TransNetV2 alone. Raises ValueError where its weights are not installed."""
    clock = strip.clock
    pictures = span_pictures(path, stream_index, int(clock.pts[0]), clock.end_pts, HEIGHT, WIDTH)
    changes, withins = [], []
    for frames, skip, count in _chunks(pictures):
        change, within = transition_probabilities(_network(), frames)
        changes.append(change[skip : skip + count])
        withins.append(within[skip : skip + count])
    found = read_probabilities(np.concatenate(changes), np.concatenate(withins), strip)
    cuts = [each for each in found if isinstance(each, Cut)]
    return Transitions(cuts=cuts, gradual=[each for each in found if isinstance(each, Gradual)], unsure=[])


def judge(
    path: str, strip: Strip, stream_index: int, windows: list[Window], budget_frames: int
) -> tuple[list[Verdict], int]:
    """What TransNetV2 sees in the windows, those nearest to the threshold first, and how many frames it was shown.

    Stops before more than `budget_frames` frames are shown; the caller bounds them to a tenth of the video. Each window is
    judged from 100 frames around it, or more where it is longer than 50.
    """
    spans: list[tuple[int, int, np.ndarray, np.ndarray]] = []
    verdicts, shown = [], 0
    for window in sorted(windows, key=lambda each: (-each.closeness, each.start_frame)):
        start, end = context(window, len(strip))
        inner = (max(0, window.start_frame - MARGIN), min(len(strip), window.end_frame + MARGIN))
        known = next((span for span in spans if span[0] <= inner[0] and inner[1] <= span[1]), None)
        if known is None:
            if shown + end - start > budget_frames:
                continue
            pts, after = int(strip.clock.pts[start]), strip.clock.frame_end_pts(end - 1)
            frames = list(span_pictures(path, stream_index, pts, after, HEIGHT, WIDTH))
            if len(frames) != end - start:
                continue  # time stamps that a seek does not find again; the detector's own answer stands
            shown += len(frames)
            known = (start, end, *transition_probabilities(_network(), np.stack(frames)))
            spans.append(known)
        verdicts.append(_verdict(window, known, strip))
    return verdicts, shown


def context(window: Window, frames: int) -> tuple[int, int]:
    """The frames (half-open) that a window is judged from, in a video of so many frames."""
    length = window.end_frame - window.start_frame
    before = max(MARGIN, (WINDOW - length) // 2)
    start = max(0, window.start_frame - before)
    return start, min(frames, max(window.end_frame + MARGIN, start + WINDOW))


def _verdict(window: Window, span: tuple[int, int, np.ndarray, np.ndarray], strip: Strip) -> Verdict:
    start, _, change, within = span
    found = [
        each
        for each in read_probabilities(change, within, strip, start)
        if (isinstance(each, Cut) and window.start_frame - 1 <= each.frame <= window.end_frame)
        or (isinstance(each, Gradual) and each.start_frame <= window.end_frame and each.end_frame >= window.start_frame)
    ]
    # a cut shows at the frame before it
    near = slice(max(0, window.start_frame - 2 - start), window.end_frame + 1 - start)
    probability = float(change[near].max() + within[near].max()) / 2
    return Verdict(window=window, seen=found[0] if found else None, probability=probability)


def read_probabilities(change: np.ndarray, within: np.ndarray, strip: Strip, first: int = 0) -> list[Cut | Gradual]:
    """The two heads' probabilities, each [T] from frame `first` on, as transitions in time order."""
    result: list[Cut | Gradual] = []
    covered = np.zeros(len(change), bool)
    for start, end in _runs(within > WITHIN):
        if end - start >= GRADUAL_FRAMES and change[start:end].max() >= CHANGE_IN_GRADUAL:
            covered[start:end] = True
            result.append(_gradual(first + start, first + end, strip))
    for start, end in _runs((change > CHANGE) & ~covered):
        peak = start + int(change[start:end].argmax())
        frame = first + peak + 1
        if 0 < frame < len(strip):
            seconds = float(strip.clock.frame_seconds[frame])
            result.append(Cut(frame=frame, seconds=seconds, score=float(change[peak]) / CHANGE))
    return sorted(result, key=lambda each: each.frame if isinstance(each, Cut) else each.start_frame)


def _gradual(start: int, end: int, strip: Strip) -> Gradual:
    seconds = np.append(strip.clock.frame_seconds, strip.clock.duration_seconds)
    lag = transition_lag(strip.fps)
    near = slice(max(0, start - lag), end + lag)
    plain = is_plain(strip.signals["contrast"][near], strip.signals["brightness"][near]).any()
    return Gradual(
        start_frame=start,
        end_frame=end,
        start_seconds=float(seconds[start]),
        end_seconds=float(seconds[end]),
        kind="fade" if plain else "dissolve",
    )


def _chunks(pictures: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int, int]]:
    """Frames in chunks that overlap by a margin on both sides: (frames, how many to skip, how many count)."""
    held: list[np.ndarray] = []
    skip = 0
    while True:
        held += list(itertools.islice(pictures, CHUNK + 2 * MARGIN - len(held)))
        if not held or len(held) == skip:
            return
        last = len(held) < CHUNK + 2 * MARGIN
        count = len(held) - skip - (0 if last else MARGIN)
        yield np.stack(held), skip, count
        if last:
            return
        held, skip = held[skip + count - MARGIN :], MARGIN


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Half-open runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
