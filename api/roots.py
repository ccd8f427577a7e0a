"""Which sources a job may read: only what lies inside the allowed roots, whatever the path says on its way there."""

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet

LISTS = {".csv", ".parquet"}
MAX_LIST_BYTES = 256 << 20  # every line of a list is checked while the caller waits


class OutsideRoots(ValueError):
    """A source that the service may not read."""


def allowed_source(source: str, roots: tuple[str, ...]) -> str:
    """The source as it may be handed to a job: an absolute path without links, or a bucket URI. Raises OutsideRoots."""
    if "\0" in source:
        raise OutsideRoots("a source may not contain a NUL character")
    if source.startswith("file://"):
        source = source.removeprefix("file://")
    if "://" in source:
        if ".." in source.split("/") or not any("://" in root and _below(source, root) for root in roots):
            raise OutsideRoots(_refusal(source, roots))
        return source
    try:
        path = Path(source).resolve()
    except (OSError, RuntimeError, ValueError):
        raise OutsideRoots(_refusal(source, roots)) from None
    if not any("://" not in root and path.is_relative_to(root) for root in roots):
        raise OutsideRoots(_refusal(source, roots))
    if path.suffix.lower() in LISTS and path.is_file():
        for uri in listed_uris(path):
            allowed_source(uri if "://" in uri or uri.startswith("/") else str(path.parent / uri), roots)
    return str(path)


def listed_uris(path: Path) -> list[str]:
    """The `uri` column of a list of sources. Raises ValueError if the file is no such list."""
    if path.stat().st_size > MAX_LIST_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_LIST_BYTES >> 20} MiB; split it, or use the command line")
    try:
        if path.suffix.lower() == ".csv":
            table = pyarrow.csv.read_csv(path)
        else:
            table = pyarrow.parquet.read_table(path, columns=["uri"])
        return [str(uri) for uri in table.column("uri").to_pylist() if uri is not None]
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path.name} is not a list of sources with a `uri` column") from error


def _below(uri: str, root: str) -> bool:
    return uri == root.rstrip("/") or uri.startswith(root.rstrip("/") + "/")


def _refusal(source: str, roots: tuple[str, ...]) -> str:
    return (
        f"{source[:300]!r} is outside the folders this service may read: {', '.join(roots) or 'none'} (CINEMILL_ROOTS)"
    )
