"""Footage by file, folder, or list: which URIs enter a run, and what the list says about each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from curation.clips.errors import WrongCall
from curation.clips.storage import filesystem, is_local, local_path, normalise
from curation.sources.lists import is_list, read_list

VIDEO_EXTENSIONS = frozenset(
    [
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".dv",
        ".flv",
        ".gif",
        ".h264",
        ".h265",
        ".hevc",
        ".ivf",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".nut",
        ".ogg",
        ".ogm",
        ".ogv",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One video that enters: where it is, and the columns of the input list that pass through to `videos`."""

    uri: str
    columns: dict[str, Any] = field(default_factory=dict)


def find_footage(sources: Sequence[str]) -> tuple[list[Footage], int]:
    """Everything the sources name, each URI once, in order; and how many files in folders were passed over.

    A file always enters, whatever its extension. A folder enters with its known video extensions, recursively; passed over are
    symbolic links that leave it or lead nowhere, pipes, devices, and names that are not UTF-8, which no table holds. A .csv or .parquet file is a list with a `uri` column. Raises `WrongCall`.
    """
    if not sources:
        raise WrongCall("name at least one source: a video, a folder, or a .csv or .parquet list with a uri column")
    found: dict[str, Footage] = {}
    passed_over = 0
    for source in sources:
        items, skipped = _one_source(source)
        passed_over += skipped
        for item in items:
            found.setdefault(item.uri, item)
    if not found:
        others = f" ({passed_over} files with other extensions)" if passed_over else ""
        raise WrongCall(f"no video in {', '.join(sources)}{others}; a file named explicitly always enters")
    return list(found.values()), passed_over


def _one_source(source: str) -> tuple[list[Footage], int]:
    if is_list(source):
        return [Footage(uri=uri, columns=columns) for uri, columns in read_list(source)], 0
    system, path = filesystem(source)
    kind = system.get_file_info(path).type
    if kind == pafs.FileType.NotFound:
        raise WrongCall(f"no file or folder at {source}")
    if kind == pafs.FileType.Directory:
        return _local_folder(local_path(source)) if is_local(source) else _bucket_folder(source)
    if kind != pafs.FileType.File:
        raise WrongCall(f"{source} is neither a file nor a folder; pipes and devices are not read")
    return [Footage(uri=normalise(source))], 0


def _local_folder(folder: Path) -> tuple[list[Footage], int]:
    inside = folder.resolve()
    found, passed_over = [], 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            leaves = path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside)
            if path.suffix.lower() in VIDEO_EXTENSIONS and not leaves and _is_text(str(path)) and path.is_file():
                found.append(Footage(uri=str(path)))
            else:
                passed_over += 1
    return found, passed_over


def _is_text(path: str) -> bool:
    """Whether the bytes of a path are UTF-8; those of others are surrogates, which cannot be written."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bucket_folder(source: str) -> tuple[list[Footage], int]:
    system, path = filesystem(source)
    scheme = source.split("://", 1)[0]
    files = [f for f in system.get_file_info(pafs.FileSelector(path, recursive=True)) if f.type == pafs.FileType.File]
    videos = sorted(f.path for f in files if Path(f.path).suffix.lower() in VIDEO_EXTENSIONS)
    return [Footage(uri=f"{scheme}://{video}") for video in videos], len(files) - len(videos)
