"""A span of video becomes pictures, and pictures become a video: the one door to PyAV.

Files that reach this door are local and hostile until proven otherwise: only the formats of `ALLOWED_FORMATS` are
demuxed, no protocol but `file` is followed, and whoever decodes footage of others does it in a child (curation.prison).
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.codec.context import Flags2
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from curation.clips.errors import UnreadableVideo
from curation.clips.native_motion import native_motion
from curation.clips.storage import local_copy

cv2.setNumThreads(1)  # actors are sized in whole cores

ALLOWED_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,asf,ogg,flv,mxf,gif,h264,hevc,ivf,dv,rm,nut,obu,av1"
ANALYSIS_LONG_SIDE = 128  # pixels; what is measured of every frame
SAMPLE_LONG_SIDE = 256  # pixels; what is measured twice a second
BATCH = 64  # frames; numpy on batches costs a fifth of numpy per frame
AS_CODED = ColorRange.JPEG  # grey pictures are full-range to FFmpeg; a source said to be so, too, is not stretched
STEP_SECONDS = 0.1  # motion is measured ten times a second: hand shake lives at 2-10 Hz, compression noise above
SAMPLE_SECONDS = 0.5  # what does not change from frame to frame (sharpness, borders) is measured twice a second
JITTER_SECONDS = 0.004  # time stamps in milliseconds round 1/30 s by this much at most
DETAIL = (128, 640)  # pixels (rows, columns) of the native luma in the middle of the picture that samples bring
LOOK_LONG_SIDE = 640  # pixels; what learned scorers see; text 14 px high in 720p stays readable
LOOK_INTERVAL_SECONDS = 1.0
MAX_LOOKS = 1800  # of one video, about 75 MB of JPEG; beyond half an hour they are taken less often
MAX_PIXELS = 64 << 20  # of one picture; 8K is 33 million
LIMITS = {"max_pixels": str(MAX_PIXELS)}  # a decoder allocates nothing for larger ones
MAX_FRAMES = 4_000_000  # of one video, a day and a half at 30 a second
GIVE_UP_ON_VECTORS = 64  # frames without a motion vector, after which the codec is taken to have none
# WMV's asf demuxer writes decode order into pts; its dts are the presentation times (seen on VC-1 with B-frames)
CODECS_WITH_PTS_IN_DECODE_ORDER = {"vc1", "wmv3"}


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What the container and the first frame say. Sizes are in pixels as displayed: after rotation and sample aspect ratio."""

    container: str
    codec: str
    pixel_format: str
    stream_index: int
    time_base: Fraction
    width: int
    height: int
    rotation: int  # degrees counter-clockwise that a player turns the coded picture
    sample_aspect_ratio: Fraction
    claimed_seconds: float | None
    fps: float  # what the container says, 25 if it says nothing
    has_audio: bool


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One frame in more detail. luma: uint8 [h, w], upright, long side 256 pixels.

    detail: uint8 [rows, columns], the middle of the picture's luma as it was coded, unscaled, its corner on the codec's 8-pixel grid.
    full_range: whether black is 0 and white 255, as in RGB and some YUV, not 16 and 235.
    """

    index: int
    luma: np.ndarray
    detail: np.ndarray
    full_range: bool


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Consecutive presented frames, small. F frames; h x w is the analysis size, its long side 128 pixels.

    pts: int64 [F]. keyframes: bool [F]. luma: uint8 [F, h, w], upright.
    native_motion: float32 [F], VMAF motion from the frame before, at native size, about once a second; NaN between.
    block_motion: float32 [F], mean length of the codec's motion vectors in % of the longer side per frame; NaN where not read.
    samples: two a second. looks: [(index in batch, JPEG bytes of the upright RGB picture, long side at most 640 pixels)].
    """

    pts: np.ndarray
    keyframes: np.ndarray
    luma: np.ndarray
    block_motion: np.ndarray
    native_motion: np.ndarray
    samples: list[Sample]
    looks: list[tuple[int, bytes]]


@dataclass
class ScanEnd:
    """What only the end of a scan can tell."""

    end_pts: int = 0
    decode_errors: int = 0


