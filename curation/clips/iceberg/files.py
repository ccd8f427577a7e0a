"""Iceberg's files through the lake's one door: the same file systems, endpoints and credentials as everything else."""

from typing import Any

from pyiceberg.io.pyarrow import PyArrowFileIO

from curation.clips.storage import filesystem


class LakeFiles(PyArrowFileIO):
    """pyiceberg alone does not look for AWS_ENDPOINT_URL, and asks Amazon for the region of every bucket."""

    def _initialize_fs(self, scheme: str, netloc: str | None = None) -> Any:
        if scheme == "file":
            return super()._initialize_fs(scheme, netloc)  # it makes the folders of what it writes
        return filesystem(f"{scheme}://{netloc}")[0]
