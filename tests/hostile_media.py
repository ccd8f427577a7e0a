"""Files that nobody should have to decode: real videos damaged in many ways, lies of every field, and things that are no videos.

Everything is made from samples/ and by encoders, the same bytes each time; no damaged file lies in the repository.
"""

import io
import os
import random
import re
import socket
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from curation.clips.frames import probe, span_pictures
from tests.conftest import SAMPLES

SIZE = (160, 90)  # pixels, width and height of the footage that is encoded here
FPS = 12
SECRET = "secret_beside.mp4"  # what playlists name: footage that nobody gave


@cache
def pictures() -> np.ndarray:
    """Two seconds of a real video, uint8 RGB [24, 90, 160, 3]."""
    source = str(SAMPLES / "beetle_bw_360p.mp4")
    stream, every = probe(source), 2
    found = [
        p
        for p, _ in zip(
            span_pictures(source, stream.stream_index, 0, 1 << 62, SIZE[1], SIZE[0]), range(48), strict=False
        )
    ]
    return np.stack(found[::every])


@cache
def encoded(
    container: str, codec: str = "libx264", *, options: tuple[tuple[str, str], ...] = (), pixels: str = "yuv420p",
    size: tuple[int, int] = SIZE, frames: int = 2 * FPS, stamps: tuple[int, ...] | None = None, base: Fraction = Fraction(1, FPS),
    sound: bool = False, flags: str = "", blank: bool = False,
) -> bytes:  # fmt: skip
    """A video as bytes. stamps: presentation times in `base` seconds, one for each frame; else consecutive."""
    with tempfile.TemporaryDirectory() as folder:  # moving the index to the front needs a file that can be opened again
        path = Path(folder, "made")
        with av.open(
            str(path), "w", format=container, options={"fflags": "+bitexact"} | ({"movflags": flags} if flags else {})
        ) as sink:
            _fill(sink, container, codec, dict(options), pixels, size, frames, stamps, base, sound, blank)
        return path.read_bytes()


def _fill(
    sink: Any, container: str, codec: str, options: dict[str, str], pixels: str, size: tuple[int, int], frames: int,
    stamps: tuple[int, ...] | None, base: Fraction, sound: bool, blank: bool,
) -> None:  # fmt: skip
    stream = sink.add_stream(codec, rate=FPS, options=options)
    stream.width, stream.height, stream.pix_fmt = *size, pixels
    stream.time_base = stream.codec_context.time_base = base
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = FPS
    stream.codec_context.sample_aspect_ratio = Fraction(1)
    noise = (
        sink.add_stream("aac" if container in ("mp4", "mov", "mpegts", "flv") else "mp2", rate=48000) if sound else None
    )
    for number in range(frames):
        if blank:
            black = np.zeros((size[1], size[0]), np.uint8)  # PyAV's own new frames hold what the memory held
            frame = av.VideoFrame.from_ndarray(black, format="gray").reformat(format=pixels)
        else:
            frame = av.VideoFrame.from_ndarray(pictures()[number % (2 * FPS)], format="rgb24").reformat(*size, pixels)
        frame.pts, frame.time_base = number if stamps is None else stamps[number], base
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode())
    if noise is not None:
        _hum(sink, noise, 2)


