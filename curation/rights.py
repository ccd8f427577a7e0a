"""Rights of footage that is already in a lake: a list says whose each video is, and every data set gets a snapshot that knows."""

from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from curation.clips import Commit, Lake, WrongCall
from curation.clips.schema import RIGHTS
from curation.clips.storage import normalise
from curation.sources.lists import read_columns

NAMES = tuple(column.name for column in RIGHTS)
KEYS = ("uri", "sha256", "file")  # what a list may know a video by: its place, its bytes, its file name


def add_rights(lake: Lake, source: str) -> tuple[int, list[Commit]]:
    """Write source_id, licence, source_terms and attribution of a .csv or .parquet list to `videos`, and commit every data set anew.

    A row finds its videos by `uri`, `sha256` or `file` (a file name); a column `source` is taken for source_id. Returns how many
    videos changed and the commits, none where nothing changed. Raises `WrongCall`.
    """
    rows, keys = _listed(source)
    by_key = {key: {row[key]: row for row in rows if row[key]} for key in keys}
    with lake.committer():
        videos = lake.head("videos").to_pylist()
        changed = []
        for video in videos:
            known = {"uri": video["uri"], "sha256": video["sha256"], "file": PurePosixPath(video["uri"]).name}
            row = next((by_key[key][known[key]] for key in keys if known[key] in by_key[key]), None)
            if row is None:
                continue
            new = video | {name: row[name] for name in NAMES if row.get(name)}
            if new != dict.fromkeys(NAMES) | video:
                changed.append(new)
        if not changed:
            return 0, []
        ids = sorted({row["video_id"] for row in changed})
        uris = {row["uri"] for row in changed}
        others = [
            v for v in videos if v["video_id"] in ids and v["uri"] not in uris
        ]  # the same bytes elsewhere stay as they are
        schema = lake.head("videos", where=("video_id", ids)).schema
        for name in NAMES:
            if name not in schema.names:
                schema = schema.append(pa.field(name, pa.string()))
        lake.replace("videos", "video_id", pa.Table.from_pylist([*changed, *others], schema=schema))
        commits = []
        for dataset in lake.datasets():
            old = lake.commits(dataset)[-1]
            commits.append(
                lake.commit(
                    dataset,
                    recipe_hash=old.recipe_hash,
                    recipe=old.recipe,
                    code_version=old.code_version,
                    counts=old.counts,
                    measured_by=old.measured_by,
                )
            )
    return len(changed), commits


def _listed(source: str) -> tuple[list[dict[str, Any]], list[str]]:
    table = read_columns(source)
    rows = [{k: None if v is None else str(v) for k, v in row.items()} for row in table.to_pylist()]
    for row in rows:
        row.setdefault("source_id", row.get("source"))
        uri = row.get("uri")
        if uri:
            row["uri"] = normalise(uri)
    keys = [key for key in KEYS if key in table.column_names]
    if not keys:
        raise WrongCall(f"the list {source} knows no video: it needs a column {', '.join(KEYS)}")
    if not set(NAMES) & {*table.column_names, *({"source_id"} if "source" in table.column_names else ())}:
        raise WrongCall(f"the list {source} has none of the columns {', '.join(NAMES)}")
    return rows, keys
