"""A URI becomes a file system: local folders, S3 and GCS by one door. Credentials come from the standard chains only."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from curation.clips.errors import UnreadableVideo, WrongCall


def is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The absolute path of a local URI."""
    if not is_local(uri):
        raise WrongCall(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://")).expanduser().absolute()


def normalise(uri: str) -> str:
    """A local path becomes absolute; another URI stays as it is, without a trailing slash."""
    return str(local_path(uri)) if is_local(uri) else uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of `uri` (a file:// one, too) and the path on it. Unknown schemes raise `WrongCall`."""
    if is_local(uri):
        return pafs.LocalFileSystem(), str(local_path(uri))
    try:
        return pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise WrongCall(
            f"cannot open {uri}: {error}; local paths, s3:// and gs:// are understood; `cinemill fetch` brings https:// here"
        ) from error


def exists(uri: str) -> bool:
    system, path = filesystem(uri)
    return system.get_file_info(path).type != pafs.FileType.NotFound


def read_bytes(uri: str) -> bytes:
    system, path = filesystem(uri)
    with system.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(uri: str, data: bytes) -> None:
    """Write whole or not at all: a local file appears under its name only when it is complete."""
    system, path = filesystem(uri)
    if not is_local(uri):
        with system.open_output_stream(path) as stream:
            stream.write(data)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    partial = f"{path}.{os.getpid()}.partial"
    with open(partial, "wb") as file:
        file.write(data)
    os.replace(partial, path)


def copy(source: str, target: str) -> None:
    """Copy a file within one store; an object store copies it itself."""
    system, path = filesystem(target)
    if is_local(target):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    system.copy_file(filesystem(source)[1], path)


def sha256(uri: str) -> tuple[str, int]:
    """SHA-256 (hex, whole) and size in bytes of what lies at `uri`. A missing file raises `UnreadableVideo`."""
    system, path = filesystem(uri)
    digest, size = hashlib.sha256(), 0
    try:
        with system.open_input_stream(path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise UnreadableVideo("missing", f"cannot read {uri}: {error}") from error
    return digest.hexdigest(), size


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[str]:
    """A local path with the bytes of `uri`: decoders read local files only. A remote object is copied and removed afterwards.

    Raises `UnreadableVideo` for what may never end: pipes, devices, sockets.
    """
    if is_local(uri):
        here = local_path(uri)
        if here.exists() and not here.is_file():
            raise UnreadableVideo("missing", f"{uri} is no regular file")
        yield str(here)
        return
    system, path = filesystem(uri)
    with tempfile.TemporaryDirectory(prefix="cinemill-") as folder:
        target = os.path.join(folder, os.path.basename(path))
        with system.open_input_stream(path) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)
        yield target


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file as its store describes it. modified: seconds since 1970."""

    bytes: int
    modified: float


def found_below(uri: str) -> dict[str, Found]:
    """Every file in a folder and below, by path inside the folder. Empty where there is no such folder."""
    system, path = filesystem(uri)
    found = system.get_file_info(pafs.FileSelector(path, allow_not_found=True, recursive=True))
    return {
        info.path[len(path) :].lstrip("/"): Found(bytes=info.size, modified=info.mtime_ns / 1e9)
        for info in found
        if info.type == pafs.FileType.File
    }


def files_below(uri: str) -> dict[str, int]:
    """Path inside the folder -> size in bytes, of every file in it and below."""
    return {path: found.bytes for path, found in found_below(uri).items()}


def remove_file(uri: str) -> None:
    system, path = filesystem(uri)
    system.delete_file(path)


def remove_folder(uri: str) -> None:
    """Remove a folder and everything in it, if it is there."""
    system, path = filesystem(uri)
    if system.get_file_info(path).type == pafs.FileType.Directory:
        system.delete_dir(path)


def require_writable(uri: str) -> None:
    """Raise `WrongCall` when a local output folder cannot be made or written; leaves nothing behind."""
    if not is_local(uri):
        filesystem(uri)
        return
    path = local_path(uri)
    if path.exists() and not path.is_dir():
        raise WrongCall(f"{path} is a file; --out must name a folder")
    nearest = path
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise WrongCall(f"cannot write to {path}: {nearest} is not a writable folder; choose another --out")
