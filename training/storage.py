"""Where checkpoints lie: a folder that every worker sees, or a prefix in a bucket. One small interface for both."""

import os
import shutil
from pathlib import Path
from typing import Protocol

from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, StorageReader, StorageWriter


class Storage(Protocol):
    """Folders of files under one root. Names are relative to it: "step-00000200" or "step-00000200/COMMIT"."""

    uri: str

    def folders(self) -> list[str]:
        """Names of the folders directly under the root, sorted; none where the root does not exist."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder; nothing where it does not exist."""
        ...

    def read(self, name: str) -> bytes:
        """A small file; FileNotFoundError where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """A small file, whole or not at all, on disk when this returns."""
        ...

    def remove(self, folder: str) -> None:
        """A folder and what is in it, if it is there."""
        ...

    def writer(self, folder: str) -> StorageWriter:
        """Writes one distributed checkpoint into a folder."""
        ...

    def reader(self, folder: str) -> StorageReader:
        """Reads one back."""
        ...


def open_storage(uri: str | Path) -> Storage:
    """The storage at a local path or a bucket's URI; ValueError for a scheme that nobody here understands."""
    if "://" in str(uri) and not str(uri).startswith("file://"):
        from training.object_storage import ObjectStorage  # pyarrow, which training on local disks does without

        return ObjectStorage(str(uri))
    return LocalStorage(Path(str(uri).removeprefix("file://")).absolute())


class LocalStorage:
    """A folder on this machine or on a disk that all workers share."""

    def __init__(self, root: Path):
        self.root, self.uri = root, str(root)

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if path.is_dir()) if self.root.is_dir() else []

    def sizes(self, folder: str) -> dict[str, int]:
        path = self.root / folder
        return {file.name: file.stat().st_size for file in sorted(path.iterdir())} if path.is_dir() else {}

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    def remove(self, folder: str) -> None:
        shutil.rmtree(self.root / folder, ignore_errors=True)

    def writer(self, folder: str) -> StorageWriter:
        return FileSystemWriter(self.root / folder)

    def reader(self, folder: str) -> StorageReader:
        return FileSystemReader(self.root / folder)
