"""Everything that is measured of a video, in one visit: strip, shots, clips, scores, embeddings. Knows neither Ray nor tables."""

import hashlib
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from typing import Any

from curation import ladder
from curation.clips.errors import UnreadableVideo, WrongCall
from curation.clips.frames import MAX_PIXELS, VideoFacts
from curation.clips.manifest import canonical_json
from curation.clips.storage import join, local_copy
from curation.clips.strip import STRIP_VERSION, Decoded, Strip, make_strip, read_strip
from curation.clips.time import clip_id
from curation.content.embedding import EMBEDDER, embed
from curation.contracts import ClipView, Filter, Models, Signal, Unmeasured, filters
from curation.decide import COMPARE
from curation.order import Asking
from curation.prison import Prison
from curation.recipes import Recipe
from curation.shots.detectors import REFEREE_SHARE, detector_version, find_shots
from curation.shots.lengths import Piece, cut_clips

ATTEMPTS = 2  # a decoder that dies once may have been unlucky; twice is the video's fault
SHORTFALL = 0.1  # decoded less than claimed by a tenth, and by a second: the file is cut short
EMBED = Signal(name="embedding", unit="", meaning="", version=1)
SLOWEST_BYTES_PER_SECOND = 1_000  # no footage is smaller; bounds what a lying container can claim
PATIENCE = 0.05  # seconds of wall time per megapixel decoded, 25 times what H.264 takes on a quiet core
PATIENT_BYTES_PER_SECOND = 100_000
NETWORK_PATIENCE = 0.2  # seconds per frame that TransNetV2 may be shown, ten times what it takes
START_SECONDS = 60.0  # of the child, on a loaded machine


def claimed_seconds(row: Mapping[str, Any]) -> float:
    """What the container of a videos row claims, as far as its bytes can bear it."""
    most = row["bytes"] / SLOWEST_BYTES_PER_SECOND
    return most if row["claimed_seconds"] is None else max(0.0, min(row["claimed_seconds"], most))


