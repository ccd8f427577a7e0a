"""The strip: what one linear decode leaves of a video. A few numbers a frame, from which shots and most filters are computed.

A strip is one table, a row per presented frame; sampled signals are null between samples. Strips are stored by shard, one row
group a video, so that a file of a thousand videos costs no more than its numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.clips.frames import FrameBatch, Scan, VideoFacts
from curation.clips.storage import filesystem, write_bytes
from curation.clips.time import Clock

STRIP_VERSION = 1  # a change of any number below is a new version; strips of other versions are made again
SAMPLES_PER_SECOND = 2.0
SMALL = (64, 36)  # pixels (width, height); colour and change are measured on this
DARK = 32  # luma, 16..235; a row or column that stays below is border if it ends in a straight edge
EDGE_SHARE = 0.5  # of the edge's length must be lit within four pixels; dark scenes have 0.1-0.3

# name -> (unit, meaning); every signal is float32 per frame
FRAME_SIGNALS = {
    "brightness": ("luma, 16..235", "mean luma"),
    "luma_change": ("luma", "mean absolute luma difference to the frame before, on 64x36 pictures"),
    "colour_change": ("0..1", "half the L1 distance to the frame before of 8x8x8 YUV histograms, on 64x36 pictures"),
    "vmaf_motion": ("luma", "mean absolute difference of blurred luma to the frame before, on 256-pixel pictures"),
    "shift_x": ("widths", "global shift to the right since the frame before, by phase correlation"),
    "shift_y": ("heights", "global shift downwards since the frame before, by phase correlation"),
}
SAMPLED_SIGNALS = {
    "contrast": ("luma", "standard deviation of luma"),
    "sharpness": ("luma squared", "variance of the Laplacian, inside any dark border"),
    "border_left": ("widths", "width of the dark border on the left"),
    "border_right": ("widths", "width of the dark border on the right"),
    "border_top": ("heights", "height of the dark border above"),
    "border_bottom": ("heights", "height of the dark border below"),
}


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The strip of one video, or of a span of it.

    clock: time stamps [F]. keyframes: bool [F]. signals: name -> float32 [F], NaN where not sampled or not defined.
    """

    video_id: str
    clock: Clock
    keyframes: np.ndarray
    signals: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.clock)

    def span(self, start_frame: int, end_frame: int) -> "Strip":
        """Frames start_frame..end_frame (half-open) as a strip of their own; the time stamps stay the video's."""
        clock = Clock(
            pts=self.clock.pts[start_frame:end_frame],
            end_pts=self.clock.frame_end_pts(end_frame - 1),
            time_base=self.clock.time_base,
        )
        signals = {name: values[start_frame:end_frame] for name, values in self.signals.items()}
        return Strip(
            video_id=self.video_id, clock=clock, keyframes=self.keyframes[start_frame:end_frame], signals=signals
        )

    def sampled(self, name: str) -> np.ndarray:
        """The values of a signal where it was measured, float32 [samples]."""
        values = self.signals[name]
        return values[~np.isnan(values)]

    def after_first(self, name: str) -> np.ndarray:
        """A difference signal without the first frame, whose predecessor lies outside the span."""
        values = self.signals[name][1:]
        return values[~np.isnan(values)]

    @cached_property
    def fps(self) -> float:
        seconds = self.clock.duration_seconds
        return len(self) / seconds if seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Everything one decode of a video gave. looks: [(frame index, JPEG)], for learned scorers; they are never stored."""

    facts: VideoFacts
    strip: Strip
    looks: list[tuple[int, bytes]]
    decode_errors: int


def make_strip(path: str, video_id: str = "", looks: bool = True) -> Decoded:
    """Decode the video at `path` once, linearly. Raises `UnreadableVideo`."""
    scan = Scan(path, looks=looks)
    measure = _Measure()
    for batch in scan:
        measure.add(batch, scan)
    assert scan.facts is not None
    clock = Clock(pts=np.concatenate(measure.pts), end_pts=scan.end.end_pts, time_base=scan.facts.time_base)
    signals = {name: np.concatenate(parts).astype(np.float32) for name, parts in measure.signals.items()}
    strip = Strip(video_id=video_id, clock=clock, keyframes=np.concatenate(measure.keyframes), signals=signals)
    return Decoded(facts=scan.facts, strip=strip, looks=measure.looks, decode_errors=scan.end.decode_errors)


class _Measure:
    """Turns batches of small pictures into signals; keeps the last picture of a batch for the next."""

    def __init__(self) -> None:
        self.pts: list[np.ndarray] = []
        self.keyframes: list[np.ndarray] = []
        self.looks: list[tuple[int, bytes]] = []
        self.signals: dict[str, list[np.ndarray]] = {name: [] for name in (*FRAME_SIGNALS, *SAMPLED_SIGNALS)}
        self.count = 0
        self.next_sample = 0.0
        self.last: dict[str, Any] = {}

    def add(self, batch: FrameBatch, scan: Scan) -> None:
        assert scan.facts is not None
        small = np.stack([cv2.resize(picture, SMALL, interpolation=cv2.INTER_AREA) for picture in batch.luma])
        colour = np.stack(
            [[cv2.resize(plane, SMALL, interpolation=cv2.INTER_AREA) for plane in planes] for planes in batch.chroma]
        )
        histograms = _histograms(small, colour)
        signals: dict[str, np.ndarray] = {
            "brightness": small.mean(axis=(1, 2)),
            "luma_change": self._differences("small", small.astype(np.int16)),
            "colour_change": self._differences("histogram", histograms, half_sum=True),
            "vmaf_motion": self._blurred_motion(batch.luma),
        }
        signals["shift_x"], signals["shift_y"] = self._shifts(batch.luma)
        signals |= self._samples(batch, scan)
        for name, values in signals.items():
            self.signals[name].append(values)
        self.pts.append(batch.pts)
        self.keyframes.append(batch.keyframes)
        self.looks += [(self.count + index, look) for index, look in batch.looks]
        self.count += len(batch.pts)

    def _differences(self, key: str, values: np.ndarray, half_sum: bool = False) -> np.ndarray:
        """Mean (or half the summed) absolute difference of each entry to the one before; NaN for the very first."""
        before = self.last.get(key)
        joined = values if before is None else np.concatenate([before[None], values])
        self.last[key] = values[-1]
        steps = np.abs(np.diff(joined, axis=0)).reshape(len(joined) - 1, values[0].size)
        result = steps.sum(axis=1) / 2 if half_sum else steps.mean(axis=1)
        return result if before is not None else np.concatenate([[np.nan], result])

    def _blurred_motion(self, luma: np.ndarray) -> np.ndarray:
        result = np.full(len(luma), np.nan)
        for i, picture in enumerate(luma):
            blurred = cv2.GaussianBlur(picture, (5, 5), 0).astype(np.int16)
            if "blurred" in self.last:
                result[i] = np.abs(blurred - self.last["blurred"]).mean()
            self.last["blurred"] = blurred
        return result

    def _shifts(self, luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Global translation between neighbours by phase correlation on half-size pictures, NaN where there is nothing to hold on to."""
        x, y = np.full(len(luma), np.nan), np.full(len(luma), np.nan)
        height, width = luma.shape[1] // 2, luma.shape[2] // 2
        if "window" not in self.last:
            self.last["window"] = cv2.createHanningWindow((width, height), cv2.CV_32F)
        for i, picture in enumerate(luma):
            half = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
            if "half" in self.last and half.std() > 2:
                (dx, dy), response = cv2.phaseCorrelate(self.last["half"], half, self.last["window"])
                if response > 0.1:
                    x[i], y[i] = dx / width, dy / height
            self.last["half"] = half
        return x, y

    def _samples(self, batch: FrameBatch, scan: Scan) -> dict[str, np.ndarray]:
        assert scan.facts is not None
        result = {name: np.full(len(batch.pts), np.nan) for name in SAMPLED_SIGNALS}
        first = self.pts[0][0] if self.pts else batch.pts[0]
        seconds = (batch.pts - first) * float(scan.facts.time_base)
        for i, second in enumerate(seconds):
            if second < self.next_sample:
                continue
            self.next_sample = second + 1 / SAMPLES_PER_SECOND - 1e-6
            picture = batch.luma[i]
            left, right, top, bottom = _borders(picture)
            inner = picture[top : picture.shape[0] - bottom, left : picture.shape[1] - right]
            height, width = picture.shape
            if inner.size >= picture.size // 8:  # a picture that is nearly all dark says nothing
                result["contrast"][i] = inner.std()
                result["sharpness"][i] = cv2.Laplacian(np.ascontiguousarray(inner), cv2.CV_32F)[2:-2, 2:-2].var()
                sides = (left / width, right / width, top / height, bottom / height)
                for name, side in zip(("left", "right", "top", "bottom"), sides, strict=True):
                    result[f"border_{name}"][i] = side
        return result


