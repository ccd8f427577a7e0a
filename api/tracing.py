"""Every request has an id that its log lines, its audit line and its answer carry; logs are one JSON object a line."""

import json
import logging
import re
import secrets
import time
from contextvars import ContextVar
from typing import TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth_scopes import endpoint_of
from api.metrics import Metrics

TRACE_ID = re.compile(r"[0-9A-Za-z-]{8,64}")
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""The header of the W3C's Trace Context, version 00."""
trace_id: ContextVar[str] = ContextVar("trace_id", default="")
log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """time (UTC, ISO 8601), level, logger, message, trace_id, what `extra={"fields": ...}` adds, and the exception."""

    def format(self, record: logging.LogRecord) -> str:
        milliseconds = f"{int(record.msecs):03d}Z"
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(record.created)) + milliseconds,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "trace_id": trace_id.get() or None,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None}, default=str)


def log_as_json(stream: TextIO, level: str) -> None:
    """All logs of this process as JSON lines."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _given(headers: Headers) -> str:
    """The caller's id if it has the shape of one, else a new one."""
    parent = TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    if parent is not None:
        return parent.group(1)
    given = headers.get("x-request-id", "")
    return given if TRACE_ID.fullmatch(given) else secrets.token_hex(16)


class Tracing:
    """The outermost gate: names, counts and times every request."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = _given(Headers(scope=scope))
        scope.setdefault("state", {})["trace_id"] = name
        held = trace_id.set(name)
        endpoint = endpoint_of(scope["method"], scope["path"])
        begun = time.perf_counter()

        async def send_traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
                seconds, status = time.perf_counter() - begun, message["status"]
                self.metrics.answered(scope["method"], endpoint, status, seconds)
                caller = scope["state"].get("caller")
                fields = {
                    "method": scope["method"], "path": scope["path"][:300], "status": status,
                    "milliseconds": round(1000 * seconds, 1), "caller": getattr(caller, "id", None),
                }  # fmt: skip
                log.info("answered", extra={"fields": fields})
            await send(message)

        self.metrics.open.inc()
        try:
            await self.app(scope, receive, send_traced)
        finally:
            self.metrics.open.dec()
            trace_id.reset(held)