@dataclass(frozen=True, kw_only=True)
class ShotFrames:
    """Where the shots of a video end, as columns of the videos table: frames of cuts; first and past-the-last frames of gradual ones."""

    detector: str
    cuts: list[int]
    gradual: list[tuple[int, int]]
    referee_frames: int

    def as_columns(self) -> dict[str, Any]:
        flat = [frame for span in self.gradual for frame in span]
        return {"detector": self.detector, "cuts": self.cuts, "gradual": flat, "referee_frames": self.referee_frames}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "ShotFrames | None":
        """What a videos row says; None where no shots were looked for."""
        if row.get("detector") is None:
            return None
        gradual = list(row["gradual"])
        return cls(
            detector=row["detector"],
            cuts=list(row["cuts"]),
            gradual=list(zip(gradual[::2], gradual[1::2], strict=True)),
            referee_frames=row["referee_frames"],
        )


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video of a shard. facts: what the container said. strip_uri: where its strip is stored already, relative to the lake."""

    uri: str
    video_id: str
    sha256: str
    size: int
    facts: VideoFacts
    strip_uri: str | None = None
    shots: "ShotFrames | None" = None  # found before, on that strip

    @property
    def seconds(self) -> float:
        """How long it may be."""
        return claimed_seconds({"bytes": self.size, "claimed_seconds": self.facts.claimed_seconds})

    @property
    def time_limit(self) -> float:
        """Seconds of wall and CPU time that decoding it may take, from duration x pixels."""
        megapixels = min(self.facts.width * self.facts.height, MAX_PIXELS) / 1e6  # the shape of a pixel may lie
        by_size = self.size / PATIENT_BYTES_PER_SECOND  # for a container that claims too little
        return START_SECONDS + by_size + self.seconds * min(self.facts.fps, 240.0) * max(0.1, megapixels) * PATIENCE


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one video gave. clips: rows of the clips table; embeddings: rows of the embeddings table."""

    video: dict[str, Any]
    clips: list[dict[str, Any]]
    embeddings: list[dict[str, Any]]
    strip: Strip | None


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What comes out of the prison: a verdict of a cheap rung, or the decode with its cuts; and what either cost in CPU seconds."""

    verdict: ladder.Verdict | None
    decoded: Decoded | None
    shots: ShotFrames | None
    early_seconds: float
    decode_seconds: float


def current_versions(models: Models) -> dict[str, str]:
    """The version of every signal as this code and these models measure it; what is a function of the strip has its version in it."""
    versions = {EMBEDDER: str(EMBED.version)}
    for each in filters():
        with_what = f"strip-{STRIP_VERSION}" if each.rung in ("keyframes", "frames") else each.measured_with(models)
        end = f"/{with_what}" if with_what else ""
        versions |= {signal.name: f"{signal.version}{end}" for signal in each.signals}
    return versions


def measurement_key(recipe: Recipe, ladder: bool) -> str:
    """Names a way of measuring: two runs with the same key measure the same clips in the same way.

    With a ladder, which of the filters that see pictures a rejected clip was spared follows their cost (curation.order); its fate does not.
    """
    shots = [recipe.clip_max_seconds, recipe.drop_head_seconds, detector_version(recipe.detector)]
    rules = [recipe.audit_share, [rule.model_dump(exclude={"source"}) for rule in recipe.all_rules]] if ladder else []
    return hashlib.sha256(
        canonical_json([STRIP_VERSION, shots, current_versions(recipe.models), ladder, rules]).encode()
    ).hexdigest()[:16]


def audited(identity: str, recipe: Recipe) -> bool:
    """Whether a video or clip is in the sample that a ladder measures in full nevertheless."""
    return int(identity[:8], 16) < recipe.audit_share * 2**32


def visit(
    path: str, video: Video, recipe: Recipe, climb: bool, stop: bool, safe: bool, referee_frames_left: float
) -> Visit:
    """What runs in the prison: the cheap rungs, if the run has a ladder, and one decode, unless a rung stops it."""
    started = time.process_time()
    verdict = ladder.climb(path, recipe) if climb else None
    early = time.process_time() - started
    if verdict is not None and stop:
        return Visit(verdict=verdict, decoded=None, shots=None, early_seconds=early, decode_seconds=0.0)
    decoded = make_strip(path, video.video_id, looks=not safe, vectors=not safe)
    if len(decoded.strip) < 2:
        raise UnreadableVideo("single_picture", "only one frame decodes: a picture, not a video")
    shots = video.shots if video.strip_uri is not None else None
    if shots is None or shots.detector != detector_version(recipe.detector):
        budget = int(referee_frames_left + REFEREE_SHARE * len(decoded.strip))
        shots = _shots(recipe.detector, path, decoded.strip, decoded.facts.stream_index, budget)
    return Visit(
        verdict=verdict,
        decoded=decoded,
        shots=shots,
        early_seconds=early,
        decode_seconds=time.process_time() - started - early,
    )


def _shots(detector: str, path: str, strip: Strip, stream_index: int, referee_budget: int) -> ShotFrames:
    found = find_shots(detector, path, strip, stream_index, referee_budget)
    return ShotFrames(
        detector=detector_version(detector),
        cuts=[cut.frame for cut in found.transitions.cuts],
        gradual=[(each.start_frame, each.end_frame) for each in found.transitions.gradual],
        referee_frames=found.referee_frames,
    )


def twice(prisoner: Callable[[bool], Any]) -> tuple[Any, int]:
    """Call `prisoner(safe)` and, if the decoder dies of it, once more with safer settings. Returns its result and the attempts.

    An `UnreadableVideo` carries the number of attempts as `attempts`.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return prisoner(attempt > 1), attempt
        except UnreadableVideo as error:
            error.attempts = attempt
            if error.cause != "decoder_killed" or attempt == ATTEMPTS:
                raise
        except (OSError, WrongCall):
            raise
        except Exception as error:  # whatever else footage makes a decoder raise is the footage's fault
            words = f"decoding raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UnreadableVideo("decoder_failed", words) from error
    raise AssertionError("the loop returns or raises")


