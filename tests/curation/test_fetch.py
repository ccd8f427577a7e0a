"""Fetching from a real HTTPS server on loopback, and everything that must not be asked for: no connection is made to it."""

import datetime
import hashlib
import ipaddress
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from api.cli import main
from curation.clips.errors import WrongCall
from curation.sources.fetch import fetch, place_of
from curation.sources.web import Fetcher, FetchFailed, Limits, RefusedUrl, is_public
from tests.conftest import SAMPLES

BEE = SAMPLES / "bee_720p.mp4"
NAME = "footage.example"
LOOPBACK = ipaddress.ip_address("127.0.0.1")


class Site(BaseHTTPRequestHandler):
    """A few paths that behave, and many that do not."""

    asked: Counter[str]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        path = self.path
        if path.startswith("/bee"):
            self._send(200, BEE.read_bytes())
        elif path.startswith("/hops/"):
            hops = int(path.removeprefix("/hops/"))
            self._send(302, b"", location=f"/hops/{hops - 1}" if hops else "/bee.mp4")
        elif path.startswith("/to?"):
            self._send(302, b"", location=path.removeprefix("/to?"))
        elif path == "/endless":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(bytes(1 << 16))
        elif path == "/promises-too-much":
            self.send_response(200)
            self.send_header("content-length", str(1 << 40))
            self.end_headers()
        elif path == "/drops":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(bytes(10))
        elif path == "/drips":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self._send(404, b"no")

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of a site called footage.example, which only this test trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("site") / "site.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def site(certificate: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Its URL, and how often each path was asked for."""
    asked: Counter[str] = Counter()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Counted", (Site,), {"asked": asked}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of readers that went away, as they should
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://{NAME}:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_fetcher(site: tuple[str, Counter[str]], certificate: Path) -> Iterator[Callable[..., Fetcher]]:
    """Fetchers that find footage.example, and only that, on this machine."""
    opened = []
    port = int(site[0].rsplit(":", 1)[1])

    def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == NAME else ["169.254.169.254"]

    def open_one(limits: Limits | None = None, **more: Any) -> Fetcher:
        usual: dict[str, Any] = {
            "may_connect": lambda address: address == LOOPBACK,
            "ports": frozenset({port}),
            "resolver": resolver,
            "context": ssl.create_default_context(cafile=str(certificate)),
        }
        opened.append(Fetcher(limits, **usual | more))
        return opened[-1]

    yield open_one
    for fetcher in opened:
        fetcher.__exit__()


def test_a_file_comes_whole_also_over_three_redirects(
    site: tuple[str, Counter[str]], open_fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    told = open_fetcher().fetch(f"{site[0]}/hops/2", tmp_path / "a" / "bee.mp4")
    assert (tmp_path / "a" / "bee.mp4").read_bytes() == BEE.read_bytes()
    assert (told.bytes, told.sha256) == (BEE.stat().st_size, hashlib.sha256(BEE.read_bytes()).hexdigest())
    assert told.url == f"{site[0]}/bee.mp4"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/hops/3", "more than 3 redirects"), ("/nothing", "answers 404"), ("/endless", "at most 100000 bytes"),
        ("/promises-too-much", "has 1099511627776 bytes"), ("/drops", "RemoteProtocolError"), ("/drips", "took more than 1 s"),
    ],
)  # fmt: skip
def test_what_does_not_come_whole_leaves_nothing(
    path: str, says: str, site: tuple[str, Counter[str]], open_fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    fetcher = open_fetcher(Limits(bytes=100_000, seconds=1.0, silence_seconds=5.0))
    with pytest.raises(FetchFailed, match=says):
        fetcher.fetch(f"{site[0]}{path}", tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("https://169.254.169.254/latest/meta-data", "names a port"), ("https://metadata.internal:{port}/", "no public address"),
        ("http://footage.example/bee.mp4", "not https"), ("file:///etc/passwd", "not https"),
        ("https://footage.example:22/", "names a port"), ("https://user@footage.example:{port}/bee.mp4", "without a user"),
        ("//metadata.internal:{port}/x", "no public address"),
    ],
)  # fmt: skip
def test_a_redirect_is_checked_like_the_first_url(
    location: str, says: str, site: tuple[str, Counter[str]], open_fetcher: Callable[..., Fetcher], tmp_path: Path
) -> None:
    where = location.format(port=site[0].rsplit(":", 1)[1])
    with pytest.raises(RefusedUrl, match=says):
        open_fetcher().fetch(f"{site[0]}/to?{where}", tmp_path / "x")
    assert site[1].total() == 1 and list(tmp_path.iterdir()) == []


def test_a_certificate_for_another_name_or_of_nobody_is_refused(
    site: tuple[str, Counter[str]], open_fetcher: Callable[..., Fetcher], tmp_path: Path, certificate: Path
) -> None:
    with pytest.raises(FetchFailed, match="certificate"):
        open_fetcher(context=ssl.create_default_context()).fetch(f"{site[0]}/bee.mp4", tmp_path / "x")
    other = site[0].replace(NAME, "other.example")
    with pytest.raises(FetchFailed, match="certificate"):
        open_fetcher(resolver=lambda host, port: ["127.0.0.1"]).fetch(f"{other}/bee.mp4", tmp_path / "x")
    assert not site[1]