def _open(path: str) -> "av.container.InputContainer":
    av.logging.set_level(
        av.logging.PANIC
    )  # what is wrong goes into the file's row; PySceneDetect resets this, so each time
    if not os.path.exists(path):
        raise UnreadableVideo("missing", f"no file at {path}")
    if os.path.getsize(path) == 0:
        raise UnreadableVideo("empty", "the file has zero bytes")
    try:
        return av.open(
            path,
            metadata_errors="replace",
            options=LIMITS,
            container_options={"format_whitelist": ALLOWED_FORMATS, "protocol_whitelist": "file"},
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = _reason(error)
        if isinstance(error, ValueError) and "Format not on whitelist" in str(error):
            raise UnreadableVideo("format_not_allowed", "its container format is not on the allow-list") from error
        raise UnreadableVideo("unreadable", f"no container that FFmpeg can open ({reason})") from error


def _reason(error: BaseException) -> str:
    """FFmpeg's own words, without the path of the file."""
    text = str(error)
    last = text.split("last error log:")[-1] if "last error log:" in text else text.split(":")[0]
    return " ".join(last.split())[:200]


def _stream(container: "av.container.InputContainer") -> Any:
    stream: Any = container.streams.best("video")
    if stream is None:
        raise UnreadableVideo("no_video_stream", "the container holds no video stream")
    if stream.codec_context is None:
        raise UnreadableVideo("nothing_decodes", "no decoder knows the codec of its video stream")
    _require_size(stream.width, stream.height)
    stream.codec_context.thread_count = 1  # parallelism is across videos, where it is free
    stream.codec_context.options = LIMITS
    return stream


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableVideo("too_large", f"its pictures have {width}x{height} pixels; {MAX_PIXELS:,} is the most")


def _pts_in_decode_order(container: "av.container.InputContainer", stream: Any) -> bool:
    """Whether the file's pts are not presentation times. AVI stores none: FFmpeg numbers H.264 packets as they lie, and the n-th
    picture presented takes the n-th packet's number."""
    name = stream.codec_context.name
    return name in CODECS_WITH_PTS_IN_DECODE_ORDER or (container.format.name == "avi" and name in ("h264", "hevc"))


def _decoded(
    container: "av.container.InputContainer", stream: Any, end: ScanEnd | None = None
) -> Iterator[tuple[int, Any]]:
    """Every presented frame with its time stamp, in presentation order; broken packets are counted and passed over."""
    by_dts = stream.codec_context.name in CODECS_WITH_PTS_IN_DECODE_ORDER
    slots: deque[int | None] | None = deque() if not by_dts and _pts_in_decode_order(container, stream) else None
    last: int | None = None
    step = 1
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            if slots is not None and packet.size:
                slots.append(packet.pts)
            frames = packet.decode()
        except StopIteration:
            break
        except av.ArgumentError:
            continue  # Theora's empty packets, "show the last picture again", are no damage
        except av.FFmpegError:
            if slots:
                slots.pop()
            if end is None:
                continue
            end.decode_errors += 1
            if end.decode_errors > 10_000:
                break
            continue
        for frame in frames:
            stamp = frame.dts if by_dts and frame.dts is not None else frame.pts
            if slots is not None:
                stamp = slots.popleft() if slots else None
            if stamp is None or (last is not None and stamp <= last):
                stamp = 0 if last is None else last + step  # a frame without its own time follows the one before
            elif last is not None:
                step = max(1, stamp - last)
            last = stamp
            if end is not None:
                end.end_pts = stamp + (int(frame.duration) if frame.duration else step)
            yield stamp, frame


def _upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """Turn a coded picture [..., H, W] or [H, W, 3] as a player would."""
    axes = (0, 1) if picture.ndim == 3 and picture.shape[-1] == 3 else (-2, -1)
    return np.rot90(picture, rotation // 90, axes=axes)


def _turns(frame: Any) -> int:
    return round(frame.rotation / 90) * 90 % 360


def _facts(container: Any, stream: Any, frame: Any) -> VideoFacts:
    _require_size(frame.width, frame.height)
    rotation = _turns(frame)
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    ratio = ratio if ratio > 0 else Fraction(1)
    width, height = max(1, round(frame.width * ratio)), frame.height
    if rotation in (90, 270):
        width, height = height, width
    claimed = stream.duration * stream.time_base if stream.duration else None
    if claimed is None and container.duration:
        claimed = Fraction(container.duration, av.time_base)
    return VideoFacts(
        container=container.format.name,
        codec=stream.codec_context.name,
        pixel_format=frame.format.name,
        stream_index=stream.index,
        time_base=Fraction(stream.time_base),
        width=width,
        height=height,
        rotation=rotation,
        sample_aspect_ratio=ratio,
        claimed_seconds=None if claimed is None else float(claimed),
        fps=float(stream.average_rate or stream.guessed_rate or 25),
        has_audio=bool(container.streams.audio),
    )


def probe(path: str) -> VideoFacts:
    """What the container and its first frame say. Raises `UnreadableVideo` with the cause."""
    with _open(path) as container:
        stream = _stream(container)
        for _, frame in _decoded(container, stream):
            return _facts(container, stream, frame)
    raise UnreadableVideo("nothing_decodes", f"not one frame of its {stream.codec_context.name} stream decodes")


def packet_seconds(path: str) -> float | None:
    """The span of the video stream's packets in seconds, nothing decoded: at least what is presented.

    None for fewer than two packets, and where time stamps start again (joined DVD files do). Raises `UnreadableVideo`.
    """
    with _open(path) as container:
        stream = _stream(container)
        first, last, packets, before = None, None, 0, None
        try:
            for packet in container.demux(stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.dts is not None:
                    if before is not None and packet.dts < before:
                        return None
                    before = packet.dts
                if stamp is not None:
                    first = stamp if first is None else min(first, stamp)
                    packets += 1
                    end = stamp + int(packet.duration or 0)
                    last = end if last is None else max(last, end)
        except av.FFmpegError as error:
            raise UnreadableVideo("unreadable", f"its packets cannot be read to the end ({_reason(error)})") from error
        return None if first is None or last is None or packets < 2 else float((last - first) * stream.time_base)


def count_frames(path: str) -> int:
    """How many frames decode and are presented; decodes them all. Raises `UnreadableVideo`."""
    with _open(path) as container:
        number = sum(1 for _ in _decoded(container, _stream(container)))
    if not number:
        raise UnreadableVideo("nothing_decodes", "not one frame decodes")
    return number


def analysis_size(width: int, height: int, long_side: int = ANALYSIS_LONG_SIDE) -> tuple[int, int]:
    """Width and height in pixels of the pictures that are measured, for a displayed size; multiples of 4."""
    scale = long_side / max(width, height)
    return max(16, round(width * scale / 4) * 4), max(16, round(height * scale / 4) * 4)


class Scan:
    """One linear decode of a video: iterate for its `FrameBatch`es, then read `facts` and `end`.

    looks: take them, once a second (less often beyond half an hour, and filters that want four of a clip find fewer). samples: take them, twice a second. vectors: have the
    codec export its motion vectors. keyframes_only: decode nothing else, which costs a tenth to a third, and sample every one.
    Raises `UnreadableVideo` when nothing decodes.
    """

    def __init__(
        self, path: str, looks: bool = True, samples: bool = True, vectors: bool = True, keyframes_only: bool = False
    ):
        self.path = path
        self.looks = looks
        self.samples = samples
        self.vectors = vectors and not keyframes_only
        self.keyframes_only = keyframes_only
        self.facts: VideoFacts | None = None
        self.end = ScanEnd()

    def __iter__(self) -> Iterator[FrameBatch]:
        with _open(self.path) as container:
            stream = _stream(container)
            if self.keyframes_only:
                stream.codec_context.skip_frame = "NONKEY"
            vectors = _Vectors(stream) if self.vectors else None
            small = VideoReformatter()
            batch: _OpenBatch | None = None
            first, tick = 0, 0.0
            before: Any = None  # a picture more, so that two neighbours can be compared at native size
            for number, (stamp, frame) in enumerate(_decoded(container, stream, self.end)):
                if batch is None:
                    self.facts = _facts(container, stream, frame)
                    schedule = _Schedule(self.facts, self.looks, self.samples and not self.keyframes_only)
                    coded = _coded_size(self.facts)
                    batch = _OpenBatch(*coded)
                    first, tick = stamp, float(self.facts.time_base)
                if number >= MAX_FRAMES:
                    raise UnreadableVideo("too_long", f"more than {MAX_FRAMES:,} frames; cut it before curating it")
                now = (stamp - first) * tick
                tiny = small.reformat(
                    frame,
                    *coded,
                    format="gray",
                    src_color_range=AS_CODED,
                    interpolation=Interpolation.FAST_BILINEAR,
                    threads=1,
                )
                batch.add(stamp, frame.key_frame, tiny, vectors.read(frame, now) if vectors is not None else np.nan)
                if schedule.sample_due(now) or self.keyframes_only:
                    batch.samples.append(schedule.sample(batch.count - 1, frame))
                if schedule.pair_due(number):
                    batch.native_motion[batch.count - 1] = _native_motion(before, frame)
                if schedule.look_due(now):
                    batch.looks.append((batch.count - 1, schedule.look(frame)))
                before = frame
                if batch.count == BATCH:
                    assert self.facts is not None
                    yield batch.close(self.facts.rotation)
                    batch = _OpenBatch(*coded)
            if self.facts is None or batch is None:
                raise UnreadableVideo(
                    "nothing_decodes", f"not one frame of its {stream.codec_context.name} stream decodes"
                )
            if batch.count:
                yield batch.close(self.facts.rotation)


def _coded_size(facts: VideoFacts, long_side: int = ANALYSIS_LONG_SIDE) -> tuple[int, int]:
    """Width and height of an analysis picture before it is turned upright."""
    width, height = analysis_size(facts.width, facts.height, long_side)
    return (height, width) if facts.rotation in (90, 270) else (width, height)


class _OpenBatch:
    """Frames on their way into a `FrameBatch`."""

    def __init__(self, width: int, height: int) -> None:
        self.count = 0
        self.pts = np.empty(BATCH, np.int64)
        self.keyframes = np.empty(BATCH, bool)
        self.luma = np.empty((BATCH, height, width), np.uint8)
        self.block_motion = np.empty(BATCH, np.float32)
        self.native_motion = np.full(BATCH, np.nan, np.float32)
        self.samples: list[Sample] = []
        self.looks: list[tuple[int, bytes]] = []

    def add(self, stamp: int, keyframe: bool, tiny: Any, block_motion: float) -> None:
        i = self.count
        self.pts[i], self.keyframes[i], self.block_motion[i] = stamp, keyframe, block_motion
        plane = tiny.planes[0]
        self.luma[i] = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : self.luma.shape[2]]
        self.count += 1

    def close(self, rotation: int) -> FrameBatch:
        n = self.count
        return FrameBatch(
            pts=self.pts[:n],
            keyframes=self.keyframes[:n],
            luma=np.ascontiguousarray(_upright(self.luma[:n], rotation)),
            block_motion=self.block_motion[:n],
            native_motion=self.native_motion[:n],
            samples=self.samples,
            looks=self.looks,
        )


class _Schedule:
    """Which frames are looked at more closely, and how. `now` is in seconds from the first frame."""

    def __init__(self, facts: VideoFacts, looks: bool, samples: bool):
        self.facts = facts
        self.next_sample = 0.0 if samples else float("inf")
        # an odd number of frames, so that pictures shown twice or thrice are met in every phase; at most 121 for rates that cannot be true
        self.pair_every = min(121, max(1, round(facts.fps))) | 1 if samples else 0
        self.sampler, self.looker = VideoReformatter(), VideoReformatter()
        claimed = facts.claimed_seconds or 0.0
        self.look_interval = max(LOOK_INTERVAL_SECONDS, claimed / MAX_LOOKS)
        # the very first frame is often black
        self.next_look = min(self.look_interval, claimed or self.look_interval) / 4 if looks else float("inf")

    def sample_due(self, now: float) -> bool:
        due = now >= self.next_sample - JITTER_SECONDS
        if due:
            self.next_sample = now + SAMPLE_SECONDS
        return due

    def pair_due(self, number: int) -> bool:
        """Whether frame `number` is compared with the one before it at native size."""
        return self.pair_every > 0 and number > 0 and number % self.pair_every == self.pair_every // 2

    def look_due(self, now: float) -> bool:
        due = now >= self.next_look
        if due:
            self.next_look += self.look_interval
        return due

    def sample(self, index: int, frame: Any) -> Sample:
        small = self.sampler.reformat(
            frame,
            *_coded_size(self.facts, SAMPLE_LONG_SIDE),
            format="gray",
            src_color_range=AS_CODED,
            interpolation=Interpolation.FAST_BILINEAR,
            threads=1,
        )
        luma = np.ascontiguousarray(_upright(small.to_ndarray(), self.facts.rotation))
        yuv = frame.format.name.startswith(("yuv", "nv"))
        full_range = frame.color_range == ColorRange.JPEG or not yuv or frame.format.name.startswith("yuvj")
        return Sample(index=index, luma=luma, detail=_detail(frame), full_range=full_range)

    def look(self, frame: Any) -> bytes:
        return _look(self.looker, frame, self.facts)


class _Vectors:
    """The codec's motion vectors, read ten times a second; the paper's second measure of motion (section 3.2.1)."""

    def __init__(self, stream: Any):
        stream.codec_context.flags2 |= Flags2.export_mvs
        self.next_read = 0.0
        self.since_anchor = 1  # frames since the last I or P frame, which is what past vectors point at
        self.fruitless = 0

    def read(self, frame: Any, now: float) -> float:
        distance, value = self.since_anchor, np.nan
        is_anchor = int(frame.pict_type) in (1, 2)  # I, P
        if now >= self.next_read - JITTER_SECONDS and not frame.key_frame and self.fruitless < GIVE_UP_ON_VECTORS:
            # frame.side_data would tie the picture into a cycle, which only the collector ends: 1.4 times the cost
            side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
            value = (
                np.nan if side is None else _mean_length(side.to_ndarray(), max(frame.width, frame.height), distance)
            )
            if np.isnan(value):
                self.fruitless += 1
            else:
                self.next_read, self.fruitless = now + STEP_SECONDS, -MAX_FRAMES
        self.since_anchor = 1 if is_anchor else self.since_anchor + 1
        return value


def _mean_length(vectors: np.ndarray, longer: int, distance: int) -> float:
    """Mean over the area of blocks predicted from the past, in % of the longer side per frame; NaN without such blocks.

    FFmpeg names no reference frame; the last I or P frame `distance` frames ago is taken, which B-pyramids make too long.
    """
    vectors = vectors[::3]  # every third block says as much
    past = vectors["source"] < 0
    area = vectors["w"].astype(np.float32) * vectors["h"] * past
    total = float(area.sum())
    if not total:
        return float("nan")
    length = np.hypot(vectors["motion_x"].astype(np.float32), vectors["motion_y"]) / np.maximum(
        vectors["motion_scale"], 1
    )
    return 100 * float(np.dot(length, area)) / (total * longer * distance)


def _luma_plane(frame: Any) -> tuple[np.ndarray, int]:
    """The luma as it was decoded, [rows, columns], and its bits: uint8, or uint16 where it has more than 8.

    A view of the picture where its format allows one; else converted to 8 bits.
    """
    component = frame.format.components[0]
    bits = component.bits
    if not frame.format.name.startswith(("yuv", "nv", "gray")) or bits < 8 or (bits > 8 and frame.format.is_big_endian):
        return np.asarray(frame.to_ndarray(format="gray")), 8
    plane = frame.planes[0]
    kind = np.uint8 if bits == 8 else np.uint16
    return np.frombuffer(plane, kind).reshape(-1, plane.line_size // np.dtype(kind).itemsize)[:, : frame.width], bits


def _native_motion(before: Any, frame: Any) -> float:
    """VMAF motion between two decoded pictures; NaN where they are not alike in size and format."""
    if (before.width, before.height, before.format.name) != (frame.width, frame.height, frame.format.name):
        return float("nan")
    (first, _), (second, bits) = _luma_plane(before), _luma_plane(frame)
    return native_motion(first, second, bits)


def _detail(frame: Any) -> np.ndarray:
    """The middle of the luma plane as it was decoded, in 8 bits, uint8; its corner lies on the codec's 8-pixel grid."""
    top, left = max(0, frame.height - DETAIL[0]) // 16 * 8, max(0, frame.width - DETAIL[1]) // 16 * 8
    window = np.s_[top : min(top + DETAIL[0], frame.height), left : min(left + DETAIL[1], frame.width)]
    luma, bits = _luma_plane(frame)
    return luma[window].copy() if bits == 8 else (luma[window] >> (bits - 8)).astype(np.uint8)


def _look(reformatter: VideoReformatter, frame: Any, facts: VideoFacts) -> bytes:
    scale = min(1.0, LOOK_LONG_SIDE / max(facts.width, facts.height))
    width, height = max(2, round(facts.width * scale)), max(2, round(facts.height * scale))
    if facts.rotation in (90, 270):
        width, height = height, width
    picture = reformatter.reformat(
        frame, width=width, height=height, format="bgr24", interpolation=Interpolation.AREA, threads=1
    )
    upright = np.ascontiguousarray(_upright(picture.to_ndarray(), facts.rotation))
    return cv2.imencode(".jpg", upright, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def decode_look(look: bytes) -> np.ndarray:
    """A look back as RGB, uint8 [H, W, 3]."""
    picture = cv2.imdecode(np.frombuffer(look, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None, "looks are JPEGs that we wrote"
    return np.ascontiguousarray(picture[:, :, ::-1])


def read_frames(clip: Mapping[str, Any], times: Sequence[float], height: int, width: int) -> np.ndarray:
    """The frames of `clip` nearest in presentation time to `times`, uint8 RGB [len(times), height, width, 3].

    clip: a row with uri, stream_index, start_pts, end_pts, time_base_numerator, time_base_denominator and, when borders are to be
    left out, crop_left, crop_top, crop_width, crop_height (displayed pixels). times: seconds from the clip's start.
    The picture is turned upright, cut to the crop box, cut centrally to the aspect of height x width and resized by area.
    Raises `UnreadableVideo` when the span does not decode.
    """
    time_base = Fraction(int(clip["time_base_numerator"]), int(clip["time_base_denominator"]))
    start, end = int(clip["start_pts"]), int(clip["end_pts"])
    targets = [start + round(t / time_base) for t in times]
    order = sorted(range(len(targets)), key=targets.__getitem__)
    result = np.empty((len(targets), height, width, 3), np.uint8)
    with local_copy(str(clip["uri"])) as path:
        pending = iter(order)
        slot = next(pending, None)
        before: tuple[int, Any] | None = None
        for stamp, frame in _frames_of_span(path, int(clip["stream_index"]), start, end):
            while slot is not None and stamp >= targets[slot]:
                nearer = (
                    before
                    if before is not None and targets[slot] - before[0] <= stamp - targets[slot]
                    else (stamp, frame)
                )
                result[slot] = _fitted(nearer[1], clip, height, width)
                slot = next(pending, None)
            if slot is None:
                break
            before = (stamp, frame)
        while slot is not None and before is not None:  # beyond the last frame: the last frame
            result[slot] = _fitted(before[1], clip, height, width)
            slot = next(pending, None)
    if slot is not None:
        raise UnreadableVideo("nothing_decodes", f"no frame decodes between pts {start} and {end} of {clip['uri']}")
    return result


def _frames_of_span(path: str, stream_index: int, start: int, end: int) -> Iterator[tuple[int, Any]]:
    """Presented frames with start <= time stamp < end. Seeks first; decodes from the beginning where the seek overshot."""
    for seek in (True, False):
        with _open(path) as container:
            stream = container.streams[stream_index]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = LIMITS
            if seek and (start <= 0 or _pts_in_decode_order(container, stream)):
                continue
            if seek:
                try:
                    container.seek(start, stream=stream, backward=True)
                except av.FFmpegError:
                    continue
            first = True
            overshot = False
            for stamp, frame in _decoded(container, stream):
                if first and seek and stamp > start:
                    overshot = True
                    break
                first = False
                if stamp >= end:
                    return
                if stamp >= start:
                    yield stamp, frame
            if not overshot and not first:
                return


def _fitted(frame: Any, clip: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    upright = _upright(frame.to_ndarray(format="rgb24"), _turns(frame))
    rows, columns = upright.shape[:2]
    top, left, box_height, box_width = 0.0, 0.0, float(rows), float(columns)
    shown_width, shown_height = float(clip.get("width") or columns), float(clip.get("height") or rows)
    if clip.get("crop_width"):  # displayed pixels -> decoded pixels (they differ by the sample aspect ratio)
        top, left = clip["crop_top"] * rows / shown_height, clip["crop_left"] * columns / shown_width
        box_height, box_width = clip["crop_height"] * rows / shown_height, clip["crop_width"] * columns / shown_width
    pixel = (shown_width / columns) / (shown_height / rows)  # shape of one decoded pixel, width over height
    wanted = width / height / pixel  # aspect in decoded pixels
    if box_width / box_height > wanted:
        left, box_width = left + (box_width - box_height * wanted) / 2, box_height * wanted
    else:
        top, box_height = top + (box_height - box_width / wanted) / 2, box_width / wanted
    y0, x0 = round(top), round(left)
    y1, x1 = max(y0 + 1, round(top + box_height)), max(x0 + 1, round(left + box_width))
    region = upright[y0:y1, x0:x1]
    shrinks = region.shape[0] >= height and region.shape[1] >= width
    return cv2.resize(
        np.ascontiguousarray(region), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )


def write_video(path: str | os.PathLike[str], frames: np.ndarray, fps: float, crf: int = 18) -> None:
    """Write uint8 RGB frames [T, H, W, 3] as an H.264 MP4 that browsers play. Odd sizes are padded by a repeated edge."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames are uint8 [T, H, W, 3] with T >= 1, got {frames.dtype} {list(frames.shape)}")
    odd_rows, odd_columns = frames.shape[1] % 2, frames.shape[2] % 2
    if odd_rows or odd_columns:
        frames = np.pad(frames, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.mp4")
    try:
        with av.open(str(partial), "w", options={"movflags": "+faststart"}) as container:
            rate = Fraction(fps).limit_denominator(1001)
            stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            stream.codec_context.thread_count = 1
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_preview(
    clip: Mapping[str, Any], path: str | os.PathLike[str], max_height: int = 360, max_seconds: float = 4.0
) -> None:
    """A small H.264 MP4 of the start of a clip's span, whole picture, at most 24 fps. Raises `UnreadableVideo`."""
    time_base = Fraction(int(clip["time_base_numerator"]), int(clip["time_base_denominator"]))
    seconds = min(max_seconds, float((int(clip["end_pts"]) - int(clip["start_pts"])) * time_base))
    fps = min(24.0, float(clip.get("fps") or 24.0))
    scale = min(1.0, max_height / clip["height"], 2 * max_height / clip["width"])
    height, width = (max(2, round(clip[side] * scale / 2) * 2) for side in ("height", "width"))
    whole = {name: value for name, value in clip.items() if not name.startswith("crop_")}
    times = np.arange(max(1, int(seconds * fps))) / fps
    write_video(path, read_frames(whole, list(times), height, width), fps, crf=30)


def available_decoders() -> set[str]:
    """Names of the codecs this build of FFmpeg decodes, whatever the library behind them is called."""
    found = set()
    for name in av.codecs_available:
        try:
            found.add(av.Codec(name, "r").canonical_name)
        except av.codec.codec.UnknownCodecError:
            continue
    return found


def span_pictures(
    path: str, stream_index: int, start_pts: int, end_pts: int, height: int, width: int
) -> Iterator[np.ndarray]:
    """Every presented frame with start_pts <= time stamp < end_pts, whole and upright, as uint8 RGB [height, width, 3]."""
    reformatter = VideoReformatter()
    for _, frame in _frames_of_span(path, stream_index, start_pts, end_pts):
        turns = _turns(frame)
        columns, rows = (height, width) if turns in (90, 270) else (width, height)
        small = reformatter.reformat(
            frame, width=columns, height=rows, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        yield np.ascontiguousarray(_upright(small.to_ndarray(), turns))
