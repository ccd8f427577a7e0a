"""Clips become files of their own: by stream copy from a keyframe, or re-encoded to begin and end on the frame.

The second door to PyAV: curation.clips.frames reads pictures, this file writes spans of a video. Whoever cuts footage of others
does it in a child (curation.prison).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import PictureType

from curation.clips.errors import UnreadableVideo
from curation.clips.frames import _decoded, _open, _pts_in_decode_order, _reason, _turns

Way = Literal["copy", "exact"]

# MP4 where players know picture and sound there, MKV for the rest (VP8, Theora, VC-1, Vorbis, WMA, ...)
MP4_VIDEO = {"h264", "hevc", "av1", "vp9", "vvc", "mpeg4", "mpeg2video"}
MP4_AUDIO = {"aac", "mp3", "mp2", "ac3", "eac3", "opus", "flac", "alac"}
# crf 12: above 35 dB in every frame of 28 real videos (LOG.md). bf 0: packets leave in presentation order, so that the file
# needs no edit list and every reader agrees which frame is the first
X264 = {"crf": "12", "preset": "veryfast", "bf": "0"}
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
AAC_BITS = 192_000  # a second, for all channels
SOUND_JUMP = 0.02  # s; time stamps in milliseconds jitter below it, real gaps in the sound lie above
INTERLEAVED_WITHIN = 10.0  # s; sound stored later than this after its picture is not waited for
FAILURES = (UnreadableVideo, av.FFmpegError, ValueError, OSError)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A clip as the manifest has it: half-open in time stamps of its video stream."""

    clip_id: str
    stream_index: int
    start_pts: int
    end_pts: int
    time_base: Fraction
    num_frames: int

    @property
    def start(self) -> Fraction:
        return self.start_pts * self.time_base

    @property
    def end(self) -> Fraction:
        return self.end_pts * self.time_base


@dataclass(frozen=True, kw_only=True)
class CutFile:
    """One clip's file. Decode it, and frames in_frame .. in_frame + num_frames of what is presented are the clip.

    file: name in the folder; None where cutting failed. start_pts, end_pts: the clip's span in the file, in its time_base (seconds
    per unit). why: why a copy would not have been exact, where one was asked for. error: why there is no file.
    """

    clip_id: str
    way: Way
    file: str | None = None
    in_frame: int = 0
    num_frames: int = 0
    start_pts: int = 0
    end_pts: int = 0
    time_base: Fraction = Fraction(1)
    why: str | None = None
    error: str | None = None


class _NotExact(Exception):
    """A stream copy of this span would not give exactly its frames; the message says why."""


def cut(path: str, spans: Sequence[Span], folder: str, way: Way, damaged: bool = False) -> list[CutFile]:
    """Cut `spans` of the video at `path` into files in `folder`, in the order of `spans`.

    copy: packets from the keyframe at or before the start; where that cannot be exact, the clip is re-encoded, its way says exact and
    `why` says why. A damaged video is always re-encoded: which of its packets become frames only a decoder knows.
    A span that fails has its error in its CutFile. Raises `UnreadableVideo` when the video does not open.
    """
    found: dict[str, CutFile] = {}
    reasons: dict[str, str] = {}
    ordered = sorted(spans, key=lambda span: (span.start_pts, span.end_pts))
    if damaged:
        reasons = {span.clip_id: "the video is damaged" for span in ordered}
    packets = _packets(path, spans[0].stream_index)
    if way == "copy" and not damaged:
        found, reasons = _copy(path, ordered, packets, Path(folder))
    rest = [span for span in ordered if span.clip_id not in found]
    if rest:
        with (
            _Pictures(path, rest[0].stream_index) as pictures,
            _Sound(path, rest[0].stream_index, packets.sound_counts) as sound,
        ):
            for span in rest:
                cut_file = _encoded(span, pictures, sound, Path(folder))
                found[span.clip_id] = replace(cut_file, why=reasons.get(span.clip_id) if way == "copy" else None)
    return [found[span.clip_id] for span in spans]


# --- stream copy -----------------------------------------------------------------------------------------------------


