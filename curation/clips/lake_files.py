"""Iceberg's files through the lake's one door: the same file systems, endpoints and credentials as everything else."""

import pyarrow.fs as pafs
from pyiceberg.io.pyarrow import PyArrowFileIO

from curation.clips.storage import filesystem


class LakeFiles(PyArrowFileIO):
    """pyiceberg alone does not look for AWS_ENDPOINT_URL, and asks Amazon for the region of every bucket."""

    def _initialize_fs(self, scheme: str, netloc: str | None = None) -> pafs.FileSystem:
        return pafs.LocalFileSystem() if scheme == "file" else filesystem(f"{scheme}://{netloc}")[0]
