"""Checkpoints in a bucket: PyTorch's writer and reader on the file systems that manifests are read by too."""

import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, cast

import pyarrow as pa
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, StorageReader, StorageWriter
from torch.distributed.checkpoint.filesystem import FileSystemBase

from curation.clips.storage import filesystem

Path = str | os.PathLike
BLOCK = 8 << 20  # bytes asked for at once


class ObjectStorage:
    """A prefix of a bucket. Objects appear when their upload is complete, so no name ever holds half a file."""

    def __init__(self, uri: str):
        self.uri = uri.rstrip("/")
        self.system, self.root = filesystem(self.uri)

    def folders(self) -> list[str]:
        return sorted(info.base_name for info in self._list(self.root) if not info.is_file)

    def sizes(self, folder: str) -> dict[str, int]:
        return {info.base_name: info.size for info in self._list(f"{self.root}/{folder}") if info.is_file}

    def read(self, name: str) -> bytes:
        with self.system.open_input_stream(f"{self.root}/{name}") as stream:
            return stream.read()

    def write(self, name: str, content: bytes) -> None:
        with self.system.open_output_stream(f"{self.root}/{name}") as stream:
            stream.write(content)

    def remove(self, folder: str) -> None:
        if self._list(f"{self.root}/{folder}"):
            self.system.delete_dir(f"{self.root}/{folder}")

    def writer(self, folder: str) -> StorageWriter:
        # An object is durable once it is there; asked to sync, the writer would flush every disk of this machine.
        writer = FileSystemWriter("unused", sync_files=False)
        writer.fs, writer.path = _Objects(self.system), f"{self.root}/{folder}"  # type: ignore[assignment]
        return writer

    def reader(self, folder: str) -> StorageReader:
        reader = FileSystemReader("unused")
        reader.fs, reader.path = _Objects(self.system), f"{self.root}/{folder}"  # type: ignore[assignment]
        return reader

    def _list(self, path: str) -> list[pa.fs.FileInfo]:
        return self.system.get_file_info(pa.fs.FileSelector(path, allow_not_found=True))


class _Objects(FileSystemBase):
    """What PyTorch's writer and reader ask of a file system."""

    def __init__(self, system: pa.fs.FileSystem):
        self.system = system

    @contextmanager
    def create_stream(self, path: Path, mode: str) -> Generator[io.IOBase, None, None]:
        if "w" in mode:
            with self.system.open_output_stream(str(path)) as stream:
                yield cast(io.IOBase, stream)
            return
        with self.system.open_input_file(str(path)) as file:
            yield io.BufferedReader(_Blocks(file))

    def concat_path(self, path: Path, suffix: str) -> Path:
        return f"{path}/{suffix}"

    def rename(self, path: Path, new_path: Path) -> None:
        self.system.move(str(path), str(new_path))

    def init_path(self, path: Path) -> Path:
        return path

    def mkdir(self, path: Path) -> None:
        """Objects need no folder."""

    def exists(self, path: Path) -> bool:
        return self.system.get_file_info(str(path)).type != pa.fs.FileType.NotFound

    def rm_file(self, path: Path) -> None:
        self.system.delete_file(str(path))

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Path) -> bool:
        return False


class _Blocks(io.RawIOBase):
    """An object read in large blocks, the last few kept: PyTorch reads each tensor by many small steps to and fro."""

    def __init__(self, file: pa.NativeFile):
        self.size, self.position = file.size(), 0
        self.block = lru_cache(4)(lambda number: file.read_at(BLOCK, number * BLOCK))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        if self.position >= self.size:
            return 0
        number, start = divmod(self.position, BLOCK)
        piece = self.block(number)[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)
