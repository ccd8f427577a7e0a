"""The columns of every table of a lake: name, type, unit, who writes it, what it means. Filters add their signals to `clips`."""

from dataclasses import dataclass

import pyarrow as pa

TEXTS = pa.list_(pa.string())


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. `unit` is empty for words and identities."""

    name: str
    type: pa.DataType
    unit: str
    writer: str
    meaning: str


def _columns(writer: str, *rows: tuple[str, pa.DataType, str, str]) -> tuple[Column, ...]:
    return tuple(Column(name=n, type=t, unit=u, writer=writer, meaning=m) for n, t, u, m in rows)


_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()

RIGHTS = _columns(
    "list",
    ("source_id", _S, "", "whose footage it is, in the words of the list it came by; what a takedown may name"),
    ("licence", _S, "", "under which it may be used"),
    ("source_terms", _S, "", "terms of the place it came from, beyond the licence"),
    ("attribution", _S, "", "whom to credit, as they ask for it"),
)

VIDEOS = (
    *_columns(
        "pipeline",
        ("uri", _S, "", "where the bytes lie; absolute path or URI"),
        ("video_id", _S, "", "first 128 bits of the SHA-256 of the file's bytes, hex"),
        ("bytes", _I, "bytes", "size of the file"),
    ),
    *_columns(
        "shard",
        ("sha256", _S, "", "whole SHA-256 of the file's bytes, hex"),
        ("container", _S, "", "FFmpeg's name of the container format; null if it does not open"),
        ("codec", _S, "", "FFmpeg's name of the video codec"),
        ("pixel_format", _S, "", "FFmpeg's name of the pixel format of the first frame"),
        ("stream_index", _I, "", "index of the video stream that was read, FFmpeg's best one"),
        ("time_base_numerator", _I, "", "time stamps are multiples of numerator / denominator seconds"),
        ("time_base_denominator", _I, "", "see time_base_numerator"),
        ("start_pts", _I, "time base", "time stamp of the first presented frame"),
        ("end_pts", _I, "time base", "where the showing of the last presented frame ends"),
        ("num_frames", _I, "frames", "frames that decode and are presented"),
        ("duration_seconds", _F, "s", "what was decoded, never what the container claims"),
        ("claimed_seconds", _F, "s", "what the container claims"),
        ("claimed_fps", _F, "1/s", "what the container claims; 25 where it says nothing"),
        ("sample_aspect_ratio", _S, "", "width of a coded pixel over its height, as a fraction"),
        ("fps", _F, "1/s", "mean frame rate of what was decoded"),
        ("width", _I, "pixels", "as displayed: after rotation and sample aspect ratio"),
        ("height", _I, "pixels", "as displayed"),
        ("rotation", _I, "degrees", "counter-clockwise turn from the coded to the displayed picture"),
        ("has_sound", _B, "", "whether the container has an audio stream (which may be silent)"),
        ("damaged", _B, "", "decode errors, or a tenth (and a second) shorter than claimed; judged on what decodes"),
        ("num_shots", _I, "shots", "shots that the detector found"),
        ("detector", _S, "", "shot detector and its version"),
        ("cuts", pa.list_(_I), "frames", "first frames of the shots that begin with a hard cut"),
        (
            "gradual",
            pa.list_(_I),
            "frames",
            "first and past-the-last frames of gradual transitions, in turn; they are in no clip",
        ),
        ("referee_frames", _I, "frames", "frames that TransNetV2 was shown (detector strip+transnet: a tenth at most)"),
        ("strip_uri", _S, "", "Parquet file, inside the lake, that holds the strip of this video"),
        ("strip_version", _I, "", "version of the strip's measures"),
        (
            "rung",
            _S,
            "",
            "how far up the ladder it was measured: container, packets, keyframes, frames (curation/ladder.py)",
        ),
        ("early_rung", _S, "", "rung below frames that found a rule no clip of it can pass; null if none did"),
        ("early_rule", _S, "", "that rule"),
        ("early_value", _F, "of the signal", "what that rung measured for the rule's signal"),
        ("early_seconds", _F, "CPU s", "cost of the rungs below frames"),
        ("decode_seconds", _F, "CPU s", "cost of decoding, the strip and the shots"),
        ("model_seconds", _F, "CPU s", "cost of what sees pictures: text, labels, embeddings"),
        ("filter_seconds", _S, "CPU s", "cost of each filter over all clips, JSON: filter -> seconds"),
        ("cause", _S, "", "why the video is quarantined, one stable word; null if it is not"),
        ("error", _S, "", "why the video is quarantined, a sentence; null if it is not"),
        ("attempts", _I, "", "how often reading it was tried"),
    ),
    *RIGHTS,
)

CLIPS = _columns(
    "shard",
    ("clip_id", _S, "", "first 128 bits of the SHA-256 of video, stream, span and time base, hex"),
    ("video_id", _S, "", "the video it is a span of"),
    ("stream_index", _I, "", "video stream in the container"),
    ("start_pts", _I, "time base", "first frame, inclusive"),
    ("end_pts", _I, "time base", "end, exclusive: time stamp of the next frame, or the end of the video"),
    ("time_base_numerator", _I, "", "time stamps are multiples of numerator / denominator seconds"),
    ("time_base_denominator", _I, "", "see time_base_numerator"),
    ("start_seconds", _F, "s", "(start_pts - first pts of the video) x time base"),
    ("end_seconds", _F, "s", "(end_pts - first pts of the video) x time base"),
    ("duration_seconds", _F, "s", "end_seconds - start_seconds"),
    ("num_frames", _I, "frames", "presented frames in the span"),
    ("width", _I, "pixels", "as displayed"),
    ("height", _I, "pixels", "as displayed"),
    ("has_sound", _B, "", "whether the video has an audio stream"),
    ("shot_seconds", _F, "s", "length of the shot the clip was taken from"),
    ("shot_rank", _F, "", "1 for the longest shot of the video, 2 for the next, ..."),
    ("detector", _S, "", "shot detector and its version"),
    (
        "signal_versions",
        _S,
        "",
        "versions of the signals in this row, JSON; a signal of another version is measured again",
    ),
    (
        "skipped_signals",
        TEXTS,
        "",
        "signals not measured because a cheaper rung rejected the clip (recipes with scores: ladder)",
    ),
    ("unmeasured_signals", _S, "", "signals that could not be measured, JSON: signal -> why; their columns are null"),
    ("labels", TEXTS, "", "what the packaged image classifier sees, surest first"),
    ("label_scores", pa.list_(pa.float64()), "0..1", "mean probability of each label over the sampled pictures"),
    ("colours", TEXTS, "", "names of the dominant colours, largest area first"),
)

EMBEDDINGS = _columns(
    "shard",
    ("clip_id", _S, "", "the clip"),
    ("embedder", _S, "", "model and version that made the vector"),
    ("embedding", pa.list_(pa.float32()), "", "unit-length vector, mean over sampled pictures"),
)

CAPTIONS = _columns(
    "pipeline",
    ("clip_id", _S, "", "the clip"),
    ("captioner", _S, "", "captioner and version"),
    ("caption", _S, "", "the sentence a model trains on"),
    ("camera_motion", _S, "", "camera motion in words, null where it could not be told"),
)

_FATE = (
    ("fate", _S, "", "kept, rejected, duplicate or quarantined"),
    ("stage", _S, "", "stage of the first failed rule, in recipe order; null unless it left"),
    ("rule", _S, "", "first failed rule, in recipe order; null unless it left"),
    ("value", _F, "of the signal", "what was measured; null where the rule compares no number"),
    ("comparison", _S, "", "the rule keeps a row when `value comparison threshold` holds: < <= > or >="),
    ("threshold", _F, "of the signal", "what the recipe asks for"),
    ("reason", _S, "", "one plain sentence; null if kept"),
    ("duplicate_of", _S, "", "for a video the uri, for a clip the clip_id that stays instead"),
)

DECISIONS = _columns(
    "pipeline",
    ("dataset", _S, "", "data set the decision belongs to"),
    ("kind", _S, "", "video or clip"),
    ("uri", _S, "", "the video's uri"),
    ("video_id", _S, "", "the video"),
    ("clip_id", _S, "", "the clip; null for a video"),
    *_FATE,
    ("failed_rules", TEXTS, "", "every rule that failed, in recipe order"),
    ("unmeasured", TEXTS, "", "rules whose signal could not be, or was not, measured; unmeasured is not failed"),
    ("cluster", _I, "", "concept cluster among the survivors; null for others"),
    ("duplicate_group", _S, "", "clips that are copies of one another share it; also what the held-out split goes by"),
    ("split", _S, "", "train or validation, by hash of the group of connected videos and copies"),
)

LEDGER = _columns(
    "view",
    ("kind", _S, "", "video or clip"),
    ("uri", _S, "", "the video's uri"),
    ("video_id", _S, "", "the video"),
    ("clip_id", _S, "", "the clip; null for a video"),
    ("start_seconds", _F, "s", "span of the clip; null for a video"),
    ("end_seconds", _F, "s", "span of the clip; null for a video"),
    *_FATE,
    ("damaged", _B, "", "whether the video is damaged; null where nothing could be read"),
)

CUTS = _columns(
    "cut",
    ("clip_id", _S, "", "the clip"),
    ("uri", _S, "", "file, inside the lake, that holds the clip; null where cutting failed"),
    ("bytes", _I, "bytes", "size of the file"),
    ("asked", _S, "", "what --cut said: copy or exact"),
    ("way", _S, "", "copy: stream copy from a keyframe on; exact: encoded anew, from the first frame to the last"),
    ("why", _S, "", "why a copy would not have been exact, where one was asked for"),
    ("in_frame", _I, "frames", "frames that the file presents before the clip's first"),
    ("num_frames", _I, "frames", "frames of the clip; a copy may present more after them"),
    ("start_pts", _I, "time base", "the clip's first frame in the file, inclusive"),
    ("end_pts", _I, "time base", "the clip's end in the file, exclusive"),
    ("time_base_numerator", _I, "", "time stamps are multiples of numerator / denominator seconds"),
    ("time_base_denominator", _I, "", "see time_base_numerator"),
    ("start_seconds", _F, "s", "start_pts x time base"),
    ("end_seconds", _F, "s", "end_pts x time base"),
    ("source_uri", _S, "", "the video it was cut from"),
    ("error", _S, "", "why there is no file, a sentence; null if there is one"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "videos": VIDEOS,
    "clips": CLIPS,
    "embeddings": EMBEDDINGS,
    "captions": CAPTIONS,
    "decisions": DECISIONS,
}


def arrow_schema(columns: tuple[Column, ...], extra: dict[str, pa.DataType] | None = None) -> pa.Schema:
    """The Arrow schema of a table, with further columns (a filter's signals, an input list's columns) at its end."""
    fields = [pa.field(column.name, column.type) for column in columns]
    known = {column.name for column in columns}
    return pa.schema(fields + [pa.field(n, t) for n, t in (extra or {}).items() if n not in known])