@dataclass
class _Plan:
    """What of the video's packets, numbered in file order, goes into one clip's file."""

    span: Span
    first: int  # the keyframe
    last: int  # the last packet that a frame of the span needs
    origin: int  # the keyframe's pts, time 0 of the file
    dts: dict[int, int]  # packet -> decoding time in the file


class _Copy:
    """One clip's file while its packets come by."""

    def __init__(self, plan: _Plan, video: Any, audio: Any, folder: Path):
        self.plan = plan
        codec = video.codec.canonical_name
        fits = codec in MP4_VIDEO and (audio is None or audio.codec.canonical_name in MP4_AUDIO)
        self.path = folder / f"{plan.span.clip_id}.{'mp4' if fits else 'mkv'}"
        self.container = av.open(str(self.path), "w", options={"movflags": "+faststart"} if fits else {})
        self.video = self.container.add_stream_from_template(video, opaque=True)
        if video.sample_aspect_ratio:  # where only the container says it, the template has it not
            self.video.codec_context.sample_aspect_ratio = video.sample_aspect_ratio
        if fits and codec == "hevc":
            self.video.codec_context.codec_tag = "hvc1"  # Apple's players refuse FFmpeg's default, hev1
        self.audio = None if audio is None else self.container.add_stream_from_template(audio)

    def add_video(self, number: int, packet: Any) -> None:
        plan, copied = self.plan, av.Packet(bytes(packet))
        copied.stream, copied.time_base = self.video, packet.time_base
        copied.pts, copied.dts = packet.pts - plan.origin, plan.dts[number]
        copied.duration = packet.duration or 0
        copied.is_keyframe = packet.is_keyframe
        self.container.mux(copied)

    def add_audio(self, pts: int, packet: Any) -> None:
        assert self.audio is not None
        copied = av.Packet(bytes(packet))
        copied.stream, copied.time_base = self.audio, packet.time_base
        copied.pts = copied.dts = pts - round(self.plan.origin * self.plan.span.time_base / packet.time_base)
        copied.duration = packet.duration or 0
        copied.is_keyframe = True
        self.container.mux(copied)


def _copy(
    path: str, spans: Sequence[Span], packets: "_Packets", folder: Path
) -> tuple[dict[str, CutFile], dict[str, str]]:
    """Copies of those spans where that is exact, and why not for the others. Decodes nothing."""
    found: dict[str, CutFile] = {}
    reasons: dict[str, str] = {}
    plans: list[_Plan] = []
    for span in spans:
        try:
            plans.append(_planned(span, packets))
        except _NotExact as why:
            reasons[span.clip_id] = str(why)
    plans.sort(key=lambda plan: plan.first)
    for plan, problem in _copied(path, plans, packets.sound, folder):
        name = next((p.name for p in folder.glob(f"{plan.span.clip_id}.*")), None)
        try:
            if problem is not None or name is None:
                raise _NotExact(f"its packets cannot be copied ({problem})")
            found[plan.span.clip_id] = _checked(plan.span, plan.origin, folder / name)
        except _NotExact as why:
            reasons[plan.span.clip_id] = str(why)
            if name is not None:
                (folder / name).unlink()
    return found, reasons


@dataclass
class _Packets:
    """The packets of a video stream in file order, and of the sound that goes with it.

    pts: [P], None where the file has none. entry: a decoder can begin here. sound: pts of the audio packets, in their time base.
    sound_counts: the file's own go backwards, and these count durations from 0 (seen in Ogg with empty Vorbis packets, which
    FFmpeg's demuxer gives a length).
    """

    codec: str
    pts: list[int | None]
    shown: list[bool]
    entry: list[bool]
    sound: list[int]
    sound_counts: bool = False
    decode_order: bool = False


