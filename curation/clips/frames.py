"""A span of video becomes pictures, and pictures become a video: the one door to PyAV.

Files that reach this door are local and hostile until proven otherwise: only the formats of `ALLOWED_FORMATS` are
demuxed, no protocol but `file` is followed, and whoever decodes footage of others does it in a child (curation.prison).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from curation.clips.errors import UnreadableVideo
from curation.clips.storage import local_copy

cv2.setNumThreads(1)  # actors are sized in whole cores

ALLOWED_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,asf,ogg,flv,mxf,gif,h264,hevc,ivf,dv,rm,nut,obu,av1"
ANALYSIS_LONG_SIDE = 256  # pixels; every strip signal is measured on pictures of this size
BATCH = 64  # frames; numpy on batches costs a fifth of numpy per frame
LOOK_LONG_SIDE = 640  # pixels; what learned scorers see; text 14 px high in 720p stays readable
LOOK_INTERVAL_SECONDS = 1.0
MAX_LOOKS = 600  # of one video, about 25 MB of JPEG
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
    has_audio: bool


@dataclass(frozen=True, kw_only=True)
class FrameBatch:
    """Consecutive presented frames, small. F frames; h x w is the analysis size, its long side 256 pixels.

    pts: int64 [F]. keyframes: bool [F]. luma: uint8 [F, h, w]. chroma: uint8 [F, 2, h/2, w/2] (U, V), all upright.
    looks: [(index in batch, JPEG bytes of the upright RGB picture, long side at most 640 pixels)].
    """

    pts: np.ndarray
    keyframes: np.ndarray
    luma: np.ndarray
    chroma: np.ndarray
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
    stream = container.streams.best("video")
    if stream is None:
        raise UnreadableVideo("no_video_stream", "the container holds no video stream")
    stream.codec_context.thread_count = 1  # parallelism is across videos, where it is free
    return stream


def _decoded(
    container: "av.container.InputContainer", stream: Any, end: ScanEnd | None = None
) -> Iterator[tuple[int, Any]]:
    """Every presented frame with its time stamp, in presentation order; broken packets are counted and passed over."""
    by_dts = stream.codec_context.name in CODECS_WITH_PTS_IN_DECODE_ORDER
    last: int | None = None
    step = 1
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            break
        except av.ArgumentError:
            continue  # Theora's empty packets, "show the last picture again", are no damage
        except av.FFmpegError:
            if end is None:
                continue
            end.decode_errors += 1
            if end.decode_errors > 10_000:
                break
            continue
        for frame in frames:
            stamp = frame.dts if by_dts and frame.dts is not None else frame.pts
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
        has_audio=bool(container.streams.audio),
    )


def probe(path: str) -> VideoFacts:
    """What the container and its first frame say. Raises `UnreadableVideo` with the cause."""
    with _open(path) as container:
        stream = _stream(container)
        for _, frame in _decoded(container, stream):
            return _facts(container, stream, frame)
    raise UnreadableVideo("nothing_decodes", f"not one frame of its {stream.codec_context.name} stream decodes")


def count_frames(path: str) -> int:
    """How many frames decode and are presented; decodes them all. Raises `UnreadableVideo`."""
    with _open(path) as container:
        number = sum(1 for _ in _decoded(container, _stream(container)))
    if not number:
        raise UnreadableVideo("nothing_decodes", "not one frame decodes")
    return number


def analysis_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of analysis pictures for a displayed size: long side 256, multiples of 4."""
    scale = ANALYSIS_LONG_SIDE / max(width, height)
    return max(16, round(width * scale / 4) * 4), max(16, round(height * scale / 4) * 4)


class Scan:
    """One linear decode of a video: iterate for its `FrameBatch`es, then read `facts` and `end`.

    Raises `UnreadableVideo` when nothing decodes. Looks are taken once a second (less often beyond ten minutes).
    """

    def __init__(self, path: str, looks: bool = True):
        self.path = path
        self.looks = looks
        self.facts: VideoFacts | None = None
        self.end = ScanEnd()

    def __iter__(self) -> Iterator[FrameBatch]:
        with _open(self.path) as container:
            stream = _stream(container)
            small, big = VideoReformatter(), VideoReformatter()
            pts: list[int] = []
            keys: list[bool] = []
            planes: list[np.ndarray] = []
            looks: list[tuple[int, bytes]] = []
            next_look, interval = 0.0, LOOK_INTERVAL_SECONDS
            first = 0
            for stamp, frame in _decoded(container, stream, self.end):
                if self.facts is None:
                    self.facts = _facts(container, stream, frame)
                    first = stamp
                    interval = max(interval, (self.facts.claimed_seconds or 0.0) / MAX_LOOKS)
                    next_look = (
                        min(interval, self.facts.claimed_seconds or interval) / 4
                    )  # the very first frame is often black
                facts = self.facts
                width, height = analysis_size(facts.width, facts.height)
                sideways = facts.rotation in (90, 270)
                tiny = small.reformat(
                    frame,
                    width=height if sideways else width,
                    height=width if sideways else height,
                    format="yuv420p",
                    interpolation=Interpolation.FAST_BILINEAR,
                    threads=1,
                )
                planes.append(tiny.to_ndarray())
                pts.append(stamp)
                keys.append(bool(frame.key_frame))
                if self.looks and float((stamp - first) * facts.time_base) >= next_look:
                    looks.append((len(pts) - 1, _look(big, frame, facts)))
                    next_look += interval
                if len(pts) == BATCH:
                    yield _batch(pts, keys, planes, looks, facts)
                    pts, keys, planes, looks = [], [], [], []
            if self.facts is None:
                raise UnreadableVideo(
                    "nothing_decodes", f"not one frame of its {stream.codec_context.name} stream decodes"
                )
            if pts:
                yield _batch(pts, keys, planes, looks, self.facts)


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


def _batch(
    pts: list[int], keys: list[bool], planes: list[np.ndarray], looks: list[tuple[int, bytes]], facts: VideoFacts
) -> FrameBatch:
    """Packed yuv420p pictures [1.5 h, w] become upright planes."""
    packed = np.stack(planes)
    height = packed.shape[1] * 2 // 3
    width = packed.shape[2]
    luma = packed[:, :height]
    chroma = packed[:, height:].reshape(len(packed), 2, height // 2, width // 2)
    return FrameBatch(
        pts=np.asarray(pts, np.int64),
        keyframes=np.asarray(keys),
        luma=np.ascontiguousarray(_upright(luma, facts.rotation) if facts.rotation else luma),
        chroma=np.ascontiguousarray(_upright(chroma, facts.rotation) if facts.rotation else chroma),
        looks=looks,
    )


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
            if seek and (start <= 0 or stream.codec_context.name in CODECS_WITH_PTS_IN_DECODE_ORDER):
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
