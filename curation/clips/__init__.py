"""What a clip is and where it lives: the one thing that curation, training and the service share. Loads neither torch nor Ray."""

from curation.clips.commits import Commit
from curation.clips.errors import UnknownSnapshot, UnreadableVideo, WrongCall
from curation.clips.frames import read_frames, write_preview, write_video
from curation.clips.manifest import Lake, open_snapshot
from curation.clips.snapshot import Snapshot
from curation.clips.statistics import Statistics

__all__ = [
    "Commit",
    "Lake",
    "Snapshot",
    "Statistics",
    "UnknownSnapshot",
    "UnreadableVideo",
    "WrongCall",
    "open_snapshot",
    "read_frames",
    "write_preview",
    "write_video",
]