def _packets(path: str, stream_index: int) -> _Packets:
    with _open(path) as container:
        stream = container.streams[stream_index]
        audio = container.streams.best("audio", related=stream)
        packets = _Packets(codec=stream.codec.canonical_name, pts=[], shown=[], entry=[], sound=[])
        packets.decode_order = _pts_in_decode_order(container, stream)
        lengths: list[int] = []
        for packet in _demuxed(container, [stream] if audio is None else [stream, audio]):
            if packet.size and audio is not None and packet.stream_index == audio.index:
                lengths.append(packet.duration or 0)
                packets.sound.append(packet.pts if packet.pts is not None else -1)
            elif packet.size:
                packets.pts.append(packet.pts)
                packets.shown.append(not packet.is_discard and _is_shown(packets.codec, packet))
                packets.entry.append(packet.is_keyframe and _is_entry(packets.codec, packet, stream))
        if any(later < sooner for sooner, later in pairwise(packets.sound)):
            packets.sound, packets.sound_counts = [0, *accumulate(lengths)][:-1], True
        return packets


def _demuxed(container: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """Packets until the end, or until the file can be read no further; what is missing then is missed where it is looked for."""
    try:
        yield from container.demux(streams)
    except av.FFmpegError:
        return


def _is_shown(codec: str, packet: Any) -> bool:
    """VP8 stores alternate references, which are never shown, as packets of their own; bit 4 tells."""
    return codec != "vp8" or bool(bytes(packet)[0] >> 4 & 1)


def _is_entry(codec: str, packet: Any, stream: Any) -> bool:
    """Whether everything presented from this keyframe on decodes without what came before.

    In H.264 that holds for IDR pictures alone: containers also mark recovery points, after which frames may still refer back.
    """
    if codec != "h264":
        return True
    data, extra = bytes(packet), stream.codec_context.extradata or b""
    if extra[:1] == b"\x01":  # avcC: every unit is preceded by its length
        size, at = (extra[4] & 3) + 1, 0
        while at + size < len(data):
            if data[at + size] & 31 == 5:
                return True
            at += size + int.from_bytes(data[at : at + size])
        return False
    return any(unit and unit[0] & 31 == 5 for unit in data.split(b"\0\0\1")[1:])


def _planned(span: Span, packets: _Packets) -> _Plan:
    """The packets of one span. Raises `_NotExact` where packets and presented frames do not match one to one."""
    if packets.decode_order:
        raise _NotExact(f"the time stamps of its {packets.codec} packets are not presentation times")
    if None in packets.pts:
        raise _NotExact("packets without a time stamp")
    pts, shown = np.asarray(packets.pts, np.int64), np.asarray(packets.shown)
    inside = np.flatnonzero(shown & (pts >= span.start_pts) & (pts < span.end_pts))
    if len(inside) != span.num_frames or pts[inside].min() != span.start_pts:
        raise _NotExact(f"{len(inside)} packets for {span.num_frames} frames")
    entries = np.flatnonzero(np.asarray(packets.entry[: inside[0] + 1]) & (pts[: inside[0] + 1] <= span.start_pts))
    if not len(entries):
        raise _NotExact("no keyframe at or before its start")
    first, last = int(entries[-1]), int(inside[-1])
    origin = int(pts[first])
    # pictures that an open group of pictures shows before its keyframe need the group before; the clip has none of them
    chosen = first + np.flatnonzero(pts[first : last + 1] >= origin)
    dts = dict(zip(chosen.tolist(), _decoding_times((pts[chosen] - origin).tolist()), strict=True))
    return _Plan(span=span, first=first, last=last, origin=origin, dts=dts)


def _decoding_times(pts: list[int]) -> list[int]:
    """Decoding times made from presentation times alone, since files lie about them, or (Matroska) do not store them."""
    order = sorted(pts)
    if len(set(order)) < len(order):
        raise _NotExact("two packets with one time stamp")
    delay = max(i - bisect_left(order, p) for i, p in enumerate(pts))
    step = order[1] - order[0] if len(order) > 1 else 1
    return [*(order[0] - step * (delay - i) for i in range(delay)), *order][: len(pts)]


def _copied(
    path: str, plans: Sequence[_Plan], sound: Sequence[int], folder: Path
) -> Iterator[tuple[_Plan, str | None]]:
    """One pass over the file that writes every plan's packets; each plan with what went wrong, once its file is closed."""
    waiting, active = list(plans), list[_Copy]()
    number, heard = -1, -1
    with _open(path) as container:
        if not plans:
            return
        video = container.streams[plans[0].span.stream_index]
        audio = container.streams.best("audio", related=video)
        for packet in _demuxed(container, [video] if audio is None else [video, audio]):
            if not packet.size:
                continue
            is_video = packet.stream_index == video.index
            number, heard = number + is_video, heard + (not is_video)
            pts: int = (packet.pts or 0) if is_video else sound[heard]  # plans know no packet without
            now = pts * packet.time_base
            while waiting and (number >= waiting[0].first if is_video else now >= _origin(waiting[0])):
                plan = waiting.pop(0)
                try:
                    active.append(_Copy(plan, video, audio, folder))
                except FAILURES as error:
                    yield plan, _reason(error)
            for one in list(active):
                plan = one.plan
                try:
                    if is_video and number in plan.dts:
                        one.add_video(number, packet)
                    elif not is_video and now < plan.span.end and now + _seconds(packet) > _origin(plan):
                        one.add_audio(pts, packet)
                    if number > plan.last and now >= plan.span.end + (INTERLEAVED_WITHIN if is_video and audio else 0):
                        active.remove(one)
                        one.container.close()
                        yield plan, None
                except FAILURES as error:
                    if one in active:
                        active.remove(one)
                    yield plan, _reason(error)
    for one in active:
        try:
            one.container.close()
            yield one.plan, None
        except FAILURES as error:
            yield one.plan, _reason(error)
    yield from ((plan, "the file ended before it") for plan in waiting)


def _origin(plan: _Plan) -> Fraction:
    return plan.origin * plan.span.time_base


def _seconds(packet: Any) -> Fraction:
    return (packet.duration or 0) * packet.time_base


def _checked(span: Span, origin: int, path: Path) -> CutFile:
    """Find the clip in its file again, by packets. Raises `_NotExact` where its frames are not there at their times."""
    with _open(str(path)) as container:
        stream: Any = container.streams.best("video")
        codec, base = stream.codec.canonical_name, Fraction(stream.time_base)
        shown = sorted(
            p.pts
            for p in container.demux(stream)
            if p.size and p.pts is not None and not p.is_discard and _is_shown(codec, p)
        )
    if not shown:
        raise _NotExact("nothing of it is presented")
    tick = max(base, span.time_base)
    lead = (span.start_pts - origin) * span.time_base
    in_frame = bisect_left(shown, shown[0] + round((lead - tick) / base) + 1) if lead else 0
    clip = shown[in_frame : in_frame + span.num_frames]
    length = span.end - span.start
    if len(clip) < span.num_frames or abs((clip[0] - shown[0]) * base - lead) > tick:
        raise _NotExact("the container moves its frames")
    if (clip[-1] - clip[0]) * base >= length + tick:
        raise _NotExact("the container moves its frames")
    return CutFile(
        clip_id=span.clip_id,
        way="copy",
        file=path.name,
        in_frame=in_frame,
        num_frames=span.num_frames,
        start_pts=clip[0],
        end_pts=clip[0] + round(length / base),
        time_base=base,
    )


# --- re-encoding -----------------------------------------------------------------------------------------------------


class _Pictures:
    """The frames of spans of a video by one linear decode: the frames, and the time stamps, that its strip was made from."""

    def __init__(self, path: str, stream_index: int):
        self.path, self.stream_index = path, stream_index
        self.container: Any = None

    def __enter__(self) -> "_Pictures":
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def _begin(self) -> None:
        if self.container is not None:
            self.container.close()
        self.container = _open(self.path)
        self.stream = self.container.streams[self.stream_index]
        self.stream.codec_context.thread_count = 1
        self.frames = _decoded(self.container, self.stream)
        self.next = next(self.frames, None)
        self.passed: int | None = None

    def span(self, start: int, end: int) -> Iterator[tuple[int, int, Any]]:
        """(time stamp, time stamp of the next frame or `end`, frame) of the frames with start <= time stamp < end."""
        if self.passed is not None and self.passed >= start:
            self._begin()  # spans that overlap
        while self.next is not None and self.next[0] < end:
            stamp, frame = self.next
            self.passed, self.next = stamp, next(self.frames, None)
            if stamp >= start:
                yield stamp, end if self.next is None else min(end, self.next[0]), frame


class _Sound:
    """The samples of spans of a video's best audio stream, by one linear decode. Without such a stream `rate` is None.

    counts: its time stamps are not to be trusted, samples are counted from time 0 (see _Packets).
    """

    def __init__(self, path: str, stream_index: int, counts: bool):
        self.path, self.stream_index, self.counts = path, stream_index, counts
        self.container: Any = None

    def __enter__(self) -> "_Sound":
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def _begin(self) -> None:
        if self.container is not None:
            self.container.close()
        self.container = _open(self.path)
        stream = self.container.streams.best("audio", related=self.container.streams[self.stream_index])
        self.rate: int | None = None
        self.blocks: Iterator[tuple[int, np.ndarray]] = iter(())
        self.kept: list[tuple[int, np.ndarray]] = []
        self.passed: Fraction | None = None
        if stream is None or not stream.codec_context.sample_rate:
            return
        rate = stream.codec_context.sample_rate
        self.rate = rate if rate in AAC_RATES else 48_000
        self.layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self.blocks = self._decode(stream, self.rate, self.layout)

    def _decode(self, stream: Any, rate: int, layout: str) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first sample, counted from time 0; float32 [channels, samples]), without overlap."""
        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        at: int | None = None
        for packet in _demuxed(self.container, [stream]):
            try:
                frames = packet.decode()
            except (av.FFmpegError, av.ArgumentError):
                continue
            for frame in frames:
                if frame.pts is not None and not self.counts:
                    begins = round(frame.pts * frame.time_base * rate)
                    if at is None or abs(begins - at) > SOUND_JUMP * rate:
                        at = begins
                for block in resampler.resample(frame):
                    samples = block.to_ndarray()
                    at = at or 0
                    yield at, samples
                    at += samples.shape[1]

    def span(self, start: Fraction, end: Fraction) -> np.ndarray:
        """Samples from `start` to `end` (seconds), float32 [channels, samples]; silence where the video has none."""
        assert self.rate is not None
        if self.passed is not None and start < self.passed:
            self._begin()
        first, last = round(start * self.rate), round(end * self.rate)
        result = np.zeros((1 if self.layout == "mono" else 2, last - first), np.float32)
        kept = self.kept
        while not kept or kept[-1][0] < last:
            block = next(self.blocks, None)
            if block is None:
                break
            kept.append(block)
            if len(kept) > 1 and kept[0][0] + kept[0][1].shape[1] <= first:
                kept.pop(0)
        for at, samples in kept:
            low, high = max(at, first), min(at + samples.shape[1], last)
            if low < high:
                result[:, low - first : high - first] = samples[:, low - at : high - at]
        self.kept = [(at, samples) for at, samples in kept if at + samples.shape[1] > last]
        self.passed = end
        return result


def _encoded(span: Span, pictures: _Pictures, sound: _Sound, folder: Path) -> CutFile:
    """H.264 and AAC from the first frame to the last. Sound is encoded anew, for packets of it (21 ms of AAC, 24 of MP3) overhang a
    cut on both sides and need the packet before; samples do not."""
    path = folder / f"{span.clip_id}.mp4"
    try:
        base, number = _write(span, pictures, sound, path)
        if number != span.num_frames:
            raise UnreadableVideo("nothing_decodes", f"{number} of its {span.num_frames} frames decode")
    except FAILURES as error:
        path.unlink(missing_ok=True)
        return CutFile(
            clip_id=span.clip_id,
            way="exact",
            error=str(error) if isinstance(error, UnreadableVideo) else _reason(error),
        )
    return CutFile(
        clip_id=span.clip_id,
        way="exact",
        file=path.name,
        num_frames=number,
        end_pts=round((span.end - span.start) / base),
        time_base=base,
    )


def _write(span: Span, pictures: _Pictures, sound: _Sound, path: Path) -> tuple[Fraction, int]:
    """Write the file; its time base, and how many frames it has."""
    video: Any = None
    turn: Any = None
    durations: dict[int, int] = {}
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        for stamp, until, frame in pictures.span(span.start_pts, span.end_pts):
            durations[stamp - span.start_pts] = until - stamp
            frame.pts, frame.time_base = stamp - span.start_pts, span.time_base
            if video is None:
                turn = _Turn(frame)
                upright = turn(frame)
                video = _video_stream(container, span, pictures.stream, upright, sideways=turn.sideways)
                _write_sound(container, span, sound)
            else:
                upright = turn(frame)
            picture = upright.reformat(width=video.width, height=video.height, format=video.pix_fmt)
            picture.pts, picture.time_base = stamp - span.start_pts, span.time_base
            picture.pict_type = PictureType.NONE  # else x264 repeats the source's I, P and B
            _mux(container, video.encode(picture), durations)
        if video is None:
            raise UnreadableVideo("nothing_decodes", "not one frame of its span decodes")
        _mux(container, video.encode(), durations)
        base = Fraction(video.time_base)
    return base, len(durations)


def _mux(container: Any, packets: Sequence[Any], durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations[packet.pts]
        container.mux(packet)


class _Turn:
    """Turns coded pictures upright, in whatever pixel format: an H.264 encoder has no place for a display matrix."""

    def __init__(self, frame: Any):
        rotation = _turns(frame)
        self.sideways = rotation in (90, 270)
        self.graph: Any = None
        if rotation:
            names = {90: [("transpose", "cclock")], 180: [("hflip", ""), ("vflip", "")], 270: [("transpose", "clock")]}
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            steps = [graph.add(name, arguments) for name, arguments in names[rotation]]
            graph.link_nodes(source, *steps, graph.add("buffersink")).configure()
            self.graph = graph

    def __call__(self, frame: Any) -> Any:
        if self.graph is None:
            return frame
        self.graph.vpush(frame)
        return self.graph.vpull()


def _video_stream(container: Any, span: Span, source: Any, picture: Any, sideways: bool) -> Any:
    seconds = span.end - span.start
    stream = container.add_stream("libx264", rate=(span.num_frames / seconds).limit_denominator(1001), options=X264)
    context = stream.codec_context
    context.thread_count = 1
    context.width, context.height, context.pix_fmt = picture.width, picture.height, _pixel_format(picture)
    context.time_base = span.time_base
    ratio = source.sample_aspect_ratio or source.codec_context.sample_aspect_ratio
    if ratio:
        context.sample_aspect_ratio = 1 / ratio if sideways else ratio
    for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
        setattr(context, name, getattr(source.codec_context, name))
    return stream


def _pixel_format(picture: Any) -> str:
    """The picture's own format where x264 takes it; 4:4:4 for odd sizes, which 4:2:0 would lose a line of."""
    own = picture.format
    odd = picture.width % 2 or picture.height % 2
    known = {each.name for each in av.Codec("libx264", "w").video_formats or ()}
    if own.name in known and not (odd and "444" not in own.name):
        return str(own.name)
    return ("yuv444p" if odd or own.is_rgb else "yuv420p") + ("10le" if own.components[0].bits > 8 else "")


def _write_sound(container: Any, span: Span, sound: _Sound) -> None:
    """Before the pictures: it is small enough to wait in the muxer for them."""
    if sound.rate is None:
        return
    samples = sound.span(span.start, span.end)
    stream = container.add_stream("aac", rate=sound.rate)
    stream.codec_context.layout, stream.codec_context.bit_rate = sound.layout, AAC_BITS
    packets = []
    for at in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[:, at : at + 1024]), format="fltp", layout=sound.layout
        )
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, at, Fraction(1, sound.rate)
        packets += stream.encode(frame)
    for packet in [*packets, *stream.encode()]:
        container.mux(packet)