def _histograms(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """8x8x8 histograms of Y, U, V, float32 [F, 512], each summing to 1."""
    bins = (luma >> 5).astype(np.int32) * 64 + (chroma[:, 0] >> 5).astype(np.int32) * 8 + (chroma[:, 1] >> 5)
    flat = bins.reshape(len(bins), -1)
    offset = np.arange(len(flat), dtype=np.int32)[:, None] * 512
    counts = np.bincount((flat + offset).ravel(), minlength=512 * len(flat)).reshape(len(flat), 512)
    return (counts / flat.shape[1]).astype(np.float32)


def _borders(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Widths in pixels of the dark rims with a straight edge: left, right, top, bottom. A wholly dark picture has rims that meet."""
    columns = np.percentile(picture, 95, axis=0) > DARK
    rows = np.percentile(picture, 95, axis=1) > DARK
    if not columns.any() or not rows.any():
        return picture.shape[1] // 2, picture.shape[1] // 2, picture.shape[0] // 2, picture.shape[0] // 2
    left, right, top, bottom = (
        int(columns.argmax()),
        int(columns[::-1].argmax()),
        int(rows.argmax()),
        int(rows[::-1].argmax()),
    )
    turned = picture.T
    return (
        left if _straight_edge(turned[left:]) else 0,
        right if _straight_edge(turned[: len(turned) - right][::-1]) else 0,
        top if _straight_edge(picture[top:]) else 0,
        bottom if _straight_edge(picture[: len(picture) - bottom][::-1]) else 0,
    )


def _straight_edge(lines: np.ndarray) -> bool:
    """Whether a picture begins at once: a bar ends on one line, a shadow fades over many. The first lines inside, [lines, pixels]."""
    return bool((lines[:4].max(axis=0) > DARK).mean() >= EDGE_SHARE)


# --- stored strips ---------------------------------------------------------------------------------------------------


def strip_table(strip: Strip) -> pa.Table:
    """A strip as the table that is stored: video_id, frame, pts, end_pts, time base, keyframe, and the signals."""
    n = len(strip)
    ends = np.append(strip.clock.pts[1:], strip.clock.end_pts)
    columns: dict[str, Any] = {
        "video_id": pa.array([strip.video_id] * n).dictionary_encode(),
        "frame": pa.array(np.arange(n, dtype=np.int32)),
        "pts": strip.clock.pts,
        "end_pts": ends,
        "time_base_numerator": pa.array(np.full(n, strip.clock.time_base.numerator, np.int64)),
        "time_base_denominator": pa.array(np.full(n, strip.clock.time_base.denominator, np.int64)),
        "keyframe": strip.keyframes,
    }
    columns |= {name: pa.array(values, from_pandas=True) for name, values in strip.signals.items()}
    metadata = {"strip_version": str(STRIP_VERSION), "samples_per_second": str(SAMPLES_PER_SECOND)}
    return pa.table(columns).replace_schema_metadata(metadata)


def write_strips(uri: str, strips: Iterable[Strip]) -> None:
    """Store strips in one Parquet file, a row group each, whole or not at all."""
    sink = pa.BufferOutputStream()
    writer: pq.ParquetWriter | None = None
    for strip in strips:
        table = strip_table(strip)
        writer = writer or pq.ParquetWriter(
            sink, table.schema, compression="zstd", use_byte_stream_split=list(strip.signals)
        )
        writer.write_table(table)
    if writer is not None:
        writer.close()
        write_bytes(uri, sink.getvalue().to_pybytes())


def read_strip(uri: str, video_id: str, start_seconds: float = 0.0, end_seconds: float = float("inf")) -> Strip:
    """The strip of one video, or of a span of it (seconds, half-open), as arrays. A missing video raises `KeyError`."""
    system, path = filesystem(uri)
    table = pq.read_table(path, filesystem=system, filters=[("video_id", "==", video_id)])
    if not table.num_rows:
        raise KeyError(f"no strip of video {video_id} in {uri}")
    names = [*FRAME_SIGNALS, *SAMPLED_SIGNALS]
    ends = table["end_pts"].to_numpy()
    clock = Clock(
        pts=table["pts"].to_numpy(),
        end_pts=int(ends[-1]),
        time_base=Fraction(table["time_base_numerator"][0].as_py(), table["time_base_denominator"][0].as_py()),
    )
    strip = Strip(
        video_id=video_id,
        clock=clock,
        keyframes=table["keyframe"].to_numpy(),
        signals={name: table[name].to_numpy().astype(np.float32) for name in names},
    )
    if start_seconds <= 0 and end_seconds == float("inf"):
        return strip
    seconds = clock.frame_seconds
    first, last = np.searchsorted(seconds, [start_seconds - 1e-9, end_seconds - 1e-9])
    return strip.span(int(first), max(int(first) + 1, int(last)))
