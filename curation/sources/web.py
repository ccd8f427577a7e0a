"""Bytes from the web: https, public addresses only, each checked and then connected to as it is, redirects checked again, capped."""

import contextlib
import hashlib
import ipaddress
import os
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import httpcore

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
REDIRECTS = 3
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
CANNOT = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, ssl.SSLError, OSError)


class RefusedUrl(ValueError):
    """A URL that is never asked for: its scheme, its words, or the address behind its name."""


class FetchFailed(Exception):
    """Nothing came, or too much of it, or too slowly."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one file."""

    bytes: int = 20 << 30
    seconds: float = 3600.0
    silence_seconds: float = 30.0  # without a byte, and for a connection


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What was written, and where it came from in the end."""

    bytes: int
    sha256: str
    url: str


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could ask this address: no private, loopback, link-local (cloud metadata) or shared one."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None:
            inside = address.teredo[1]
        if address in NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(inside)
    return address.is_global and not (address.is_multicast or address.is_reserved)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class PinnedNetwork(httpcore.NetworkBackend):
    """Connects to the address that was checked, so that a name which answers otherwise the second time gains nothing."""

    def __init__(self, may_connect: Callable[[Address], bool], resolver: Callable[[str, int], list[str]]):
        self.may_connect = may_connect
        self.resolver = resolver
        self.network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = [ipaddress.ip_address(found.partition("%")[0]) for found in self.resolver(host, port)]
        except (OSError, UnicodeError) as error:
            raise FetchFailed(f"no address of {host} is known: {error}") from error
        for address in addresses:
            if not self.may_connect(address):
                raise RefusedUrl(f"{host} is {address}, which is no public address")
        failed: Exception | None = None
        for address in addresses:
            try:
                return self.network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failed = error
        raise failed or FetchFailed(f"no address of {host} is known")


class Fetcher:
    """Safe to use from several threads; close it, or use it as a context.

    may_connect, ports, resolver and context are what a test with a server of its own has to change. Proxies of the environment are
    not used: behind one, addresses could not be checked.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        may_connect: Callable[[Address], bool] = is_public,
        ports: frozenset[int] = frozenset({443}),
        resolver: Callable[[str, int], list[str]] = resolve,
        context: ssl.SSLContext | None = None,
    ):
        self.limits = limits or Limits()
        self.ports = ports
        self._pool = httpcore.ConnectionPool(
            ssl_context=context or ssl.create_default_context(), network_backend=PinnedNetwork(may_connect, resolver)
        )

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def fetch(self, url: str, target: Path) -> Fetched:
        """Write what `url` gives to `target`, whole or not at all. Raises RefusedUrl, FetchFailed."""
        deadline = time.monotonic() + self.limits.seconds
        for _ in range(REDIRECTS + 1):
            self._check(url)
            with self._asked(url) as answer:
                moved = dict(answer.headers).get(b"location") if 300 <= answer.status < 400 else None
                if moved is not None:
                    url = urljoin(url, moved.decode("latin-1"))
                    continue
                if answer.status != 200:
                    raise FetchFailed(f"{url} answers {answer.status}")
                return self._write(answer, url, target, deadline)
        raise FetchFailed(f"more than {REDIRECTS} redirects, the last to {url}")

    def _check(self, url: str) -> None:
        parts = _parts(url)
        if parts.scheme != "https":
            raise RefusedUrl(f"{url[:300]!r} is not https://")
        if not parts.hostname or "@" in parts.netloc or not url.isascii() or any(ord(c) <= 32 for c in url):
            raise RefusedUrl(f"{url[:300]!r} must be https://HOST/PATH, in ASCII, without a user, a password or spaces")
        if (parts.port or 443) not in self.ports:
            raise RefusedUrl(f"{url[:300]!r} names a port other than {', '.join(map(str, sorted(self.ports)))}")

    @contextlib.contextmanager
    def _asked(self, url: str) -> Iterator[httpcore.Response]:
        silence = self.limits.silence_seconds
        timeouts = {"connect": silence, "read": silence, "write": silence, "pool": silence}
        headers = [(b"user-agent", b"cinemill"), (b"accept", b"*/*"), (b"accept-encoding", b"identity")]
        try:
            with self._pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as answer:
                yield answer
        except CANNOT as error:
            raise FetchFailed(f"{url}: {type(error).__name__}: {error}") from error

    def _write(self, answer: httpcore.Response, url: str, target: Path, deadline: float) -> Fetched:
        promised = dict(answer.headers).get(b"content-length", b"")
        if promised.isdigit() and int(promised) > self.limits.bytes:
            raise FetchFailed(f"{url} has {int(promised)} bytes; at most {self.limits.bytes} are taken")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
        digest, size = hashlib.sha256(), 0
        try:
            with partial.open("wb") as file:
                for block in answer.iter_stream():
                    size += len(block)
                    if size > self.limits.bytes:
                        raise FetchFailed(f"{url} does not end; at most {self.limits.bytes} bytes are taken")
                    if time.monotonic() > deadline:
                        raise FetchFailed(f"{url} took more than {self.limits.seconds:.0f} s; {size} bytes had come")
                    digest.update(block)
                    file.write(block)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return Fetched(bytes=size, sha256=digest.hexdigest(), url=url)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise RefusedUrl(f"{url[:300]!r} is no URL: {error}") from None
    return parts
