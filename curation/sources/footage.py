"""Footage by file, folder, or list: which URIs enter a run, and what the list says about each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from curation.clips.errors import WrongCall
from curation.clips.schema import RIGHTS, TABLES
from curation.clips.storage import filesystem, is_local, local_path, normalise

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
LIST_EXTENSIONS = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Footage:
    """One video that enters: where it is, and the columns of the input list that pass through to `videos`."""

    uri: str
    columns: dict[str, Any] = field(default_factory=dict)


def find_footage(sources: Sequence[str]) -> tuple[list[Footage], int]:
    """Everything the sources name, each URI once, in order; and how many files in folders were passed over.

    A file always enters, whatever its extension. A folder enters with its known video extensions, recursively; symbolic links
    that leave it are not followed. A .csv or .parquet file is a list with a `uri` column. Raises `WrongCall`.
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
    if source.lower().endswith(LIST_EXTENSIONS):
        return _listed(source), 0
    system, path = filesystem(source)
    kind = system.get_file_info(path).type
    if kind == pafs.FileType.NotFound:
        raise WrongCall(f"no file or folder at {source}")
    if kind == pafs.FileType.Directory:
        return _local_folder(local_path(source)) if is_local(source) else _bucket_folder(source)
    return [Footage(uri=normalise(source))], 0


def _local_folder(folder: Path) -> tuple[list[Footage], int]:
    inside = folder.resolve()
    found, passed_over = [], 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                passed_over += 1
            elif path.suffix.lower() in VIDEO_EXTENSIONS:
                found.append(Footage(uri=str(path)))
            else:
                passed_over += 1
    return found, passed_over


def _bucket_folder(source: str) -> tuple[list[Footage], int]:
    system, path = filesystem(source)
    scheme = source.split("://", 1)[0]
    files = [f for f in system.get_file_info(pafs.FileSelector(path, recursive=True)) if f.type == pafs.FileType.File]
    videos = sorted(f.path for f in files if Path(f.path).suffix.lower() in VIDEO_EXTENSIONS)
    return [Footage(uri=f"{scheme}://{video}") for video in videos], len(files) - len(videos)


def _listed(source: str) -> list[Footage]:
    system, path = filesystem(source)
    try:
        with system.open_input_file(path) as file:
            table = pq.read_table(file) if path.lower().endswith(".parquet") else pa.csv.read_csv(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise WrongCall(f"cannot read the list {source}: {error}") from error
    if "uri" not in table.column_names:
        raise WrongCall(f"the list {source} has no column uri; it has {', '.join(table.column_names)}")
    rights = {column.name for column in RIGHTS}
    ours = ({column.name for column in TABLES["videos"]} - rights) & (set(table.column_names) - {"uri"})
    if ours:
        raise WrongCall(f"the list {source} has a column {sorted(ours)[0]!r}, which Cinemill writes itself; rename it")
    base = local_path(source).parent if is_local(source) else None
    rows = []
    for row in table.to_pylist():
        uri = row.pop("uri")
        if not uri:
            raise WrongCall(f"the list {source} has a row without a uri")
        if base is not None and is_local(uri) and not Path(uri.removeprefix("file://")).is_absolute():
            uri = str(base / uri)  # relative to the list, so that a folder with its list can move
        columns = {
            k: v if v is None or (isinstance(v, bool | int | float) and k not in rights) else str(v)
            for k, v in row.items()
        }
        rows.append(Footage(uri=normalise(uri), columns=columns))
    return rows
