"""Kept clips with their files: what every export writes from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from curation.clips import Snapshot, WrongCall
from curation.clips.schema import RIGHTS
from curation.clips.storage import join
from curation.cut import cut_before

FACTS = ("clip_id", "video_id", "uri", "start_seconds", "end_seconds", "width", "height", "fps", "num_frames", "split", "camera_motion")  # fmt: skip
CUT = ("way", "in_frame", "bytes")  # a stream copy begins at a keyframe: in_frame frames before the clip


@dataclass(frozen=True, kw_only=True)
class CutClip:
    """One kept clip: where its file lies, its caption, and what is known of it, rights included."""

    key: str
    file: str
    suffix: str
    caption: str
    facts: dict[str, Any]


def cut_clips_of(snapshot: Snapshot) -> tuple[Iterator[CutClip], int]:
    """Kept clips by clip_id, the order of every export, and how many are left out: they could not be cut, or never were.

    A clip has one file in a lake, whichever snapshot it was cut for. Raises `WrongCall` where none has any.
    """
    files = cut_before(snapshot.lake)
    kept = snapshot.kept_clips().to_pylist()
    there = [clip for clip in kept if clip["clip_id"] in files]
    if not there:
        raise WrongCall(
            f"no kept clip of {snapshot.name} is a file yet; run `cinemill curate` with the same words and --cut exact (or copy)"
        )
    names = ["uri", *(c.name for c in RIGHTS if c.name in snapshot.columns("videos"))]
    rights = {row.pop("uri"): row for row in snapshot.table("videos", names).to_pylist()}
    found = (_with_file(snapshot, clip, files[clip["clip_id"]], rights[clip["uri"]]) for clip in there)
    return found, len(kept) - len(there)


def _with_file(snapshot: Snapshot, clip: dict[str, Any], cut: dict[str, Any], rights: dict[str, Any]) -> CutClip:
    return CutClip(
        key=clip["clip_id"],
        file=join(snapshot.lake.uri, cut["uri"]),
        suffix=PurePosixPath(cut["uri"]).suffix,
        caption=clip["caption"] or "",
        facts={n: clip[n] for n in FACTS} | {n: cut[n] for n in CUT} | rights,
    )