def test_the_address_that_was_checked_is_the_one_that_is_asked(
    site: tuple[str, Counter[str]],
    open_fetcher: Callable[..., Fetcher],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that answers with a good address once and a bad one afterwards."""
    answers = iter([["127.0.0.1"]])
    fetcher = open_fetcher(resolver=lambda host, port: next(answers))
    monkeypatch.setattr("socket.getaddrinfo", _only_numbers)
    fetcher.fetch(f"{site[0]}/bee.mp4", tmp_path / "x")
    mixed = open_fetcher(resolver=lambda host, port: ["127.0.0.1", "10.0.0.1"])
    with pytest.raises(RefusedUrl, match=r"10\.0\.0\.1"):
        mixed.fetch(f"{site[0]}/bee.mp4", tmp_path / "y")


def _only_numbers(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
    """What stands in for the system's resolver: addresses pass, a name fails the test."""
    ipaddress.ip_address(host)
    return [(2, 1, 6, "", (host, port))]


NO_URLS = [
    "http://example.com/x", "ftp://example.com/x", "file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "//example.com/x", "x.mp4", "",
    "https://", "https:///x", "https://u:p@example.com/", "https://example.com@127.0.0.1/", "https://example.com:22/x",
    "https://example.com:x/", "https://exa mple.com/", "https://example.com/a b", "https://example.com/\r\nhost: x", "https://[::1/",
    "https://example.com/\x00", "https://exämple.com/",
]  # fmt: skip
NO_PLACES = [
    "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[2001:db8::1]", "localhost",
]  # fmt: skip


@pytest.mark.parametrize("url", [*NO_URLS, *(f"https://{place}/" for place in NO_PLACES)])
def test_no_connection_is_made_to_what_is_not_public(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr("socket.socket.connect", lambda _, address: tried.append(address))
    with Fetcher() as fetcher, pytest.raises((RefusedUrl, FetchFailed)):
        fetcher.fetch(url, tmp_path / "x")
    assert not tried and list(tmp_path.iterdir()) == []


def test_public_addresses_are_public() -> None:
    for address in ("1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"):
        assert is_public(ipaddress.ip_address(address)), address


def test_a_list_is_fetched_once_and_curation_takes_it_with_what_failed(
    site: tuple[str, Counter[str]],
    open_fetcher: Callable[..., Fetcher],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, asked = site
    given = tmp_path / "given.parquet"
    uris = [f"{url}/bee.mp4", f"{url}/bee-again", f"{url}/nothing.mp4", "https://metadata.internal/x.mp4"]
    pq.write_table(pa.table({"uri": uris, "licence": ["CC0", "CC0", None, "CC-BY"]}), given)
    said: list[tuple[int, int, int]] = []
    out = tmp_path / "footage"
    told = fetch([str(given), uris[0]], out, fetcher=open_fetcher(), progress=lambda *each: said.append(each))
    assert (told.urls, told.fetched, told.there, len(told.failed)) == (4, 2, 0, 2)
    assert said[0] == (0, 4, 0) and said[-1] == (4, 4, told.bytes) and told.bytes == 2 * BEE.stat().st_size
    rows = pq.read_table(told.list).to_pylist()
    assert [row["uri"] for row in rows] == [place_of(uri) for uri in uris] and rows[0]["uri"].endswith(".mp4")
    assert [(out / row["uri"]).is_file() for row in rows] == [True, True, False, False]
    assert [row["source_url"] for row in rows] == uris and rows[3]["licence"] == "CC-BY"
    assert "404" in rows[2]["fetch_error"] and "port" in rows[3]["fetch_error"] and rows[0]["fetch_error"] is None
    again = fetch([str(given)], out, fetcher=open_fetcher())
    assert (again.fetched, again.there, len(again.failed)) == (0, 2, 2)
    assert asked["/bee.mp4"] == 1 and asked["/nothing.mp4"] == 2
    assert main(["curate", told.list, "--out", str(tmp_path / "lake"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["videos"] == 4


def test_wrong_calls_say_what_a_list_needs(tmp_path: Path) -> None:
    taken = tmp_path / "taken.csv"
    taken.write_text("uri,source_url\nhttps://example.com/x,y\n")
    with Fetcher() as fetcher:
        for sources, says in (
            ([], "at least one https"),
            ([str(taken)], "source_url"),
            ([str(tmp_path / "no.csv")], "no list"),
        ):
            with pytest.raises(WrongCall, match=says):
                fetch(sources, tmp_path / "out", fetcher=fetcher)
    assert main(["fetch", "http://example.com/x.mp4", "--out", str(tmp_path / "out")]) == 0
    assert pq.read_table(tmp_path / "out" / "footage.parquet")["fetch_error"].to_pylist()[0].endswith("is not https://")
