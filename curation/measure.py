"""Everything that is measured of a video, in one visit: strip, shots, clips, scores, embeddings. Knows neither Ray nor tables."""

import hashlib
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from curation.clips.errors import UnreadableVideo
from curation.clips.manifest import canonical_json
from curation.clips.storage import join, local_copy
from curation.clips.strip import STRIP_VERSION, Decoded, Strip, make_strip, read_strip
from curation.clips.time import clip_id
from curation.content.embedding import EMBEDDER, embed
from curation.contracts import ClipView, Filter, Signal, filters, signals
from curation.decide import COMPARE
from curation.prison import Prison
from curation.recipes import Recipe
from curation.shots import pyscenedetect, strip_detector
from curation.shots.lengths import Piece, cut_clips

ATTEMPTS = 2  # a decoder that dies once may have been unlucky; twice is the video's fault
SHORTFALL = 0.1  # decoded less than claimed by a tenth, and by a second: the file is cut short
EMBED = Signal(name="embedding", unit="", meaning="", version=1)


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video of a shard. strip_uri: where its strip is stored already, relative to the lake; None if it must be decoded."""

    uri: str
    video_id: str
    sha256: str
    size: int
    strip_uri: str | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one video gave. clips: rows of the clips table; embeddings: rows of the embeddings table."""

    video: dict[str, Any]
    clips: list[dict[str, Any]]
    embeddings: list[dict[str, Any]]
    strip: Strip | None


def signal_versions() -> str:
    """The versions of every signal as the clips table records them."""
    return canonical_json({name: signal.version for name, signal in signals().items()} | {EMBEDDER: EMBED.version})


def detector_version(recipe: Recipe) -> str:
    return (
        f"strip/{strip_detector.DETECTOR_VERSION}"
        if recipe.detector == "strip"
        else f"pyscenedetect-{recipe.detector}/1"
    )


def measurement_key(recipe: Recipe, ladder: bool) -> str:
    """Names a way of measuring: two runs with the same key measure the same clips in the same way."""
    shots = [recipe.clip_max_seconds, recipe.drop_head_seconds, detector_version(recipe)]
    rules = [rule.model_dump(exclude={"source"}) for rule in recipe.all_rules] if ladder else []
    return hashlib.sha256(
        canonical_json([STRIP_VERSION, shots, signal_versions(), ladder, rules]).encode()
    ).hexdigest()[:16]


def decode(path: str, video_id: str, detector: str) -> tuple[Decoded, list[int]]:
    """What runs in the prison: one decode, and the cuts."""
    decoded = make_strip(path, video_id)
    if len(decoded.strip) < 2:
        raise UnreadableVideo("single_picture", "only one frame decodes: a picture, not a video")
    if detector == "strip":
        cuts = strip_detector.find_cuts(decoded.strip)
    else:
        cuts = pyscenedetect.find_cuts(path, decoded.strip, detector)
    return decoded, [cut.frame for cut in cuts]


def measure(
    video: Video, recipe: Recipe, ladder: bool, prison: Prison, lake_uri: str, known: dict[str, dict[str, Any]]
) -> Measurement:
    """Measure one video. A video that cannot be read becomes a row with its cause; nothing of the footage's doing raises.

    known: clip_id -> clips row measured before with the same signal versions; such clips are not measured again.
    """
    row: dict[str, Any] = {"uri": video.uri, "video_id": video.video_id, "sha256": video.sha256, "bytes": video.size}
    if video.strip_uri is not None and recipe.detector == "strip":
        again = _from_stored_strip(video, recipe, lake_uri, known)
        if again is not None:
            return Measurement(video=row | {"known": True}, clips=again, embeddings=[], strip=None)
    started, attempts = time.perf_counter(), 0
    try:
        with local_copy(video.uri) as path:
            while True:
                attempts += 1
                try:
                    decoded, cuts = prison.run(
                        decode, path, video.video_id, recipe.detector, seconds=120 + video.size / 100_000
                    )
                    break
                except UnreadableVideo as error:
                    if error.cause != "decoder_killed" or attempts >= ATTEMPTS:
                        raise
    except (UnreadableVideo, OSError) as error:
        cause = error.cause if isinstance(error, UnreadableVideo) else "missing"
        row |= {"cause": cause, "error": str(error), "attempts": attempts, "damaged": True, "num_shots": 0}
        return Measurement(video=row, clips=[], embeddings=[], strip=None)
    seconds = time.perf_counter() - started
    pieces = cut_clips(decoded.strip, cuts, recipe.clip_max_seconds, recipe.drop_head_seconds)
    row |= _video_row(decoded, len(pieces), attempts, seconds)
    clips, embeddings = [], []
    for piece in pieces:
        clip, vector = _measure_clip(video, decoded, piece, recipe, ladder, known)
        clips.append(clip)
        if vector is not None:
            embeddings.append({"clip_id": clip["clip_id"], "embedder": EMBEDDER, "embedding": vector})
    return Measurement(video=row, clips=clips, embeddings=embeddings, strip=decoded.strip)


