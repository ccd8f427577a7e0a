"""Whose footage it is: the rows of a SOURCES.csv that lies beside the videos."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.clips.storage import is_local, local_path

LIST_NAME = "SOURCES.csv"


@dataclass(frozen=True, kw_only=True)
class Credit:
    """What one row of the list says of one file."""

    file: str
    attribution: str
    licence: str
    source: str

    @property
    def share_alike(self) -> bool:
        """Whether anything made from the file, a picture of it included, must keep its licence and say so."""
        return "BY-SA" in self.licence


def find_credits(videos: Iterable[Mapping[str, Any]]) -> dict[str, Credit]:
    """Credits by uri, for the videos (rows with uri, sha256) whose very bytes a list in their own folder names."""
    lists: dict[Path, dict[str, Credit]] = {}
    found = {}
    for video in videos:
        if not is_local(video["uri"]):
            continue
        folder = local_path(video["uri"]).parent
        if folder not in lists:
            lists[folder] = _read_list(folder / LIST_NAME)
        if video["sha256"] in lists[folder]:
            found[video["uri"]] = lists[folder][video["sha256"]]
    return found


def _read_list(path: Path) -> dict[str, Credit]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as lines:
        return {
            row["sha256"]: Credit(
                file=row.get("file") or "",
                attribution=row.get("attribution") or "",
                licence=row.get("licence") or "",
                source=row.get("source") or "",
            )
            for row in csv.DictReader(lines)
            if row.get("sha256")
        }