def measure(
    video: Video,
    recipe: Recipe,
    climb: bool,
    prison: Prison,
    lake_uri: str,
    known: dict[str, dict[str, Any]],
    referee_frames_left: float = 0.0,
    order: Sequence[str] = (),
) -> Measurement:
    """Measure one video. A video that cannot be read becomes a row with its cause; nothing of the footage's doing raises.

    climb: whether the run has a ladder. known: clip_id -> clips row measured before; of such clips only signals of other
    versions are measured again. referee_frames_left: what videos before this one left of their share. order: see `Asking`.
    """
    row: dict[str, Any] = {"uri": video.uri, "video_id": video.video_id, "sha256": video.sha256, "bytes": video.size}
    row |= facts_row(video.facts)
    if video.strip_uri is not None:
        again = _from_stored_strip(video, recipe, climb, lake_uri, known)
        if again is not None:
            return Measurement(video=row | {"known": True}, clips=again, embeddings=[], strip=None)
    ask = climb and video.strip_uri is None  # what was decoded once is not asked what it may be
    stop = ask and not audited(video.video_id, recipe)
    seconds = video.time_limit
    if "transnet" in recipe.detector:
        seconds += NETWORK_PATIENCE * (video.seconds * min(video.facts.fps, 240.0) + referee_frames_left)
    try:
        with local_copy(video.uri) as path:
            visited, attempts = twice(
                lambda safe: prison.run(
                    visit,
                    path,
                    video,
                    recipe,
                    ask and not safe,
                    stop,
                    safe,
                    referee_frames_left,
                    seconds=seconds,
                )
            )
    except (UnreadableVideo, OSError, WrongCall) as error:
        cause = error.cause if isinstance(error, UnreadableVideo) else "missing"
        row |= {
            "cause": cause,
            "error": str(error),
            "attempts": error.attempts if isinstance(error, UnreadableVideo) else 1,
            "damaged": True,
        }
        return Measurement(video=row | {"num_shots": 0}, clips=[], embeddings=[], strip=None)
    row |= {"attempts": attempts, "early_seconds": visited.early_seconds}
    if visited.verdict is not None:
        row |= visited.verdict.as_columns() | {"rung": visited.verdict.rung}
    if visited.decoded is None or visited.shots is None:
        return Measurement(video=row, clips=[], embeddings=[], strip=None)
    decoded = visited.decoded
    pieces = _pieces(decoded.strip, visited.shots, recipe)
    clips, embeddings = [], []
    started, asking = time.process_time(), Asking(order)
    for piece in pieces:
        clip, vector = _measure_clip(video, decoded, piece, recipe, climb, known, asking)
        clips.append(clip)
        if vector is not None:
            embeddings.append({"clip_id": clip["clip_id"], "embedder": EMBEDDER, "embedding": vector})
    row |= _decoded_row(decoded, len(pieces)) | visited.shots.as_columns() | {"decode_seconds": visited.decode_seconds}
    row["model_seconds"] = time.process_time() - started
    row["filter_seconds"] = canonical_json({name: round(seconds, 4) for name, seconds in asking.seconds.items()})
    return Measurement(video=row, clips=clips, embeddings=embeddings, strip=decoded.strip)


