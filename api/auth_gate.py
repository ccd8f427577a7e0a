"""The second gate: who asks, may they, how often; and a line in the audit log for everything that changes something."""

import math
from http.cookies import CookieError, SimpleCookie

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import LOOPBACK, Caller, TokenStore
from api.auth_limits import RateLimit
from api.auth_scopes import READING, changes_something, endpoint_of, needs
from api.problems import problem
from api.settings import Settings

COOKIE = "cinemill_session"


def presented(headers: Headers) -> tuple[str | None, bool]:
    """The token of a request, and whether it came in the page's cookie, which other sites could make a browser send."""
    authorization = headers.get("authorization")
    if authorization is not None:
        if authorization == "Bearer None":  # what pyiceberg says without a token
            return None, False
        scheme, _, secret = authorization.partition(" ")
        return (secret.strip() if scheme.lower() == "bearer" else ""), False
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None, False
    return (None, False) if cookie is None else (cookie.value, True)


class Access:
    """Pure ASGI. Works by the table of endpoints, before anything of the body is read."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app = app
        self.asks = settings.asks_for_tokens
        self.reads = RateLimit(settings.reads_per_minute)
        self.writes = RateLimit(settings.writes_per_minute)
        self.failures = RateLimit(settings.failures_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        service = scope["app"].state.service
        method, path = scope["method"], scope["path"]
        template = endpoint_of(method, path)
        address = scope["client"][0] if scope.get("client") else ""
        caller, refusal = await self._admit(scope, service.tokens, method, template, address)
        state = scope.setdefault("state", {})
        state["caller"] = caller
        audited = changes_something(method, template) and caller is not None

        async def send_audited(message: Message) -> None:
            nonlocal audited
            if audited and message["type"] == "http.response.start":
                audited = False
                assert caller is not None
                await run_in_threadpool(
                    service.audit.write, caller=caller.id, caller_name=caller.name, address=address, method=method,
                    path=path, status=message["status"], trace_id=scope["state"].get("trace_id", ""),
                )  # fmt: skip
            await send(message)

        await (refusal or self.app)(scope, receive, send_audited)

    async def _admit(
        self, scope: Scope, tokens: TokenStore, method: str, template: str, address: str
    ) -> tuple[Caller | None, Response | None]:
        """Who asks, and how they are refused. No caller and no refusal: the endpoint is for everybody."""
        path, need, headers = scope["path"], needs(method, template), Headers(scope=scope)
        secret, by_cookie = presented(headers)
        if need == "public":
            return None, None
        if secret is None:
            if not self.asks:
                return LOOPBACK, None
            detail = (
                "this service asks for a token: `Authorization: Bearer cinemill_...`; `cinemill token create` makes one"
            )
            return None, problem(401, detail, path, headers={"www-authenticate": 'Bearer realm="cinemill"'})
        caller = await run_in_threadpool(tokens.find, secret)
        if caller is None:
            if seconds := self.failures.wait(address):
                return None, _too_many("wrong tokens", seconds, path)
            wrong = 'Bearer realm="cinemill", error="invalid_token"'
            detail = "this token is not known, has ended or was revoked; `cinemill token list` tells"
            return None, problem(401, detail, path, headers={"www-authenticate": wrong})
        if by_cookie and method not in READING and "origin" not in headers:  # a foreign Origin was refused before
            return caller, problem(403, "a change by cookie needs the Origin header that browsers send", path)
        is_write = changes_something(method, template)
        if seconds := (self.writes if is_write else self.reads).wait(caller.id):
            return caller, _too_many("writes" if is_write else "requests", seconds, path)
        if not caller.may(need):
            has = ", ".join(sorted(caller.scopes))
            return caller, problem(403, f"this needs a token with the scope {need}; this one has {has}", path)
        return caller, None


def _too_many(what: str, seconds: float, path: str) -> Response:
    after = str(max(1, math.ceil(seconds)))
    return problem(429, f"too many {what} in a minute; try again in {after} s", path, headers={"retry-after": after})
