"""Copies of real videos with one fault each, made on purpose: what a filter should catch, and by how much.

A copy is the first 4 seconds of its source, upright, longer side at most 640 pixels. Every function writes one and returns what
is true of it, in pixels and seconds of the copy. Nothing is random but noise, and that has its seed: the same source gives the same copy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np

from curation.clips.frames import probe, span_pictures, write_video

SECONDS = 4.0
LONG_SIDE = 640  # pixels
MAX_FPS = 30.0
ALWAYS = 1 << 62  # ticks; further than any time stamp
Truth = dict[str, Any]


def read(path: str, seconds: float = SECONDS) -> tuple[np.ndarray, float]:
    """The start of a video: uint8 RGB [T, H, W, 3] with even sides, and frames per second."""
    facts = probe(path)
    scale = min(1.0, LONG_SIDE / max(facts.width, facts.height))
    height, width = (max(2, round(side * scale / 2) * 2) for side in (facts.height, facts.width))
    every = max(1, round(facts.fps / MAX_FPS))
    pictures = span_pictures(path, facts.stream_index, -ALWAYS, ALWAYS, height, width)
    frames = np.stack(list(islice(pictures, 0, max(1, round(seconds * facts.fps)), every)))
    return frames, facts.fps / every


def letterbox(source: str, target: str, share: float = 0.125) -> Truth:
    """Black bars above and below, each this share of the height."""
    return _barred(source, target, 0.0, share)


def pillarbox(source: str, target: str, share: float = 0.125) -> Truth:
    """Black bars left and right, each this share of the width."""
    return _barred(source, target, share, 0.0)


def windowbox(source: str, target: str, share: float = 0.1) -> Truth:
    """Black bars on all four sides."""
    return _barred(source, target, share, share)


def _barred(source: str, target: str, across: float, down: float) -> Truth:
    frames, fps = read(source)
    height, width = frames.shape[1:3]
    left, top = round(across * width / 2) * 2, round(down * height / 2) * 2
    copy = np.full_like(frames, 0)
    inner = (width - 2 * left, height - 2 * top)
    for place, frame in zip(copy, frames, strict=True):
        place[top : height - top, left : width - left] = cv2.resize(frame, inner, interpolation=cv2.INTER_AREA)
    write_video(target, copy, fps)
    return {"crop_left": left, "crop_top": top, "crop_width": inner[0], "crop_height": inner[1]}


def blur(source: str, target: str, sigma: float = 4.0) -> Truth:
    """Out of focus: Gaussian, sigma in pixels."""
    frames, fps = read(source)
    write_video(target, np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames]), fps)
    return {"sigma": sigma}


def noise(source: str, target: str, sigma: float = 20.0) -> Truth:
    """Gaussian noise on every value of every frame, sigma in 8-bit steps."""
    frames, fps = read(source)
    draw = np.random.default_rng(0)
    noisy = [np.clip(f + sigma * draw.standard_normal(f.shape, np.float32), 0, 255).astype(np.uint8) for f in frames]
    write_video(target, np.stack(noisy), fps)
    return {"sigma": sigma}


def compress(source: str, target: str, crf: int = 45) -> Truth:
    """So few bits that blocks show."""
    frames, fps = read(source)
    write_video(target, frames, fps, crf=crf)
    return {"crf": crf}


def slideshow(source: str, target: str, still_seconds: float = 1.0) -> Truth:
    """Stills, each held for a while."""
    frames, fps = read(source)
    held = max(1, round(still_seconds * fps))
    starts = np.arange(len(frames)) // held * held
    write_video(target, frames[starts], fps)
    return {"stills": len(set(starts.tolist())), "still_seconds": held / fps}


def freeze(source: str, target: str, share: float = 0.5) -> Truth:
    """The picture stops in the middle, for this share of the copy."""
    frames, fps = read(source)
    first = round(len(frames) * (1 - share) / 2)
    last = first + round(len(frames) * share)
    index = np.arange(len(frames))
    index[first:last] = first
    write_video(target, frames[index], fps)
    return {"frozen_seconds": (first / fps, last / fps), "frozen_share": (last - first) / len(frames)}


def loop(source: str, target: str, period_seconds: float = 1.0) -> Truth:
    """The same second again and again."""
    frames, fps = read(source)
    period = min(len(frames), max(1, round(period_seconds * fps)))
    write_video(target, frames[np.arange(len(frames)) % period], fps)
    return {"period_seconds": period / fps}


def speed_up(source: str, target: str, times: int = 4) -> Truth:
    """Faster: of every few frames one stays, at the same frame rate, from a source as much longer."""
    frames, fps = read(source, SECONDS * times)
    write_video(target, frames[::times], fps)
    return {"times": times}


def subtitle(source: str, target: str, text: str = "I never said she stole it") -> Truth:
    """One line of white text with a dark outline, burned in near the lower edge."""
    frames, fps = read(source)
    height, width = frames.shape[1:3]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 1.0
    scale *= 0.7 * width / cv2.getTextSize(text, font, scale, 2)[0][0]
    (long, high), _ = cv2.getTextSize(text, font, scale, 2)
    corner = ((width - long) // 2, height - max(8, height // 16))
    copy = frames.copy()
    for frame in copy:
        cv2.putText(frame, text, corner, font, scale, (0, 0, 0), 5, cv2.LINE_AA)
        cv2.putText(frame, text, corner, font, scale, (255, 255, 255), 2, cv2.LINE_AA)
    write_video(target, copy, fps)
    return {"text": text, "box": (corner[0], corner[1] - high, long, high)}


def overlay_mark(source: str, target: str, corner: str = "top right", alpha: float = 0.5, share: float = 0.12) -> Truth:
    """A ring with a bar through it and four letters below, white, `share` of the shorter side high, in a corner."""
    frames, fps = read(source)
    height, width = frames.shape[1:3]
    side = max(24, round(share * min(height, width)))
    mark = _mark(side)
    left, top = _corner(corner, height, width, side, side, margin=round(0.04 * min(height, width)))
    box = np.s_[top : top + side, left : left + side]
    cover = alpha * mark[..., None]
    copy = frames.copy()
    for frame in copy:
        frame[box] = np.round(frame[box] * (1 - cover) + 255 * cover).astype(np.uint8)
    write_video(target, copy, fps)
    return {"box": (left, top, side, side), "alpha": alpha}


def _mark(side: int) -> np.ndarray:
    """Coverage 0..1, float32 [side, side]."""
    large = np.zeros((256, 256), np.uint8)
    cv2.circle(large, (128, 96), 76, 255, 18, cv2.LINE_AA)
    cv2.line(large, (74, 150), (182, 42), 255, 18, cv2.LINE_AA)
    cv2.putText(large, "CINE", (24, 248), cv2.FONT_HERSHEY_SIMPLEX, 2.4, 255, 9, cv2.LINE_AA)
    return cv2.resize(large, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _corner(corner: str, height: int, width: int, rows: int, columns: int, margin: int) -> tuple[int, int]:
    left = margin if "left" in corner else width - columns - margin
    top = margin if "top" in corner else height - rows - margin
    return left, top


def inset(
    source: str, target: str, within: str | None = None, corner: str = "bottom right", share: float = 0.3
) -> Truth:
    """`source`, small, in a corner of `within` (or of its own mirror image, backwards); `share` of its width."""
    small, fps = read(source)
    large = small[::-1, :, ::-1].copy() if within is None else read(within)[0]
    number = min(len(small), len(large))
    height, width = large.shape[1:3]
    columns = round(share * width)
    rows = min(round(columns * small.shape[1] / small.shape[2]), height // 2)
    left, top = _corner(corner, height, width, rows, columns, margin=round(0.04 * min(height, width)))
    copy = large[:number].copy()
    for place, frame in zip(copy, small, strict=False):
        place[top : top + rows, left : left + columns] = cv2.resize(
            frame, (columns, rows), interpolation=cv2.INTER_AREA
        )
    write_video(target, copy, fps)
    return {"box": (left, top, columns, rows), "share": rows * columns / (height * width)}


def glide(source: str, target: str, path: str = "in") -> Truth:
    """One still under a virtual camera: zoomed into by a quarter (in), or crossed by a third of its width (across)."""
    frames, fps = read(source)
    still = frames[len(frames) // 2]
    height, width = still.shape[:2]
    copy = np.empty_like(frames)
    for i, place in enumerate(copy):
        done = i / max(1, len(copy) - 1)
        share, left = (1 - 0.25 * done, None) if path == "in" else (0.7, 0.3 * done * width)
        rows, columns = share * height, share * width
        corner = ((width - columns) / 2 if left is None else left, (height - rows) / 2)
        scale = 1 / share
        matrix = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]], np.float32)
        place[:] = cv2.warpAffine(still, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    write_video(target, copy, fps)
    return {"path": path}


def overexpose(source: str, target: str, gain: float = 3.0) -> Truth:
    """All values times `gain`, and clipped at white."""
    frames, fps = read(source)
    write_video(target, np.stack([cv2.convertScaleAbs(frame, alpha=gain) for frame in frames]), fps)
    return {"gain": gain}


def underexpose(source: str, target: str, less: int = 140) -> Truth:
    """All values less by this, and clipped at black."""
    frames, fps = read(source)
    write_video(target, np.stack([cv2.subtract(frame, np.full_like(frame, less)) for frame in frames]), fps)
    return {"less": less}


def crossfade(source: str, target: str) -> Truth:
    """A dissolve of half a second into the mirrored, reversed picture, in the middle."""
    frames, fps = read(source)
    other = frames[::-1, :, ::-1]
    start, length = len(frames) // 2, max(6, round(fps / 2))
    copy = frames.copy()
    for i in range(start, len(frames)):
        share = min(1.0, (i - start + 1) / (length + 1))
        copy[i] = cv2.addWeighted(np.ascontiguousarray(other[i]), share, frames[i], 1 - share, 0)
    write_video(target, copy, fps)
    return {"start_frame": start, "end_frame": start + length}


def wipe(source: str, target: str, seconds: float = 0.8) -> Truth:
    """The mirrored, reversed, negative picture pushes in from the left, in the middle."""
    frames, fps = read(source)
    other = 255 - frames[::-1, :, ::-1]
    start, length, width = len(frames) // 2, max(6, round(seconds * fps)), frames.shape[2]
    copy = frames.copy()
    for i in range(start, len(frames)):
        edge = round(width * min(1.0, (i - start + 1) / (length + 1)))
        copy[i, :, :edge] = other[i, :, :edge]
    write_video(target, copy, fps)
    return {"start_frame": start, "end_frame": start + length}


def flashes(source: str, target: str, per_second: float = 2.0) -> Truth:
    """White light for two frames, some times a second."""
    frames, fps = read(source)
    copy = frames.copy()
    every = round(fps / per_second)
    for i in range(every // 2, len(copy), every):
        copy[i : i + 2] = 255 - (255 - copy[i : i + 2]) // 3
    write_video(target, copy, fps)
    return {"per_second": fps / every}


def repeat_frames(source: str, target: str, times: int = 3) -> Truth:
    """Every frame shown three times: a third of the frame rate in a file that claims all of it."""
    frames, fps = read(source)
    write_video(target, frames[np.arange(len(frames)) // times * times], fps)
    return {"distinct_fps": fps / times}


def plain_copy(source: str, target: str) -> Truth:
    """No fault but being small and encoded again: what the others are compared with."""
    frames, fps = read(source)
    write_video(target, frames, fps)
    return {}


@dataclass(frozen=True)
class Degradation:
    """How a fault is made, and the signals that should see it, the one that is meant for it first."""

    make: Callable[[str, str], Truth]
    signals: tuple[str, ...]


DEGRADATIONS: dict[str, Degradation] = {
    "letterbox": Degradation(letterbox, ("border_share",)),
    "pillarbox": Degradation(pillarbox, ("border_share",)),
    "windowbox": Degradation(windowbox, ("border_share",)),
    "subtitle": Degradation(subtitle, ("text_score", "overlay_text_score")),
    "logo": Degradation(overlay_mark, ("logo_score",)),
    "picture_in_picture": Degradation(inset, ("inset_score",)),
    "blur": Degradation(blur, ("sharpness", "visual_quality")),
    "noise": Degradation(noise, ("noise", "visual_quality")),
    "compression": Degradation(compress, ("blockiness", "visual_quality")),
    "overexposure": Degradation(overexpose, ("white_clipped", "visual_quality")),
    "underexposure": Degradation(underexpose, ("black_clipped", "visual_quality")),
    "dissolve": Degradation(crossfade, ("transition_share",)),
    "wipe": Degradation(wipe, ("wipe_likeness",)),
    "flashes": Degradation(flashes, ("flashes_per_second",)),
    "repeated_frames": Degradation(repeat_frames, ("distinct_fps", "repeated_share")),
    "slideshow": Degradation(slideshow, ("still_share", "static_share")),
    "glide": Degradation(glide, ("still_share",)),
    "freeze": Degradation(freeze, ("freeze_seconds",)),
    "loop": Degradation(loop, ("loop_likeness",)),
    "speed_up": Degradation(speed_up, ("motion_incoherence",)),
}
