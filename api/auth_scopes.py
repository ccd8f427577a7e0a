"""Which scope every endpoint asks for. What is not listed here asks for admin."""

import re
from collections.abc import Mapping
from typing import Literal

from starlette.routing import compile_path

from api.auth import Scope

Need = Scope | Literal["public"]
DATASET = "/v1/datasets/{name}"
CLIP = "/v1/clips/{clip_id}"
ICEBERG = "/v1/iceberg/v1"
NAMESPACE = f"{ICEBERG}/namespaces/{{namespace}}"

ENDPOINTS: Mapping[tuple[str, str], Need] = {
    # The page itself holds no data; its requests are checked one by one.
    ("GET", "/"): "public",
    ("GET", "/login"): "public",
    ("GET", "/dashboard/{path:path}"): "public",
    ("GET", "/healthz"): "public",
    ("GET", "/readyz"): "public",
    ("POST", "/v1/session"): "public",
    ("DELETE", "/v1/session"): "public",
    ("GET", "/metrics"): "read",
    ("GET", "/v1/openapi.json"): "read",
    ("GET", "/v1/health"): "read",
    ("GET", "/v1/jobs"): "read",
    ("POST", "/v1/jobs/estimate"): "submit",
    ("POST", "/v1/jobs"): "submit",
    ("GET", "/v1/jobs/{job_id}"): "read",
    ("GET", "/v1/jobs/{job_id}/events"): "read",
    ("POST", "/v1/jobs/{job_id}/cancel"): "submit",
    ("GET", "/v1/recipes"): "read",
    ("GET", "/v1/recipes/schema"): "read",
    ("GET", "/v1/recipes/{recipe}"): "read",
    ("POST", "/v1/recipes/validate"): "read",
    ("GET", "/v1/datasets"): "read",
    ("GET", f"{DATASET}/snapshots"): "read",
    ("GET", f"{DATASET}/tags"): "read",
    ("POST", f"{DATASET}/tags"): "submit",
    ("DELETE", f"{DATASET}/tags/{{tag}}"): "submit",
    ("GET", f"{DATASET}/rows"): "read",
    ("POST", f"{DATASET}/filter"): "read",
    ("GET", f"{DATASET}/files"): "read",
    ("GET", f"{DATASET}/parquet"): "read",
    ("GET", f"{DATASET}/recipe"): "read",
    ("GET", f"{DATASET}/diff"): "read",
    ("GET", f"{DATASET}/funnel"): "read",
    ("GET", f"{DATASET}/histograms"): "read",
    ("GET", f"{DATASET}/statistics"): "read",
    ("GET", f"{DATASET}/corejection"): "read",
    ("GET", f"{DATASET}/whatif"): "read",
    ("GET", f"{DATASET}/scores"): "read",
    ("GET", f"{DATASET}/search"): "read",
    ("GET", f"{DATASET}/clusters"): "read",
    ("GET", f"{DATASET}/quarantine"): "read",
    ("POST", f"{DATASET}/quarantine/retry"): "submit",
    ("GET", CLIP): "read",
    ("GET", f"{CLIP}/lineage"): "read",
    ("GET", f"{CLIP}/neighbours"): "read",
    ("GET", f"{CLIP}/preview.mp4"): "read",
    ("GET", f"{CLIP}/poster.webp"): "read",
    ("GET", "/v1/runs"): "read",
    ("GET", "/v1/runs/{run}"): "read",
    ("GET", "/v1/runs/{run}/metrics"): "read",
    ("GET", "/v1/runs/{run}/samples"): "read",
    ("GET", "/v1/runs/{run}/samples/{sample}"): "read",
    ("GET", f"{ICEBERG}/config"): "read",
    ("GET", f"{ICEBERG}/namespaces"): "read",
    ("GET", NAMESPACE): "read",
    ("HEAD", NAMESPACE): "read",
    ("GET", f"{NAMESPACE}/tables"): "read",
    ("GET", f"{NAMESPACE}/tables/{{table}}"): "read",
    ("HEAD", f"{NAMESPACE}/tables/{{table}}"): "read",
    # Writes of Iceberg's protocol are refused in its own form, whatever the token may do.
    ("POST", f"{ICEBERG}/{{path:path}}"): "read",
    ("PUT", f"{ICEBERG}/{{path:path}}"): "read",
    ("PATCH", f"{ICEBERG}/{{path:path}}"): "read",
    ("DELETE", f"{ICEBERG}/{{path:path}}"): "read",
    ("GET", "/v1/tokens"): "admin",
    ("POST", "/v1/tokens"): "admin",
    ("DELETE", "/v1/tokens/{token_id}"): "admin",
    ("GET", "/v1/audit"): "admin",
}
READING = frozenset({"GET", "HEAD", "OPTIONS"})
OTHER = "other"
_COMPILED: list[tuple[str, str, re.Pattern[str]]] = [
    (method, path, compile_path(path)[0])
    # Fixed words before parameters, as in the order of the routes: /v1/recipes/schema is no recipe.
    for method, path in sorted(ENDPOINTS, key=lambda endpoint: endpoint[1].count("{"))
]


def endpoint_of(method: str, path: str) -> str:
    """The template of the endpoint that answers this request, or `other`: a bounded set, whatever is asked for."""
    method = "GET" if method == "HEAD" else method
    return next((template for verb, template, shape in _COMPILED if verb == method and shape.match(path)), OTHER)


def needs(method: str, template: str) -> Need:
    """The scope an endpoint asks for."""
    return ENDPOINTS.get(("GET" if method == "HEAD" else method, template), "admin")


def changes_something(method: str, template: str) -> bool:
    """Whether a request is written into the audit log: anything but reading, also by a body (`/filter`)."""
    return method not in READING and needs(method, template) != "read"
