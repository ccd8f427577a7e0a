"""Personal access tokens, the page's session, and the audit log."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.audit import AuditEntry
from api.auth import Scope, Token
from api.auth_gate import COOKIE
from api.deps import ServiceDep

router = APIRouter(prefix="/v1", tags=["access"])


class TokenRequest(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=100, description="whose it is, or what uses it")
    scopes: list[Scope] = Field(["read"], min_length=1, max_length=4)
    days: float = Field(90.0, gt=0, le=366, description="days until it ends")


class TokenView(BaseModel):
    """A token without its secret."""

    id: str
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class NewToken(TokenView):
    """A token with its secret, which is shown this once."""

    token: str


class SessionRequest(BaseModel):
    """What the login page sends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: str = Field(max_length=200)


class AuditView(BaseModel):
    """One request that changed something, or was refused to."""

    id: int
    time: datetime
    caller: str
    caller_name: str
    address: str
    method: str
    path: str
    status: int
    trace_id: str


class Audit(BaseModel):
    """Lines of the audit log, the newest first. `next`: the `before` of the page after it; null on the last."""

    entries: list[AuditView]
    next: int | None


def view(token: Token) -> TokenView:
    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return TokenView.model_validate(
        {
            "id": token.id, "name": token.name, "prefix": token.prefix, "scopes": token.scopes.split(),
            "created_at": moment(token.created_at), "expires_at": moment(token.expires_at),
            "revoked_at": moment(token.revoked_at),
        }
    )  # fmt: skip


@router.get("/tokens")
def list_tokens(here: ServiceDep) -> list[TokenView]:
    """All tokens, the newest first; ended and revoked ones too."""
    return [view(token) for token in here.tokens.list()]


@router.post("/tokens", status_code=201)
def create_token(asked: TokenRequest, here: ServiceDep) -> NewToken:
    """The answer holds the secret; nothing can show it again."""
    token, secret = here.tokens.create(asked.name, asked.scopes, asked.days)
    return NewToken(**view(token).model_dump(), token=secret)


@router.delete("/tokens/{token_id}")
def revoke_token(token_id: str, here: ServiceDep) -> TokenView:
    """From now on the token is refused."""
    if token := here.tokens.revoke(token_id):
        return view(token)
    raise HTTPException(404, f"no token {token_id[:40]!r}; GET /v1/tokens lists them")


@router.post("/session", status_code=204)
def open_session(asked: SessionRequest, here: ServiceDep, request: Request) -> Response:
    """Keep a token in a cookie that only this site's own requests carry, and no script reads: how the page logs in."""
    caller = here.tokens.find(asked.token)
    if caller is None:
        raise HTTPException(401, "this token is not known, has ended or was revoked")
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE, asked.token, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    return response


@router.delete("/session", status_code=204)
def close_session() -> Response:
    """Forget the cookie; the token stays valid."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response


@router.get("/audit")
def read_audit(
    here: ServiceDep,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Audit:
    """Who changed what, when and from where."""
    found = here.audit.read(before, limit)
    return Audit(entries=[_line(entry) for entry in found], next=found[-1].id if len(found) == limit else None)


def _line(entry: AuditEntry) -> AuditView:
    return AuditView(
        id=entry.id, time=datetime.fromtimestamp(entry.time, UTC), caller=entry.caller, caller_name=entry.caller_name,
        address=entry.address, method=entry.method, path=entry.path, status=entry.status, trace_id=entry.trace_id,
    )  # fmt: skip
