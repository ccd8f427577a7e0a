"""Whether a clip's file is still the one that was curated: its SHA-256, taken once in every process that reads it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from curation.clips.errors import UnreadableVideo
from curation.clips.storage import filesystem, sha256

VIDEO_ID_DIGITS = 32  # of the SHA-256 in hex; what curation names a video by


def check_source(clip: Mapping[str, Any]) -> None:
    """Raise UnreadableVideo, cause `missing` or `changed`, unless the file at `uri` has the bytes of `video_id`.

    The first look at a file reads all of it (about a second per GB); later ones compare size and time of change.
    """
    uri = str(clip["uri"])
    system, path = filesystem(uri)
    info = system.get_file_info(path)
    if not info.is_file:
        raise UnreadableVideo(
            "missing",
            f"there is no file at {uri}, where it was curated; put it back, or curate again from where it is now",
        )
    found = _digest(uri, info.size, info.mtime_ns)
    if found != clip["video_id"]:
        raise UnreadableVideo(
            "changed",
            f"{uri} is not the file that was curated (its SHA-256 begins with {found[:12]}, in the manifest with "
            f"{str(clip['video_id'])[:12]}); put that file back, or curate again",
        )


@lru_cache(maxsize=1 << 16)
def _digest(uri: str, size: int, mtime_ns: int) -> str:
    """A file of another size or time of change is another key, so it is read again."""
    return sha256(uri)[0][:VIDEO_ID_DIGITS]
