"""Cuts, dissolves and fades from the strip, with no pixels in sight.

A hard cut is a frame that differs from the one before far more than its neighbourhood does, for good. In a dissolve a frame is
the mean of the frames before and after it although these differ. A fade leaves or enters a plain black or white picture steadily.
"""

from dataclasses import dataclass

import numpy as np

from curation.clips.blends import transition_lag
from curation.clips.strip import Strip
from curation.shots.transitions import Cut, Gradual, Kind, Transitions, Window

DETECTOR_VERSION = 2
WINDOW = 12  # frames on either side
# change x prominence. Of the 37 labelled cuts of 85 real videos the weakest scores 101 (a whip of the camera into the cut), the
# strongest false one 74 (a swung camera); of 298 simulated joins of these videos 4 % lie below 82 (LOG.md, 2026-11-21)
CUT_SCORE = 82.0
CALM = 2.0  # luma; in a still neighbourhood a caption is as prominent as a cut, though it changes little
CUT_LASTS = 0.4  # of the change must still be there a quarter second later; a flash is gone by then
UNSURE = (0.35, 1.5)  # scores, in thresholds, that a referee is asked about

# residual / (long change + 1): linear dissolves 0.02-0.25, with motion in long ones up to 0.5; of 50,000 simulated frames within
# shots, 4 runs below 0.25 with a long change above 10
BLEND = 0.25
BLEND_UNSURE = 0.40
BLEND_EDGE = 0.45  # a still dissolve has 0.5 at its two ends
# luma; simulated dissolves of 24 to 48 frames reach 18-50, shorter ones 25-107; a car leaving a grey road reaches 18, a title 14
LONG_CHANGE, LONG_CHANGE_UNSURE = 19.0, 10.0
LONGEST_DISSOLVE = 2.5  # seconds; what blends for longer is a moving light or a slow pan
# share of the change that is change of brightness: the iris, a cloud, or a sky that the camera pans over
UNIFORM = 0.8
UNIFORM_CHANGE = 40.0  # luma in half a second, at most: such light changes slowly (seen: 10-32), short dissolves do not
SHIFT = 0.15  # of the rise in brightness may be change of contrast, when light is added and not multiplied

PLAIN_CONTRAST = 3.0  # luma; a black or white picture
BLACK, WHITE = 28.0, 224.0  # luma
FADE_FRAMES = 4  # at least; anything faster is a cut to black
FADE_STEP = 0.4  # of the whole rise may happen between two frames
OPEN_FADE_SECONDS = 0.75
OPEN_FADE_LOSS = 0.25  # of the contrast, in a fade that the end of the file breaks off


def find_transitions(strip: Strip, sensitivity: float = 1.0) -> Transitions:
    """All transitions of a video in time order. A sensitivity of 2 halves the thresholds of change.

    Wants the signals luma_change, long_change, blend_residual, brightness and contrast of every frame
    (`curation.clips.blends` says what the second and third are).
    """
    signals = _Signals(strip)
    fades = _fades(signals)
    dissolves, doubtful = _dissolves(signals, fades, sensitivity)
    gradual = sorted([*fades, *dissolves], key=lambda each: each.start)
    cuts, unsure = [], []
    for frame, score in _cut_scores(signals, sensitivity):
        if any(each.start < frame < each.end for each in gradual):
            continue
        if score >= 1:
            cuts.append(Cut(frame=frame, seconds=signals.second(frame), score=score))
        if UNSURE[0] <= score < UNSURE[1]:
            unsure.append(Window(start_frame=frame, end_frame=frame + 1, closeness=min(score, 1 / score)))
    unsure += [
        Window(start_frame=each.start, end_frame=each.end, closeness=each.closeness)
        for each in [*doubtful, *(one for one in dissolves if one.closeness > 1 / UNSURE[1])]
        if not any(each.start <= cut.frame < each.end for cut in cuts)
    ]
    return Transitions(
        cuts=cuts,
        gradual=[
            Gradual(
                start_frame=each.start,
                end_frame=each.end,
                start_seconds=signals.second(each.start),
                end_seconds=signals.second(each.end),
                kind=each.kind,
            )
            for each in gradual
        ],
        unsure=sorted(unsure, key=lambda window: window.start_frame),
    )


def find_cuts(strip: Strip, sensitivity: float = 1.0) -> list[Cut]:
    """Only the hard cuts, in time order. A sensitivity of 2 halves the threshold."""
    signals = _Signals(strip)
    return [
        Cut(frame=frame, seconds=signals.second(frame), score=score)
        for frame, score in _cut_scores(signals, sensitivity)
        if score >= 1
    ]


