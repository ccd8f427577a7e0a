"""The lake as an Iceberg REST catalog shows it: tables as of the newest commit, each commit and tag a ref, errors in its form.

What a run has written and not committed is in Iceberg's own metadata, and does not exist for readers: it is left out here.
"""

import json
from typing import Any, cast

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from curation.clips import Lake
from curation.clips.manifest import NAMESPACE
from curation.clips.schema import TABLES

PREFIX = "/v1/iceberg"
KINDS = {
    401: "NotAuthorizedException", 403: "ForbiddenException", 404: "NotFoundException", 405: "UnsupportedOperationException",
    422: "ValidationException", 429: "TooManyRequestsException", 503: "ServiceUnavailableException",
}  # fmt: skip


class ErrorModel(BaseModel):
    """What went wrong, by Iceberg's name for it."""

    message: str
    type: str
    code: int


class IcebergError(BaseModel):
    """What errors look like to clients of Iceberg's protocol (IcebergErrorResponse of its REST specification)."""

    error: ErrorModel


class NoSuch(Exception):
    """kind: NoSuchNamespaceException or NoSuchTableException."""

    def __init__(self, kind: str, detail: str):
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


def iceberg_error(
    status: int, detail: str, kind: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as a response; its type follows from the status where none is given."""
    kind = kind or KINDS.get(status) or ("BadRequestException" if status < 500 else "InternalServerError")
    body = IcebergError(error=ErrorModel(message=detail, type=kind, code=status))
    return JSONResponse(body.model_dump(), status, headers=headers)


def no_such(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, NoSuch)
    return iceberg_error(404, error.detail, error.kind)


def check_namespace(name: str) -> None:
    """Raises NoSuch for any but the lake's only one."""
    if name != NAMESPACE:
        raise NoSuch("NoSuchNamespaceException", f"no namespace {name[:100]!r}; the only one is {NAMESPACE}")


def table_names(lake: Lake) -> list[str]:
    """Tables there are for readers: none before the first commit."""
    return [name for name in TABLES if lake.iceberg(name) is not None] if lake.commits() else []


def load_table(lake: Lake, name: str) -> tuple[str, dict[str, Any]]:
    """Where a table's metadata lie, and the metadata as of the newest commit.

    Snapshots are those that commits name. The branch `main` is the newest; tags are DATASET@NUMBER of every commit and
    DATASET@TAG of every tag, as in the names of snapshots everywhere else. Raises NoSuch.
    """
    commits = lake.commits()  # before the table, which then has at least what they name
    table = lake.iceberg(name) if commits and name in TABLES else None
    if table is None:
        known = ", ".join(table_names(lake)) or "none: nothing was committed yet"
        raise NoSuch("NoSuchTableException", f"no table {name[:100]!r} in {NAMESPACE}; there are {known}")
    metadata: dict[str, Any] = json.loads(table.metadata.model_dump_json())
    by_number = {commit.number: commit.tables.get(name) for commit in commits}
    named = set(by_number.values())
    snapshots = {each["snapshot-id"]: each for each in metadata["snapshots"] if each["snapshot-id"] in named}
    refs = {f"{commit.dataset}@{commit.number}": by_number[commit.number] for commit in commits}
    refs |= {f"{tag.dataset}@{tag.name}": by_number.get(tag.number) for tag in lake.log.tags()}
    current = by_number[commits[-1].number]
    metadata |= {
        "snapshots": list(snapshots.values()),
        "refs": {ref: {"snapshot-id": number, "type": "tag"} for ref, number in refs.items() if number in snapshots},
        "snapshot-log": [
            {"snapshot-id": each["snapshot-id"], "timestamp-ms": each["timestamp-ms"]}
            for each in sorted(snapshots.values(), key=lambda each: cast(int, each["sequence-number"]))
        ],
        "metadata-log": [],
    }
    used = {each.get("schema-id") for each in snapshots.values()}
    metadata["schemas"] = [each for each in metadata["schemas"] if each["schema-id"] in used] or metadata["schemas"][:1]
    if current in snapshots:
        metadata["current-snapshot-id"] = current
        metadata["refs"]["main"] = {"snapshot-id": current, "type": "branch"}
        metadata["current-schema-id"] = snapshots[current]["schema-id"]
    else:
        metadata.pop("current-snapshot-id", None)
        metadata["current-schema-id"] = metadata["schemas"][0]["schema-id"]
    return table.metadata_location, metadata
