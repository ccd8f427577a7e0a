"""A read-only Iceberg REST catalog: `load_catalog("lake", type="rest", uri="http://HOST:PORT/v1/iceberg")` and every other client of it.

The protocol has its own form of errors, which is the one exception from problem+json.
"""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api.auth_scopes import READING
from api.deps import ServiceDep
from api.iceberg import PREFIX, IcebergError, check_namespace, iceberg_error, load_table, table_names
from api.settings import bucket_defaults
from curation.clips.manifest import NAMESPACE

router = APIRouter(prefix=f"{PREFIX}/v1", tags=["iceberg"], responses={"4XX": {"model": IcebergError}})
NamespacePath = Annotated[str, Path(max_length=1000)]
TablePath = Annotated[str, Path(max_length=1000)]
OFFERED = (
    "GET /v1/{prefix}/namespaces", "GET /v1/{prefix}/namespaces/{namespace}", "HEAD /v1/{prefix}/namespaces/{namespace}",
    "GET /v1/{prefix}/namespaces/{namespace}/tables", "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
    "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
)  # fmt: skip


class CatalogConfig(BaseModel):
    """Properties that a client takes over, and what it may ask for. Credentials of a bucket are the client's own."""

    defaults: dict[str, str]
    overrides: dict[str, str]
    endpoints: list[str]


class Namespaces(BaseModel):
    """Each a list of its parts."""

    namespaces: list[list[str]]


class Namespace(BaseModel):
    """One namespace."""

    namespace: list[str]
    properties: dict[str, str]


class TableIdentifier(BaseModel):
    """A table by its full name."""

    namespace: list[str]
    name: str


class Tables(BaseModel):
    """All of a namespace."""

    identifiers: list[TableIdentifier]


class LoadedTable(BaseModel):
    """A table as of the newest commit. `metadata` is what counts: the file at the location also knows what a run has
    written and not committed."""

    metadata_location: str = Field(serialization_alias="metadata-location")
    metadata: dict[str, Any]
    config: dict[str, str]


@router.get("/config")
def read_catalog_config(here: ServiceDep) -> CatalogConfig:
    """What a client asks first."""
    return CatalogConfig(defaults=bucket_defaults(here.lake.uri), overrides={}, endpoints=list(OFFERED))


@router.get("/namespaces")
def list_namespaces(parent: Annotated[str | None, Query(min_length=1, max_length=1000)] = None) -> Namespaces:
    """The lake is one namespace without others in it."""
    if parent:
        check_namespace(parent)
    return Namespaces(namespaces=[] if parent else [[NAMESPACE]])


@router.get("/namespaces/{namespace}")
def load_namespace(namespace: NamespacePath) -> Namespace:
    check_namespace(namespace)
    return Namespace(namespace=[NAMESPACE], properties={})


@router.head("/namespaces/{namespace}", status_code=204)
def namespace_exists(namespace: NamespacePath) -> None:
    check_namespace(namespace)


@router.get("/namespaces/{namespace}/tables")
def list_tables(here: ServiceDep, namespace: NamespacePath) -> Tables:
    """None before the first commit."""
    check_namespace(namespace)
    return Tables(identifiers=[TableIdentifier(namespace=[NAMESPACE], name=name) for name in table_names(here.lake)])


@router.get("/namespaces/{namespace}/tables/{table}")
def load_iceberg_table(here: ServiceDep, namespace: NamespacePath, table: TablePath) -> LoadedTable:
    """The newest commit is current; `table.refs()` has DATASET@NUMBER of every commit and DATASET@TAG of every tag."""
    check_namespace(namespace)
    location, metadata = load_table(here.lake, table)
    return LoadedTable(metadata_location=location, metadata=metadata, config={})


@router.head("/namespaces/{namespace}/tables/{table}", status_code=204)
def table_exists(here: ServiceDep, namespace: NamespacePath, table: TablePath) -> Response:
    load_iceberg_table(here, namespace, table)
    return Response(status_code=204)


@router.api_route("/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
def refuse(request: Request) -> JSONResponse:
    """What the protocol knows and this catalog does not offer."""
    if request.method in READING:
        raise HTTPException(404)
    detail = (
        "this catalog is read-only: tables change by jobs alone (POST /v1/jobs), tags by POST /v1/datasets/NAME/tags"
    )
    return iceberg_error(405, detail, headers={"allow": "GET, HEAD"})
