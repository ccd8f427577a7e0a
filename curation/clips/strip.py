"""The strip: what one linear decode leaves of a video. A few numbers a frame, from which shots and most filters are computed.

A strip is one table, a row per presented frame; sampled signals are null between samples. Strips are stored by shard, one row
group a video, so that a file of a thousand videos costs no more than its numbers.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.clips.frames import JITTER_SECONDS, SAMPLE_SECONDS, STEP_SECONDS, Scan, VideoFacts
from curation.clips.signals import SIGNALS, Measured, Measuring
from curation.clips.storage import filesystem, write_bytes
from curation.clips.time import Clock

STRIP_VERSION = 4  # a change of any number in signals.py is a new version; strips of other versions are made again


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The strip of one video, or of a span of it.

    clock: time stamps [F]. keyframes: bool [F]. signals: name -> float32 [F], NaN where not sampled or not defined.
    thumbnails: frame index -> luma, uint8 [h, w], long side 32 pixels, two a second.
    """

    video_id: str
    clock: Clock
    keyframes: np.ndarray
    signals: dict[str, np.ndarray]
    thumbnails: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clock)

    def span(self, start_frame: int, end_frame: int) -> "Strip":
        """Frames start_frame..end_frame (half-open) as a strip of their own; the time stamps stay the video's."""
        clock = Clock(
            pts=self.clock.pts[start_frame:end_frame],
            end_pts=self.clock.frame_end_pts(end_frame - 1),
            time_base=self.clock.time_base,
        )
        frames = self._thumbnail_frames
        frames = frames[bisect_left(frames, start_frame) : bisect_left(frames, end_frame)]
        return Strip(
            video_id=self.video_id,
            clock=clock,
            keyframes=self.keyframes[start_frame:end_frame],
            signals={name: values[start_frame:end_frame] for name, values in self.signals.items()},
            thumbnails={frame - start_frame: self.thumbnails[frame] for frame in frames},
        )

    @cached_property
    def _thumbnail_frames(self) -> list[int]:
        """In order, so that a span looks up its own and not all: a long video has thousands of spans."""
        return sorted(self.thumbnails)

    def sampled(self, name: str) -> np.ndarray:
        """The values of a signal where it was measured, float32 [samples]."""
        values = self.signals[name]
        return values[~np.isnan(values)]

    def after_first(self, name: str) -> np.ndarray:
        """A difference signal without the first frame, whose predecessor lies outside the span."""
        values = self.signals[name][1:]
        return values[~np.isnan(values)]

    def steps_inside(self, steps: int = 1) -> np.ndarray:
        """Frames that end a step of a tenth of a second (or as many in a row) which began inside the span, bool [F]."""
        inside: np.ndarray = self.clock.frame_seconds >= steps * STEP_SECONDS - JITTER_SECONDS
        return inside

    def steps(self, name: str) -> np.ndarray:
        """The values of a step signal whose steps lie wholly inside the span, float32 [steps]."""
        values = self.signals[name][self.steps_inside()]
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


def make_strip(path: str, video_id: str = "", **scanning: bool) -> Decoded:
    """Decode the video at `path` once, linearly. Raises `UnreadableVideo`. `scanning`: the switches of `Scan`."""
    scan = Scan(path, **scanning)
    measuring = Measuring()
    for batch in scan:
        assert scan.facts is not None
        measuring.add(batch, scan.facts)
    assert scan.facts is not None
    measured: Measured = measuring.result()
    strip = Strip(
        video_id=video_id,
        clock=Clock(pts=measured.pts, end_pts=scan.end.end_pts, time_base=scan.facts.time_base),
        keyframes=measured.keyframes,
        signals=measured.signals,
        thumbnails=measured.thumbnails,
    )
    return Decoded(facts=scan.facts, strip=strip, looks=measured.looks, decode_errors=scan.end.decode_errors)


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
    pictures = [strip.thumbnails.get(frame) for frame in range(n)]
    columns["thumbnail"] = pa.array([None if p is None else p.tobytes() for p in pictures], pa.binary())
    columns["thumbnail_width"] = pa.array([None if p is None else p.shape[1] for p in pictures], pa.int16())
    metadata = {
        "strip_version": str(STRIP_VERSION),
        "step_seconds": str(STEP_SECONDS),
        "sample_seconds": str(SAMPLE_SECONDS),
    }
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
        signals={name: table[name].to_numpy().astype(np.float32) for name in SIGNALS},
        thumbnails={
            frame: np.frombuffer(picture, np.uint8).reshape(-1, width)
            for frame, (picture, width) in enumerate(
                zip(table["thumbnail"].to_pylist(), table["thumbnail_width"].to_pylist(), strict=True)
            )
            if picture is not None
        },
    )
    if start_seconds <= 0 and end_seconds == float("inf"):
        return strip
    seconds = clock.frame_seconds
    first, last = np.searchsorted(seconds, [start_seconds - 1e-9, end_seconds - 1e-9])
    return strip.span(int(first), max(int(first) + 1, int(last)))