def _hum(sink: Any, stream: Any, seconds: int) -> None:
    for number in range(seconds * 48000 // 1024):
        wave = np.sin(np.arange(1024) / 20).astype(np.float32)[None].repeat(2, 0)
        frame = av.AudioFrame.from_ndarray(wave if stream.format.name == "fltp" else (wave * 9000).astype(np.int16).T.reshape(1, -1),
                                           format="fltp" if stream.format.name == "fltp" else "s16", layout="stereo")  # fmt: skip
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * 1024, Fraction(1, 48000)
        sink.mux(stream.encode(frame))
    sink.mux(stream.encode())


@cache
def sound_only(container: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container, options={"fflags": "+bitexact"}) as sink:
        _hum(sink, sink.add_stream("aac" if container == "mp4" else "mp2", rate=48000), 2)
    return out.getvalue()


@cache
def remuxed(data: bytes, container: str, shift: int) -> bytes:
    """The packets in another container, unchanged but for their times, which are moved by `shift` units."""
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(data)) as source,
        av.open(out, "w", format=container, options={"fflags": "+bitexact"}) as sink,
    ):
        old = source.streams.video[0]
        new = sink.add_stream_from_template(old)
        for packet in source.demux(old):
            if packet.size:
                packet.stream, packet.pts, packet.dts = new, packet.pts + shift, packet.dts + shift
                sink.mux(packet)
    return out.getvalue()


def repeated(seconds: int) -> bytes:
    """One black picture of 64 x 36 pixels again every second: hours in few bytes."""
    picture = encoded("matroska", "mpeg4", size=(64, 36), frames=1, blank=True)
    out = io.BytesIO()
    with (
        av.open(io.BytesIO(picture)) as source,
        av.open(out, "w", format="matroska", options={"fflags": "+bitexact"}) as sink,
    ):
        new = sink.add_stream_from_template(source.streams.video[0])
        data = next(bytes(packet) for packet in source.demux(video=0))
        for number in range(seconds):
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.is_keyframe = new, Fraction(1), True
            packet.pts = packet.dts = number
            sink.mux(packet)
    return out.getvalue()


# --- damage ----------------------------------------------------------------------------------------------------------


def cut(data: bytes, share: float) -> bytes:
    """The beginning of a file; a negative number leaves out so many bytes of the end."""
    return data[: int(share) if share < 0 else round(share * len(data))]


def flipped(data: bytes, seed: int, begin: float, end: float, bits: int) -> bytes:
    """So many bits turned over, between these shares of the file."""
    draw, damaged = random.Random(seed), bytearray(data)
    for _ in range(bits):
        at = draw.randrange(int(begin * len(data)), max(int(begin * len(data)) + 1, int(end * len(data))))
        damaged[at] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def zeroed(data: bytes, begin: float, end: float) -> bytes:
    first, last = int(begin * len(data)), int(end * len(data))
    return data[:first] + bytes(last - first) + data[last:]


def poked(data: bytes, box: bytes, offset: int, value: bytes, nth: int = 0) -> bytes:
    """Bytes written over what lies `offset` bytes behind the name of a box."""
    at = -1
    for _ in range(nth + 1):
        at = data.index(box, at + 1)
    at += 4 + offset
    return data[:at] + value + data[at + len(value) :]