def _from_stored_strip(
    video: Video, recipe: Recipe, lake_uri: str, known: dict[str, dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """The clips of this recipe, if every one of them was measured before; their shots come from the stored strip."""
    assert video.strip_uri is not None
    try:
        strip = read_strip(join(lake_uri, video.strip_uri), video.video_id)
    except (OSError, KeyError):
        return None  # a lost strip is made again
    cuts = [cut.frame for cut in strip_detector.find_cuts(strip)]
    pieces = cut_clips(strip, cuts, recipe.clip_max_seconds, recipe.drop_head_seconds)
    stream_index = next(iter(known.values()))["stream_index"] if known else 0
    ids = [_identity(video.video_id, strip, piece, stream_index)["clip_id"] for piece in pieces]
    return [known[i] for i in ids] if all(i in known for i in ids) else None


def _video_row(decoded: Decoded, num_shots: int, attempts: int, seconds: float) -> dict[str, Any]:
    facts, clock = decoded.facts, decoded.strip.clock
    duration = clock.duration_seconds
    missing = (facts.claimed_seconds or 0.0) - duration
    return {
        "container": facts.container,
        "codec": facts.codec,
        "pixel_format": facts.pixel_format,
        "stream_index": facts.stream_index,
        "time_base_numerator": facts.time_base.numerator,
        "time_base_denominator": facts.time_base.denominator,
        "start_pts": int(clock.pts[0]),
        "end_pts": int(clock.end_pts),
        "num_frames": len(clock),
        "duration_seconds": duration,
        "claimed_seconds": facts.claimed_seconds,
        "fps": decoded.strip.fps,
        "width": facts.width,
        "height": facts.height,
        "rotation": facts.rotation,
        "has_sound": facts.has_audio,
        "damaged": decoded.decode_errors > 0 or missing > max(1.0, SHORTFALL * (facts.claimed_seconds or 0.0)),
        "num_shots": num_shots,
        "strip_version": STRIP_VERSION,
        "decode_seconds": seconds,
        "attempts": attempts,
    }


def _identity(video_id: str, strip: Strip, piece: Piece, stream_index: int) -> dict[str, Any]:
    clock = strip.clock
    start, end = int(clock.pts[piece.start_frame]), clock.frame_end_pts(piece.end_frame - 1)
    base: Fraction = clock.time_base
    seconds = clock.seconds(end) - clock.seconds(start)
    return {
        "clip_id": clip_id(video_id, stream_index, start, end, base),
        "video_id": video_id,
        "stream_index": stream_index,
        "start_pts": start,
        "end_pts": end,
        "time_base_numerator": base.numerator,
        "time_base_denominator": base.denominator,
        "start_seconds": clock.seconds(start),
        "end_seconds": clock.seconds(end),
        "duration_seconds": seconds,
        "num_frames": piece.end_frame - piece.start_frame,
        "fps": (piece.end_frame - piece.start_frame) / seconds if seconds > 0 else None,
        "shot_seconds": piece.shot_seconds,
        "shot_rank": float(piece.shot_rank),
    }


def _measure_clip(
    video: Video, decoded: Decoded, piece: Piece, recipe: Recipe, ladder: bool, known: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], Any]:
    identity = _identity(video.video_id, decoded.strip, piece, decoded.facts.stream_index)
    if identity["clip_id"] in known:
        return known[identity["clip_id"]], None
    start = decoded.strip.clock.frame_seconds[piece.start_frame]
    looks = [
        (float(decoded.strip.clock.frame_seconds[frame] - start), look)
        for frame, look in decoded.looks
        if piece.start_frame <= frame < piece.end_frame
    ]
    view = ClipView(facts=decoded.facts, strip=decoded.strip.span(piece.start_frame, piece.end_frame), looks=looks)
    row = identity | {
        "width": decoded.facts.width,
        "height": decoded.facts.height,
        "has_sound": decoded.facts.has_audio,
        "detector": detector_version(recipe),
        "signal_versions": signal_versions(),
        "skipped_signals": [],
    }
    vector = None
    for each in filters():
        if each.needs_pictures and ladder and _spared(row, recipe):
            row |= _skip(row, each)
            continue
        row |= each.score(view)
    if ladder and _spared(row, recipe):
        row["skipped_signals"].append("embedding")
    else:
        seen = embed(view)
        vector = seen.pop("embedding")
        row |= seen
    return row, vector


def _skip(row: dict[str, Any], each: Filter) -> dict[str, Any]:
    names = [signal.name for signal in each.signals]
    row["skipped_signals"].extend(names)
    return dict.fromkeys(names)


def _spared(row: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a ladder stops here: some rule has failed already, and the clip is not in the audit sample."""
    audited = int(row["clip_id"][:8], 16) < recipe.audit_share * 2**32
    values = [(rule, row.get(rule.signal)) for rule in recipe.all_rules]
    return not audited and any(v is not None and not COMPARE[rule.comparison](v, rule.threshold) for rule, v in values)