def _from_stored_strip(
    video: Video, recipe: Recipe, climb: bool, lake_uri: str, known: dict[str, dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """The clips of this recipe without a decode, if they were measured before and what has a new version needs no pictures."""
    assert video.strip_uri is not None
    try:
        strip = read_strip(join(lake_uri, video.strip_uri), video.video_id)
    except (OSError, KeyError):
        return None  # a lost strip is made again
    shots = video.shots
    if shots is None or shots.detector != detector_version(recipe.detector):
        if recipe.detector != "strip":
            return None
        shots = _shots("strip", "", strip, video.facts.stream_index, 0)
    clips = []
    for piece in _pieces(strip, shots, recipe):
        identity = _identity(video.video_id, strip, piece, video.facts.stream_index)
        if identity["clip_id"] not in known:
            return None
        clip = known[identity["clip_id"]] | identity  # its rank among the shots is this recipe's
        if EMBEDDER in _stale(clip, recipe):
            return None
        skipped = set(clip["skipped_signals"])
        due = [each for each in _filters_due(clip, recipe) if not skipped & {signal.name for signal in each.signals}]
        if any(each.rung == "models" for each in due):
            return None
        if due:
            span = strip.span(piece.start_frame, piece.end_frame)
            view = ClipView(facts=video.facts, strip=span, video_seconds=strip.clock.duration_seconds)
            clip = clip | {"signal_versions": canonical_json(current_versions(recipe.models))}
            for each in due:
                clip |= _scored(clip, each, view)
        if clip["skipped_signals"] and not (climb and _spared(clip, recipe)):
            return None  # what spared it then, spares it no more
        clips.append(clip)
    return clips


def _pieces(strip: Strip, shots: ShotFrames, recipe: Recipe) -> list[Piece]:
    return cut_clips(strip, shots.cuts, recipe.clip_max_seconds, recipe.drop_head_seconds, shots.gradual)


def _stale(clip: dict[str, Any], recipe: Recipe) -> set[str]:
    """Signals of a clips row that were measured by another version, or never."""
    measured = json.loads(clip["signal_versions"])
    return {name for name, version in current_versions(recipe.models).items() if measured.get(name) != version}


def _filters_due(clip: dict[str, Any], recipe: Recipe) -> list[Filter]:
    again = _stale(clip, recipe) | set(clip["skipped_signals"])
    return [each for each in filters() if again & {signal.name for signal in each.signals}]


def _nothing_yet(clip: dict[str, Any], due: Sequence[Filter]) -> dict[str, Any]:
    """A row's columns of the filters that are due, emptied, their old reasons with them."""
    names = {signal.name for each in due for signal in each.signals}
    reasons = json.loads(clip.get("unmeasured_signals") or "{}")
    kept = {name: why for name, why in reasons.items() if name not in names}
    return dict.fromkeys(names) | {"unmeasured_signals": canonical_json(kept)}


def _scored(clip: dict[str, Any], each: Filter, view: ClipView) -> dict[str, Any]:
    """What a filter measured, as columns of the clips table; a number that is missing has its reason in `unmeasured_signals`."""
    scores = each.score(view)
    reasons = json.loads(clip.get("unmeasured_signals") or "{}")
    reasons = {name: why for name, why in reasons.items() if name not in scores}
    reasons |= {name: str(value) for name, value in scores.items() if isinstance(value, Unmeasured)}
    numbers = {name: None if isinstance(value, Unmeasured) else value for name, value in scores.items()}
    return numbers | {"unmeasured_signals": canonical_json(reasons)}


def facts_row(facts: VideoFacts) -> dict[str, Any]:
    """What the container and the first frame said, as columns of the videos table."""
    return {
        "container": facts.container,
        "codec": facts.codec,
        "pixel_format": facts.pixel_format,
        "stream_index": facts.stream_index,
        "time_base_numerator": facts.time_base.numerator,
        "time_base_denominator": facts.time_base.denominator,
        "claimed_seconds": facts.claimed_seconds,
        "claimed_fps": facts.fps,
        "sample_aspect_ratio": str(facts.sample_aspect_ratio),
        "width": facts.width,
        "height": facts.height,
        "rotation": facts.rotation,
        "has_sound": facts.has_audio,
    }


def facts_of_row(row: dict[str, Any]) -> VideoFacts:
    """What `facts_row` was made of."""
    return VideoFacts(
        container=row["container"],
        codec=row["codec"],
        pixel_format=row["pixel_format"],
        stream_index=row["stream_index"],
        time_base=Fraction(row["time_base_numerator"], row["time_base_denominator"]),
        width=row["width"],
        height=row["height"],
        rotation=row["rotation"],
        sample_aspect_ratio=Fraction(row.get("sample_aspect_ratio") or 1),  # lakes of before have no such columns
        claimed_seconds=row["claimed_seconds"],
        fps=row.get("claimed_fps") or 25.0,
        has_audio=row["has_sound"],
    )


def _decoded_row(decoded: Decoded, num_shots: int) -> dict[str, Any]:
    facts, clock = decoded.facts, decoded.strip.clock
    duration = clock.duration_seconds
    missing = (facts.claimed_seconds or 0.0) - duration
    return facts_row(facts) | {
        "start_pts": int(clock.pts[0]),
        "end_pts": int(clock.end_pts),
        "num_frames": len(clock),
        "duration_seconds": duration,
        "fps": decoded.strip.fps,
        "damaged": decoded.decode_errors > 0 or missing > max(1.0, SHORTFALL * (facts.claimed_seconds or 0.0)),
        "num_shots": num_shots,
        "strip_version": STRIP_VERSION,
        "rung": "frames",
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
        "shot_seconds": piece.shot_seconds,
        "shot_rank": float(piece.shot_rank),
    }


def _measure_clip(
    video: Video,
    decoded: Decoded,
    piece: Piece,
    recipe: Recipe,
    climb: bool,
    known: dict[str, dict[str, Any]],
    asking: Asking,
) -> tuple[dict[str, Any], Any]:
    """A clips row, and its embedding unless the lake has it or the ladder spares it."""
    row = _identity(video.video_id, decoded.strip, piece, decoded.facts.stream_index)
    before = known.get(row["clip_id"])
    due = asking.in_order(filters() if before is None else _filters_due(before, recipe))
    row = (before or {"signal_versions": "{}", "skipped_signals": ["embedding"]}) | row
    embedding_due = EMBEDDER in _stale(row, recipe) or "embedding" in row["skipped_signals"]
    seconds = decoded.strip.clock.frame_seconds
    first, last = (bisect_left(decoded.looks, f, key=itemgetter(0)) for f in (piece.start_frame, piece.end_frame))
    looks = [(float(seconds[frame] - seconds[piece.start_frame]), look) for frame, look in decoded.looks[first:last]]
    strip = decoded.strip.span(piece.start_frame, piece.end_frame)
    view = ClipView(
        facts=decoded.facts,
        strip=strip,
        looks=looks,
        models=recipe.models,
        video_seconds=decoded.strip.clock.duration_seconds,
    )
    row |= {
        "width": decoded.facts.width,
        "height": decoded.facts.height,
        "has_sound": decoded.facts.has_audio,
        "detector": detector_version(recipe.detector),
        "signal_versions": canonical_json(current_versions(recipe.models)),
        "skipped_signals": [],
    }
    row |= _nothing_yet(row, due)  # an old number must not spare its own renewal
    spared = False
    for each in due:  # those that see pictures come last
        spared = spared or (each.rung == "models" and climb and _spared(row, recipe))
        if each.rung == "models" and spared:
            names = [signal.name for signal in each.signals]
            row |= dict.fromkeys(names)
            row["skipped_signals"].extend(names)
        else:
            with asking.timed(each.name):
                row |= _scored(row, each, view)
    if not embedding_due:
        return row, None
    if climb and _spared(row, recipe):
        row["skipped_signals"].append("embedding")
        return row, None
    with asking.timed("embedding"):
        seen = embed(view)
    vector = seen.pop("embedding")
    if vector is None:
        reasons = json.loads(row["unmeasured_signals"] or "{}") | {"embedding": "no picture was taken of it"}
        row["unmeasured_signals"] = canonical_json(reasons)
    return row | seen, vector


def _spared(row: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a ladder stops here: some rule has failed already, and the clip is not in the audit sample."""
    values = [(rule, row.get(rule.signal)) for rule in recipe.all_rules]
    return not audited(row["clip_id"], recipe) and any(
        v is not None and not COMPARE[rule.comparison](v, rule.threshold) for rule, v in values
    )