def is_plain(contrast: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Which frames are plain black or white: bool [F] from the contrast and brightness of each, [F]."""
    return (contrast < PLAIN_CONTRAST) & ((brightness < BLACK) | (brightness > WHITE))


@dataclass(frozen=True, kw_only=True)
class _Span:
    start: int
    end: int
    kind: Kind
    closeness: float = 0.0


class _Signals:
    """The arrays of a strip that transitions are found by, as float64 [F]."""

    def __init__(self, strip: Strip):
        self.strip = strip
        self.change = np.nan_to_num(strip.signals["luma_change"].astype(np.float64))
        self.change[:1] = 0  # the first frame of a span has its predecessor elsewhere
        self.long_change = strip.signals["long_change"].astype(np.float64)
        # the first lag frames of a video have none; a span from its middle has no such start
        self.lag = int(np.isfinite(self.long_change).argmax()) or transition_lag(strip.fps)
        self.ratio = strip.signals["blend_residual"].astype(np.float64) / (self.long_change + 1)
        self.brightness = strip.signals["brightness"].astype(np.float64)
        self.contrast = strip.signals["contrast"].astype(np.float64)

    def __len__(self) -> int:
        return len(self.change)

    def second(self, frame: int) -> float:
        clock = self.strip.clock
        return float(clock.frame_seconds[frame]) if frame < len(self) else clock.duration_seconds


def _cut_scores(signals: _Signals, sensitivity: float) -> list[tuple[int, float]]:
    """Frames that may be cuts with their scores, down to the lowest a referee would be asked about."""
    change, found = signals.change, []
    for frame in np.flatnonzero(change * change >= UNSURE[0] * CUT_SCORE / sensitivity):
        around = np.concatenate([change[max(1, frame - WINDOW) : frame], change[frame + 1 : frame + 1 + WINDOW]])
        if len(around) < 3:
            continue
        stays = signals.long_change[frame - 1 : frame + 1]
        if not np.isnan(stays).all() and np.nanmax(stays) < CUT_LASTS * change[frame]:
            continue
        prominence = change[frame] / (np.sort(around)[-2:].mean() + CALM)
        score = float(change[frame] * prominence * sensitivity / CUT_SCORE)
        if score >= UNSURE[0]:
            found.append((int(frame), score))
    return found


# --- dissolves -------------------------------------------------------------------------------------------------------


def _dissolves(signals: _Signals, fades: list[_Span], sensitivity: float) -> tuple[list[_Span], list[_Span]]:
    """Dissolves, and spans that may be some."""
    taken = np.zeros(len(signals), bool)
    for fade in fades:
        taken[max(0, fade.start - signals.lag) : fade.end + signals.lag] = True
    found: list[_Span] = []
    doubtful: list[_Span] = []
    # a lag around a hard cut compares two shots there; it never looks like a blend, but it may break a run in two
    lively = ~taken & (np.nan_to_num(signals.long_change) > LONG_CHANGE_UNSURE / sensitivity)
    for start, end in _runs(lively & (np.nan_to_num(signals.ratio, nan=1.0) < BLEND_UNSURE), signals.lag // 2):
        best = start + int(np.nanargmin(signals.ratio[start:end]))
        first, last = _extent(signals, best)
        too_long = signals.second(last) - signals.second(first) > LONGEST_DISSOLVE
        if too_long or _uniform(signals, first, last):
            continue
        blend = BLEND / max(float(signals.ratio[best]), 1e-3)
        lively_enough = float(np.nanmax(signals.long_change[first:last])) * sensitivity / LONG_CHANGE
        score = min(blend, lively_enough)
        span = _Span(start=first, end=last, kind="dissolve", closeness=min(score, 1 / score))
        kept = found if score >= 1 else doubtful
        if not kept or first >= kept[-1].end:
            kept.append(span)
    doubtful = [each for each in doubtful if not any(each.start < one.end and each.end > one.start for one in found)]
    return found, doubtful


def _extent(signals: _Signals, best: int) -> tuple[int, int]:
    """How far a blend reaches to both sides of its clearest frame: until the residual is half the change, or the change is gone."""
    least = 0.4 * signals.long_change[best]

    def inside(frame: int) -> bool:
        return 0 <= frame < len(signals) and signals.ratio[frame] < BLEND_EDGE and signals.long_change[frame] >= least

    start = end = best
    while inside(start - 1) or inside(start - 2):
        start -= 1
    while inside(end + 1) or inside(end + 2):
        end += 1
    return start, end + 1


def _uniform(signals: _Signals, start: int, end: int) -> bool:
    """Whether the picture only became brighter or darker as a whole: light, not another picture."""
    first, last = max(0, start - signals.lag // 2), min(len(signals) - 1, end + signals.lag // 2)
    middle = slice(start, end)
    k = signals.lag
    before, after = signals.brightness[max(0, start - k) : max(1, end - k)], signals.brightness[start + k : end + k]
    n = min(len(before), len(after), end - start)
    if not n:
        return False
    share = np.abs(after[:n] - before[:n]) / (signals.long_change[middle][:n] + 1e-6)
    if np.nanmedian(share) < UNIFORM or np.nanmax(signals.long_change[middle]) > UNIFORM_CHANGE:
        return False
    rise = abs(signals.brightness[last] - signals.brightness[first])
    gain = (signals.brightness[last] - 15) / max(1.0, signals.brightness[first] - 15)
    stretch = (signals.contrast[last] + 1) / (signals.contrast[first] + 1)
    shifted = abs(signals.contrast[last] - signals.contrast[first]) < SHIFT * rise
    return bool(shifted or abs(np.log(max(gain, 1e-3) / stretch)) < 0.25)


# --- fades -----------------------------------------------------------------------------------------------------------


def _fades(signals: _Signals) -> list[_Span]:
    """Fades out of, into and through black or white, the plain frames between included; and fades the file's ends break off."""
    n = len(signals)
    plain = is_plain(signals.contrast, signals.brightness)
    spans: list[_Span] = []
    for start, end in _runs(plain, 1):
        if end - start == n:
            continue
        first, last = start - _ramp(signals, start, -1), end + _ramp(signals, end - 1, 1)
        # a file's own black beginning or end is no shot either, faded or not
        if first < start or last > end or start == 0 or end == n:
            spans.append(_Span(start=first, end=last, kind="fade"))
    spans = _joined(spans)
    if not spans or spans[-1].end < n:
        length = _open_fade(signals, -1)
        if length:
            spans.append(_Span(start=n - length, end=n, kind="fade"))
    if not spans or spans[0].start > 0:
        length = _open_fade(signals, 1)
        if length:
            spans.insert(0, _Span(start=0, end=length, kind="fade"))
    return spans


def _ramp(signals: _Signals, plain: int, step: int) -> int:
    """Frames from a plain frame until the picture stands, 0 if it does not come or go steadily.

    Under a fade the distance to the plain picture, sqrt(contrast^2 + (brightness - its)^2), is the faded picture's times its share.
    """
    edge = len(signals) - 1 if step > 0 else 0
    level = np.hypot(signals.contrast, signals.brightness - signals.brightness[plain])[plain::step]
    level = level[: abs(edge - plain) + 1]
    if len(level) <= FADE_FRAMES:
        return 0
    length = 0
    while length + 1 < len(level):
        ahead = level[min(len(level) - 1, length + 3)] - level[length]
        mean = (level[length] - level[0]) / max(1, length)
        if ahead <= max(0.5, 0.75 * mean):  # three frames ahead bring less than a quarter of the rise so far
            break
        length += 1
    steps = np.diff(level[: length + 1])
    rise = level[length] - level[0]
    steady = length >= FADE_FRAMES and rise > 8 and steps.max() < FADE_STEP * rise
    return length if steady else 0


def _open_fade(signals: _Signals, step: int) -> int:
    """Frames of a fade that the file's end (step -1) or beginning (1) breaks off before it is black; 0 if there is none."""
    window = max(3, signals.lag // 2)
    smooth = np.ones(window) / window
    if len(signals) < 4 * signals.lag:
        return 0
    brightness = np.convolve(signals.brightness, smooth, "valid")[::step]
    contrast = np.convolve(signals.contrast, smooth, "valid")[::step]
    rising = (np.diff(brightness) > 0) & (np.diff(contrast) > 0)
    length = len(rising) if rising.all() else int(rising.argmin())
    ratio = signals.ratio[::step][: length + window]
    long_enough = length >= OPEN_FADE_SECONDS * signals.strip.fps
    if not long_enough or np.isnan(ratio).all() or np.nanmedian(ratio) > BLEND_UNSURE:
        return 0
    lost = 1 - contrast[0] / contrast[length]
    return length + window // 2 if lost > OPEN_FADE_LOSS else 0


def _joined(spans: list[_Span]) -> list[_Span]:
    """Spans in order, those that meet made one."""
    result: list[_Span] = []
    for span in spans:
        if result and span.start <= result[-1].end:
            result[-1] = _Span(start=result[-1].start, end=max(span.end, result[-1].end), kind="fade")
        else:
            result.append(span)
    return result


def _runs(mask: np.ndarray, gap: int) -> list[tuple[int, int]]:
    """Half-open runs of True in a bool [F]; runs at most `gap` frames apart are one."""
    frames = np.flatnonzero(mask)
    if not len(frames):
        return []
    parts = np.split(frames, np.flatnonzero(np.diff(frames) > gap + 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]