def box(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I", len(body) + 8 if size is None else size) + name + body


def boxes(data: bytes) -> dict[bytes, bytes]:
    """The boxes of an MP4 file by name, the last of each."""
    found, at = {}, 0
    while at + 8 <= len(data):
        size = struct.unpack_from(">I", data, at)[0]
        found[data[at + 4 : at + 8]] = data[at : at + size]
        at += size
    return found


def nested(name: bytes, depth: int) -> bytes:
    body = b""
    for _ in range(depth):
        body = box(name, body)
    return body


def edited(data: bytes, *edits: tuple[int, int, int]) -> bytes:
    """With an edit list of (duration, media time, rate as 16.16) in place of the one there is; it may be longer."""
    body = struct.pack(">II", 0, len(edits)) + b"".join(struct.pack(">IiI", *edit) for edit in edits)
    at = data.index(b"edts") - 4
    old = struct.unpack_from(">I", data, at)[0]
    new = box(b"edts", box(b"elst", body))
    grown = len(new) - old
    data = data[:at] + new + data[at + old :]
    for name in (b"moov", b"trak"):
        where = data.index(name) - 4
        size = struct.unpack_from(">I", data, where)[0] + grown
        data = data[:where] + struct.pack(">I", size) + data[where + 4 :]
    return data  # moov lies last, so that what stco says of mdat still holds


U32 = struct.Struct(">I").pack
MOST = U32(0xFFFFFFFF)


def _lies() -> Iterator[tuple[str, bytes]]:
    """MP4 files, each with one field that lies."""
    whole = encoded("mp4")  # mdat, then moov
    parts = boxes(whole)
    ftyp, mdat, moov = parts[b"ftyp"], parts[b"mdat"], parts[b"moov"]
    yield "no_moov", ftyp + mdat
    yield "no_ftyp", mdat + moov
    yield "no_mdat", ftyp + moov
    yield "moov_twice", whole + moov
    yield "moov_first_offsets_stale", ftyp + moov + mdat
    yield "moov_in_moov", ftyp + mdat + box(b"moov", moov)
    yield "ftyp_200_times", ftyp * 200 + mdat + moov
    yield "moov_of_4_gib", ftyp + mdat + MOST + moov[4:]
    yield "moov_of_4_bytes", ftyp + mdat + U32(4) + moov[4:]
    yield "mdat_to_the_end", ftyp + U32(0) + mdat[4:] + moov
    yield "mdat_of_exabytes", ftyp + U32(1) + b"mdat" + struct.pack(">Q", 1 << 62) + mdat[8:] + moov
    yield "mdat_negative", ftyp + U32(1) + b"mdat" + struct.pack(">q", -8) + mdat[8:] + moov
    yield "nested_10000_deep", ftyp + nested(b"moov", 10_000) + mdat + moov
    yield "nested_traks", ftyp + box(b"moov", nested(b"trak", 5_000)) + mdat
    yield "udta_nested", whole + box(b"udta", nested(b"meta", 3_000))
    yield "free_of_4_gib", ftyp + box(b"free", b"", 0xFFFFFFF0) + mdat + moov
    fields: list[tuple[str, bytes, int, bytes]] = [
        ("timescale_0", b"mdhd", 12, U32(0)), ("timescale_most", b"mdhd", 12, MOST), ("timescale_1", b"mdhd", 12, U32(1)),
        ("movie_timescale_0", b"mvhd", 12, U32(0)), ("lasts_for_ever", b"mdhd", 16, MOST), ("lasts_nothing", b"mdhd", 16, U32(0)),
        ("movie_lasts_for_ever", b"mvhd", 16, MOST), ("mvhd_version_255", b"mvhd", 0, b"\xff"),
        ("tkhd_65535_wide", b"tkhd", 76, MOST * 2), ("tkhd_no_size", b"tkhd", 76, U32(0) * 2), ("matrix_zero", b"tkhd", 40, bytes(36)),
        ("matrix_37_degrees", b"tkhd", 40, struct.pack(">iiiiiiiii", 52339, 39441, 0, -39441, 52339, 0, 0, 0, 1 << 30)),
        ("matrix_huge", b"tkhd", 40, struct.pack(">iiiiiiiii", *[0x7FFFFFFF] * 9)),
        ("matrix_mirrors", b"tkhd", 40, struct.pack(">iiiiiiiii", -65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)),
        ("matrix_turned_90", b"tkhd", 40, struct.pack(">iiiiiiiii", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)),
        ("sound_handler", b"hdlr", 8, b"soun"), ("unknown_handler", b"hdlr", 8, b"\0\0\0\0"), ("unknown_codec", b"stsd", 12, b"zzzz"),
        ("codec_of_pictures", b"stsd", 12, b"png "), ("codec_hevc", b"stsd", 12, b"hvc1"), ("encrypted_codec", b"stsd", 12, b"encv"),
        ("stsd_of_4_billion", b"stsd", 4, MOST), ("stsd_none", b"stsd", 4, U32(0)), ("entry_65535_wide", b"avc1", 24, b"\xff\xff\xff\xff"),
        ("entry_without_size", b"avc1", 24, bytes(4)), ("avcc_zero", b"avcC", 0, bytes(30)), ("avcc_ones", b"avcC", 0, b"\xff" * 20),
        ("sps_of_65535", b"avcC", 6, b"\xff\xff"), ("nal_length_of_1", b"avcC", 4, b"\xfc"),
        ("stts_of_4_billion", b"stts", 4, MOST), ("stts_none", b"stts", 4, U32(0)), ("frames_10_hours_apart", b"stts", 12, U32(12288 * 36_000)),
        ("frames_of_most_ticks", b"stts", 12, MOST), ("frames_of_no_ticks", b"stts", 12, U32(0)), ("stts_says_4_billion", b"stts", 8, MOST),
        ("ctts_of_4_billion", b"ctts", 4, MOST), ("ctts_far", b"ctts", 12, U32(0x7FFFFFFF)), ("ctts_negative", b"ctts", 12, U32(0x80000001)),
        ("stsz_of_4_billion", b"stsz", 8, MOST), ("stsz_all_of_2_gib", b"stsz", 4, U32(0x7FFFFFFF)), ("stsz_first_of_4_gib", b"stsz", 12, MOST),
        ("stsc_of_4_billion", b"stsc", 4, MOST), ("stsc_chunk_0", b"stsc", 8, U32(0)), ("stsc_most_samples", b"stsc", 12, MOST),
        ("stco_of_4_billion", b"stco", 4, MOST), ("stco_behind_the_end", b"stco", 8, MOST), ("stco_at_0", b"stco", 8, U32(0)),
        ("pixels_4_billion_wide", b"pasp", 0, MOST + U32(1)), ("pixels_4_billion_high", b"pasp", 0, U32(1) + MOST),
        ("pixels_of_no_shape", b"pasp", 0, bytes(8)), ("stss_of_4_billion", b"stss", 4, MOST),
    ]  # fmt: skip
    for name, where, offset, value in fields:
        yield name, poked(whole, where, offset, value)
    yield "edit_far", edited(whole, (24_000, 0x7FFFFFFF, 65536))
    yield "edit_empty_for_weeks", edited(whole, (0x7FFFFFFF, -1, 65536), (2000, 0, 65536))
    yield "edit_stands_still", edited(whole, (2000, 0, 0))
    yield "edit_backwards", edited(whole, (2000, 0, 0xFFFF0000))
    yield "edits_jump_1000_times", edited(whole, *[(40, 12288 * (i * 7 % 20) // 12, 65536) for i in range(1000)])
    yield "edit_before_the_start", edited(whole, (2000, -12288, 65536))
    pieces = encoded("mp4", flags="frag_keyframe+empty_moov")
    parts = boxes(pieces)
    yield "fragments_without_start", pieces[pieces.index(b"moof") - 4 :]
    yield "fragments_without_pictures", pieces.replace(b"mdat", b"free")
    yield "fragments_twice", pieces + parts[b"moof"] + parts[b"mdat"] * 2
    yield "fragment_of_4_billion", poked(pieces, b"trun", 4, MOST)
    yield "fragment_at_the_end_of_time", poked(pieces, b"tfdt", 4, MOST * 2)
    for share in (0.3, 0.55, 0.9):
        yield f"fragments_cut_{share}", cut(pieces, share)


def _backwards(block: re.Match[bytes]) -> bytes:
    """The head of a Matroska block with its time counted down from ten seconds."""
    return b"\x81" + struct.pack(">h", 10_000 - struct.unpack(">h", block[1])[0] % 10_000) + block[2]


def _coded() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Files that are what they say, and mean no good."""
    small = encoded("mpegts", size=(96, 64))
    yield (
        "huge.mp4",
        lambda: encoded("mp4", size=(12_000, 12_000), frames=1, blank=True, options=(("preset", "ultrafast"),)),
    )
    yield (
        "huge_hevc_header.mp4",
        lambda: poked(
            encoded("mp4", "libx265", options=(("x265-params", "log-level=none:pools=1"),)), b"hev1", 24, b"\xff" * 4
        ),
    )
    yield "wide_strip.mkv", lambda: encoded("matroska", "mpeg4", size=(8_000, 16), frames=6)
    yield "two_by_two.mkv", lambda: encoded("matroska", "rawvideo", size=(2, 2))
    yield "one_pixel.mkv", lambda: encoded("matroska", "rawvideo", size=(1, 1), pixels="gray")
    yield "one_column.avi", lambda: encoded("avi", "huffyuv", size=(2, 2000), pixels="yuv422p")
    yield "ten_hours_of_black.mkv", lambda: repeated(36_000)
    yield "single_picture.mp4", lambda: encoded("mp4", frames=1)
    yield "two_pictures.mp4", lambda: encoded("mp4", frames=2)
    yield "sound_only.mp4", lambda: sound_only("mp4")
    yield "sound_only.mkv", lambda: sound_only("matroska")
    yield "with_sound.mp4", lambda: encoded("mp4", sound=True)
    yield "grows_in_the_middle.ts", lambda: small + encoded("mpegts")
    yield "grows_and_shrinks.ts", lambda: (small + encoded("mpegts") + small) * 2
    yield (
        "grows_to_12000.ts",
        lambda: (
            small + encoded("mpegts", size=(12_000, 12_000), frames=1, blank=True, options=(("preset", "ultrafast"),))
        ),
    )
    yield "changes_codec.ts", lambda: small + encoded("mpegts", "mpeg2video", base=Fraction(1, 25))
    yield "pixels_change.h264", lambda: encoded("h264") + encoded("h264", pixels="yuv444p")
    hours = tuple(n if n < 12 else 3_600_000 * n for n in range(2 * FPS))
    yield "hours_between_pictures.mkv", lambda: encoded("matroska", stamps=hours, base=Fraction(1, 1000))
    yield "a_thousand_a_second.mkv", lambda: encoded("matroska", stamps=tuple(range(24)), base=Fraction(1, 1000))
    yield (
        "odd_time_base.mp4",
        lambda: encoded("mp4", base=Fraction(1, 1_000_003), stamps=tuple(83_333 * n for n in range(24))),
    )
    yield "a_second_each.nut", lambda: encoded("nut", "mpeg4", base=Fraction(1))
    yield "negative_times.ts", lambda: remuxed(encoded("mpegts"), "mpegts", shift=-400_000)
    yield "negative_times.mkv", lambda: remuxed(encoded("matroska", "mpeg4"), "matroska", shift=-5_000)
    yield "near_the_end_of_time.nut", lambda: remuxed(encoded("nut", "mpeg4"), "nut", shift=1 << 60)
    simple = encoded("matroska", "mpeg4")
    yield "times_backwards.mkv", lambda: re.sub(rb"\x81(..)([\0\x80])", _backwards, simple, flags=re.DOTALL)
    yield "joined.mpg", lambda: (SAMPLES / "city_night_timelapse_mpeg2.mpg").read_bytes()[:400_000] * 2
    yield "ten_bits.mkv", lambda: encoded("matroska", "ffv1", pixels="yuv444p10le")
    yield "transparent.mkv", lambda: encoded("matroska", "ffv1", pixels="yuva420p")
    yield "sixteen_bits.mkv", lambda: encoded("matroska", "ffv1", pixels="gray16le")
    yield "palette.gif", lambda: encoded("gif", "gif", pixels="rgb8")
    yield "raw.avi", lambda: cut(encoded("avi", "rawvideo", frames=6), 0.7)
    yield "pngs.mov", lambda: encoded("mov", "png", pixels="rgba", frames=6)
    photographs = encoded("matroska", "mjpeg", pixels="yuvj420p")
    yield (
        "huge_photographs.mkv",
        lambda: re.sub(
            rb"(\xff\xc0\0\x11\x08)....", lambda found: found[1] + b"\xff\xdc" * 2, photographs, flags=re.DOTALL
        ),
    )
    elf = (SAMPLES / "toy_elf_480p_vp8.webm").read_bytes()
    yield (
        "endless_cluster.webm",
        lambda: elf[:60_000] + b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff" + elf[60_000:90_000],
    )
    yield "wide_ebml_sizes.webm", lambda: flipped(elf[:100_000], 7, 0.0, 0.003, 40)


def _damaged() -> Iterator[tuple[str, bytes]]:
    """Real and encoded videos of every container, cut short, turned over and zeroed at many places."""
    bee = (SAMPLES / "bee_720p.mp4").read_bytes()
    first = encoded("mp4", flags="faststart")
    for share in (1, 7, 8, 40, 700):
        yield f"first_{share}_bytes.mp4", bee[:share]
    for share in (0.05, 0.1, 0.2):
        yield f"bee_cut_{share}.mp4", cut(bee, share)
    for share in (0.15, 0.3, 0.5, 0.75, 0.95, -1):
        yield f"index_first_cut_{share}.mp4", cut(first, share)
    for share in (0.5, 0.9, -1):
        yield f"index_last_cut_{share}.mp4", cut(encoded("mp4"), share)
    for seed in range(10):
        yield f"header_flipped_{seed}.mp4", flipped(first, seed, 0.0, min(1.0, 1400 / len(first)), 1 + seed)
    for seed in range(4):
        yield f"packets_flipped_{seed}.mp4", flipped(first, seed, 0.2, 1.0, 1 + 30 * seed)
    for begin, end in ((0.0, 0.02), (0.05, 0.1), (0.3, 0.4), (0.4, 1.0)):
        yield f"zeroed_{begin}.mp4", zeroed(first, begin, end)
    kinds: dict[str, bytes] = {
        "mkv": encoded("matroska", sound=True), "ts": encoded("mpegts", sound=True), "avi": encoded("avi", "mpeg4", sound=True),
        "flv": encoded("flv", "flv"), "webm": (SAMPLES / "toy_elf_480p_vp8.webm").read_bytes()[:90_000],
        "ogv": (SAMPLES / "screencast_hello_480p_theora.ogv").read_bytes()[:90_000],
        "mpg": (SAMPLES / "city_night_timelapse_mpeg2.mpg").read_bytes()[:250_000],
        "av1.mp4": (SAMPLES / "roof_portrait_pan_hdr10_av1.mp4").read_bytes(), "hevc": encoded("hevc", "libx265", options=(("x265-params", "log-level=none:pools=1"),)),
        "nut": encoded("nut", "ffv1"), "wmv": encoded("asf", "wmv2"),
    }  # fmt: skip
    for kind, data in kinds.items():
        yield f"cut_60.{kind}", cut(data, 0.6)
        yield f"header_flipped.{kind}", flipped(data, 1, 0.0, 0.02, 12)
        yield f"packets_flipped.{kind}", flipped(data, 2, 0.05, 1.0, 60)
        yield f"zeroed.{kind}", zeroed(data, 0.3, 0.6)


def _others(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Other formats that call themselves videos; the ones that name another file name SECRET beside them."""
    secret = str(folder.parent / SECRET)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    yield "hls.mp4", playlist.format(secret).encode()
    yield "hls_sibling.mp4", playlist.format("two_pictures.mp4").encode()
    yield "hls_file_url.mkv", playlist.format(f"file://{secret}").encode()
    yield "hls_http.mp4", playlist.format("http://127.0.0.1:9/x.ts").encode()
    yield "ffconcat.mp4", f"ffconcat version 1.0\nfile ../{SECRET}\n".encode()
    yield "ffconcat_sibling.mkv", b"ffconcat version 1.0\nfile two_pictures.mp4\n"
    yield "ffconcat_http.mp4", b"ffconcat version 1.0\nfile http://127.0.0.1:9/x.mp4\n"
    yield (
        "dash.mp4",
        f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>'.encode(),
    )
    yield (
        "sdp.mp4",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    )
    absolute = f"file://{secret}".encode()
    reference = box(b"dref", bytes(4) + U32(1) + box(b"url ", bytes(4) + absolute + b"\0"))
    yield "dref_outside.mov", encoded("mov").replace(b"mdat", b"free") + reference
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("x"), bytes(5_000_000))
    yield "archive.mp4", archive.getvalue()
    yield "elf.mp4", b"\x7fELF\x02\x01\x01" + bytes(9) + random.Random(0).randbytes(4000)
    yield "words.mp4", b"not a video\n" * 500
    yield (
        "drawing.mp4",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{secret}"/><script>1</script></svg>'.encode(),
    )
    picture = np.asarray(pictures()[0])
    yield "picture.mp4", _still("png", picture)
    yield "photograph.mp4", _still("mjpeg", picture)
    yield "moving_picture.mp4", encoded("gif", "gif", pixels="rgb8", frames=4)
    yield "paper.mp4", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    yield "page.mp4", b"<!doctype html><script>alert(1)</script>"
    yield "subtitles.mkv", b"1\n00:00:00,000 --> 00:00:09,000\n<script>alert(1)</script>\n" * 40
    yield "random.mp4", random.Random(1).randbytes(50_000)
    yield "zeros.mp4", bytes(50_000)
    yield "empty.mp4", b""


def _still(codec: str, picture: np.ndarray) -> bytes:
    encoder: Any = av.CodecContext.create(codec, "w")
    pixels = "rgb24" if codec == "png" else "yuvj420p"
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = (
        picture.shape[1],
        picture.shape[0],
        pixels,
        Fraction(1),
    )
    return b"".join(
        map(
            bytes,
            [*encoder.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels)), *encoder.encode()],
        )
    )


NAMES = (
    "quote'quote.mp4", 'double"quotes".mp4', "line\nbreak.mp4", "tab\there.mp4", "-rf.mp4", "--help.mp4", "$(touch owned).mp4",
    "; rm x ;.mp4", "per%03dcent.mp4", "concat:a|b.mp4", "pipe:0.mp4", "file:x.mp4", "\u202egnp.mp4", "Ünïcødé 视频 🎞.mp4",
    "<script>alert(1)<%2fscript>.mp4", "a" * 240 + ".mp4", "back\\slash.mp4", "star*[x]?.mp4", " .mp4", "UPPER.MP4",
    b"not utf-8 \xff\xfe.mp4".decode("utf-8", "surrogateescape"),
)  # fmt: skip


def hostile_files(folder: Path) -> dict[str, Callable[[], bytes]]:
    """Name in `folder`, and how its bytes are made, of every regular file; in an order that does not change."""
    found = dict(_coded())
    for name, data in [*_others(folder), *((f"{name}.mp4", data) for name, data in _lies()), *_damaged()]:
        found[name] = partial(bytes, data)
    tiny = encoded("mp4", frames=3)
    for number, name in enumerate(NAMES):  # a box behind that nobody reads, so that no two are the same bytes
        found[name] = partial(bytes, tiny + box(b"free", U32(number)))
    return found


def make_hostile(folder: Path, only: Sequence[str] = ()) -> list[Path]:
    """Write them into `folder` (or only some of them), and beside it the video that playlists name. Returns their paths."""
    folder.mkdir(parents=True)
    (folder.parent / SECRET).write_bytes((SAMPLES / "beetle_bw_360p.mp4").read_bytes())
    files = hostile_files(folder)
    for name in only or files:
        (folder / name).write_bytes(files[name]())
    return [folder / name for name in only or files]


def make_odd_entries(folder: Path) -> None:
    """What lies in a folder under a video's name and is no regular file: nothing of it may enter, or be waited for."""
    os.mkfifo(folder / "fifo.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "outside.mp4").symlink_to(folder.parent / SECRET)
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.mp4"))
