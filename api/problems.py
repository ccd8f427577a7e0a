"""One shape for every error: application/problem+json (RFC 9457); below /v1/iceberg that of Iceberg's protocol."""

import logging
from http import HTTPStatus
from typing import Any

import duckdb
import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException

from api import iceberg
from api.query import TooSlow
from curation.clips.errors import WrongCall, is_damage

log = logging.getLogger(__name__)
EVERYWHERE = {"4XX": "Refused; the detail says what to change.", "5XX": "Failed here, or too busy: see Retry-After."}


class FieldProblem(BaseModel):
    """One field of a request that was refused, and why."""

    where: str
    message: str


class Problem(BaseModel):
    """What every error looks like on the wire."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldProblem] | None = None


def problem(
    status: int,
    detail: str,
    instance: str,
    errors: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error as a response; the title follows from the status. instance: the path that was asked for."""
    if _is_iceberg(instance):
        return iceberg.iceberg_error(status, detail, headers=headers)
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, instance=instance, errors=errors)
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type="application/problem+json"
    )


def _is_iceberg(path: str) -> bool:
    return path.startswith(f"{iceberg.PREFIX}/")


def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = "there is nothing here; GET /v1/openapi.json lists what there is"
    if error.status_code == 405:
        detail = f"{request.method} is not offered here; the Allow header says what is"
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, detail, request.url.path, headers=headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldProblem(where=".".join(str(part) for part in found["loc"]), message=found["msg"])
        for found in error.errors()[:20]
    ]
    detail = "; ".join(f"{found.where}: {found.message}" for found in errors[:3]) or "the request is not valid"
    return problem(422, detail, request.url.path, errors)


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document with our errors in place of FastAPI's: every 4xx and 5xx is a problem, of its media type."""
    ours = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    theirs = {"application/json": {"schema": {"$ref": "#/components/schemas/IcebergError"}}}
    for path, operations in document["paths"].items():
        content = theirs if _is_iceberg(path) else ours
        for operation in operations.values():
            answers = operation["responses"]
            for status in [each for each in answers if each[0] in "45"]:
                if status == "422" and "HTTPValidationError" in str(answers[status]):
                    del answers[status]
                else:
                    answers[status] = {"description": answers[status]["description"], "content": content}
            answers |= {each: {"description": words, "content": content} for each, words in EVERYWHERE.items()}
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document


def _unusable(request: Request, error: Exception) -> JSONResponse:
    return problem(409, str(error), request.url.path)


def _too_slow(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TooSlow)
    detail = "this query needs more time or memory than one may take; ask for fewer columns, or filter by fate or rule"
    return problem(503, detail, request.url.path, headers={"retry-after": "10"})


def _unreadable(request: Request, error: Exception) -> JSONResponse:
    if not is_damage(error):
        return crashed(request, error)
    log.error("%s %s could not read the lake", request.method, request.url.path, exc_info=error)
    detail = (
        "files of this lake cannot be read; the snapshot may have expired, files may be damaged, or the store or the catalog does "
        "not answer: see the log"
    )
    return problem(503, detail, request.url.path, headers={"retry-after": "30"})


def crashed(request: Request, error: Exception) -> JSONResponse:
    """What nobody foresaw: 503 for a lake that cannot be read, else 500; the log says why."""
    if is_damage(error):  # of a library that only the lake may load
        return _unreadable(request, error)
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "the service failed to answer this; its log says why", request.url.path)


def install(app: FastAPI) -> None:
    """Make every error of `app`, foreseen or not, a problem; what went wrong inside stays in the log."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(WrongCall, _unusable)  # a lake or a recipe of another version
    app.add_exception_handler(TooSlow, _too_slow)
    for kind in (duckdb.Error, pa.ArrowException, DatabaseError, OSError, UnicodeDecodeError):
        app.add_exception_handler(kind, _unreadable)
    app.add_exception_handler(Exception, crashed)
