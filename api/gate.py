"""The gate every request passes: known host, own origin, bounded body, and headers that keep a browser strict."""

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth_scopes import READING
from api.problems import crashed, problem
from api.settings import Settings

MAX_JSON_DEPTH = 32

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def _host_name(authority: str) -> str:
    """`127.0.0.1:8000` -> `127.0.0.1`; `[::1]:8000` -> `::1`; nonsense -> the empty string."""
    try:
        return (urlsplit(f"//{authority}").hostname or "").lower()
    except ValueError:
        return ""


class Gate:
    """Pure ASGI, so that streams and files pass through it unbuffered."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app = app
        self.hosts = settings.answered_hosts
        self.max_body_bytes = settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        started = False

        async def send_strict(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        read = 0

        async def receive_bounded() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_body_bytes:
                raise HTTPException(413, self._limit())  # passes through FastAPI to our handler
            return message

        refusal = self._refusal(scope)
        if refusal is not None:
            status, detail = refusal
            await problem(status, detail, scope["path"])(scope, receive, send_strict)
            return
        try:
            await self.app(scope, receive_bounded, send_strict)
        except HTTPException as error:  # a body that grew too large before any route was asked
            await problem(error.status_code, str(error.detail), scope["path"])(scope, receive, send_strict)
        except Exception as error:
            answer = crashed(Request(scope), error)
            if started:
                raise
            await answer(scope, receive, send_strict)

    def _limit(self) -> str:
        return f"a request may have at most {self.max_body_bytes:,} bytes"

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _host_name(host) not in self.hosts:
            return 421, f"this service does not answer for the host {host[:100]!r}; CINEMILL_ALLOWED_HOSTS adds a name"
        origin = headers.get("origin")
        if scope["method"] not in READING and origin is not None:
            try:
                same = urlsplit(origin).netloc.lower() == host.lower()
            except ValueError:
                same = False
            if not same:
                return 403, "requests that change something must come from this service's own page"
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400, "the Content-Length header is not a number"
        if int(length[:20]) > self.max_body_bytes:
            return 413, self._limit()
        return None


_OUTSIDE_STRINGS = re.compile(rb'"(?:[^"\\\\]|\\\\.)*"?|[\[\]{}]', re.DOTALL)


def json_depth(body: bytes) -> int:
    """How deep brackets nest outside of strings, at most `MAX_JSON_DEPTH + 1`; the body need not be JSON."""
    depth = deepest = 0
    for found in _OUTSIDE_STRINGS.finditer(body):
        sign = found.group()
        if sign in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_JSON_DEPTH:
                break
        elif sign in (b"]", b"}"):
            depth -= 1
    return deepest


class Bodies:
    """Looks at a whole body before any route parses it: text in UTF-8, not nested deeper than anything we ask for."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # the caller left
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        if detail := _unreadable(body):
            await problem(422, detail, scope["path"])(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)


def _unreadable(body: bytes) -> str | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8 at byte {error.start}; send JSON in UTF-8"
    if json_depth(body) > MAX_JSON_DEPTH:
        return f"the body nests deeper than {MAX_JSON_DEPTH} levels; nothing here asks for that"
    return None
