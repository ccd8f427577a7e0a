"""Footage from the web into a folder, with the list that curation reads. What cannot be had stays in the list, with the reason."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.clips.errors import WrongCall
from curation.sources.footage import VIDEO_EXTENSIONS
from curation.sources.lists import is_list, read_list
from curation.sources.web import Fetcher, FetchFailed, RefusedUrl

LIST = "footage.parquet"
OURS = ("source_url", "fetch_error")


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """How many URLs there were, and what became of them. list: what `cinemill curate` takes."""

    urls: int
    fetched: int
    there: int
    failed: dict[str, str]
    bytes: int
    list: str


def fetch(
    sources: Sequence[str],
    out: str | Path,
    *,
    fetcher: Fetcher,
    connections: int = 8,
    progress: Callable[[int, int, int], None] = lambda done, total, size: None,
) -> FetchReport:
    """Fetch every URL once into OUT/xx/NAME, where NAME is a hash of the URL, and write OUT/footage.parquet.

    sources: URLs, or .csv and .parquet lists with URLs in the column `uri`, whose other columns go along. What is there is not fetched again;
    what failed is. progress: done, total, bytes so far. Raises `WrongCall` for a list that is none.
    """
    rows = _rows(sources)
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongCall(f"cannot make {folder}: {error.strerror}; choose another --out") from error
    failed: dict[str, str] = {}
    tally: Counter[str] = Counter()

    def one(url: str) -> int | None:
        target = folder / place_of(url)
        return None if target.exists() else fetcher.fetch(url, target).bytes

    progress(0, len(rows), 0)
    with ThreadPoolExecutor(connections) as pool:
        waiting = {pool.submit(one, url): url for url in rows}
        try:
            for done in as_completed(waiting):
                try:
                    size = done.result()
                    tally["there" if size is None else "fetched"] += 1
                    tally["bytes"] += size or 0
                except (RefusedUrl, FetchFailed) as error:
                    failed[waiting[done]] = str(error)
                progress(sum(tally[name] for name in ("there", "fetched")) + len(failed), len(rows), tally["bytes"])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    listed = [
        {"uri": place_of(url), "source_url": url, "fetch_error": failed.get(url)} | columns
        for url, columns in rows.items()
    ]
    partial = folder / f".{LIST}.partial"
    pq.write_table(_table(listed), partial)
    partial.replace(folder / LIST)
    return FetchReport(
        urls=len(rows), fetched=tally["fetched"], there=tally["there"], failed=failed, bytes=tally["bytes"],
        list=str(folder / LIST),
    )  # fmt: skip


def place_of(url: str) -> str:
    """Where a URL's bytes lie in the folder: by the hash of its words, with the extension it names if that is a video's."""
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    extension = Path(url.partition("?")[0].partition("#")[0]).suffix.lower()
    return f"{name[:2]}/{name}{extension if extension in VIDEO_EXTENSIONS else ''}"


def _rows(sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """URL -> its columns, each once, in order."""
    rows: dict[str, dict[str, Any]] = {}
    for source in sources:
        if source.startswith("https://") or not is_list(source):
            rows.setdefault(source, {})
            continue
        for url, columns in read_list(source):
            if taken := set(OURS) & columns.keys():
                raise WrongCall(
                    f"the list {source} has a column {min(taken)!r}, which `fetch` writes itself; rename it"
                )
            rows.setdefault(url, columns)
    if not rows:
        raise WrongCall("name at least one https:// URL, or a .csv or .parquet list of them in the column uri")
    return rows


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in names})
