"""Which sources a job may read: only what lies inside the allowed roots, whatever the path says on its way there."""

import os
from pathlib import Path

from curation.sources.lists import is_list, read_list


class OutsideRoots(ValueError):
    """A source that the service may not read."""


def allowed_source(source: str, roots: tuple[str, ...]) -> str:
    """The source as it may be handed to a job: an absolute path without links, or a bucket URI. What a list names is checked, too.

    Raises OutsideRoots, or WrongCall for a list that cannot be read.
    """
    found = allowed_place(source, roots)
    if is_list(found) and ("://" in found or Path(found).is_file()):
        _all_inside([uri for uri, _ in read_list(found)], roots)
    return found


def _all_inside(uris: list[str], roots: tuple[str, ...]) -> None:
    """A million entries share few folders: each folder is looked up once, and an entry only where it is a link itself."""
    folders: dict[str, bool] = {}
    for uri in uris:
        folder, _, name = uri.rpartition("/")
        plain = uri.startswith("/") and name not in ("", "..") and not os.path.islink(uri)
        if plain and folder not in folders:
            try:
                folders[folder] = bool(allowed_place(folder, roots))
            except OutsideRoots:
                folders[folder] = False
        if not (plain and folders[folder]):
            allowed_place(uri, roots)


def allowed_place(source: str, roots: tuple[str, ...]) -> str:
    """The same without a look into it."""
    if "\0" in source:
        raise OutsideRoots("a source may not contain a NUL character")
    if source.startswith("file://"):
        source = source.removeprefix("file://")
    if source.startswith(("http://", "https://")):
        raise OutsideRoots(f"{source[:300]!r} is on the web; a job of kind fetch brings https:// URLs here")
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
    return str(path)


def _below(uri: str, root: str) -> bool:
    return uri == root.rstrip("/") or uri.startswith(root.rstrip("/") + "/")


def _refusal(source: str, roots: tuple[str, ...]) -> str:
    return (
        f"{source[:300]!r} is outside the folders this service may read: {', '.join(roots) or 'none'} (CINEMILL_ROOTS)"
    )
