"""A real S3 server on loopback, from a package: SeaweedFS."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

IDENTITIES = """{"identities": [{"name": "tests", "credentials": [{"accessKey": "tests", "secretKey": "not a secret"}],
 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"""


def weed() -> str | None:
    """The server's program, where its package is installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


OPTIONS = (
    "master.port",
    "volume.port",
    "filer.port",
    "s3.port",
    *(f"{part}.port.grpc" for part in ("master", "volume", "filer", "s3")),
)


class S3Server:
    """A server that can be killed and started again on its own data and ports."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.ports = dict(zip(OPTIONS, _free_ports(len(OPTIONS)), strict=True))
        self.environment = {
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "not a secret",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ports['s3.port']}",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "identities.json").write_text(IDENTITIES)

    def start(self) -> None:
        program = weed()
        assert program is not None
        command = [
            program, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
            f"-s3.config={self.folder / 'identities.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20",
            "-s3.port.iceberg=0", "-s3.port.lance=0",  # else two servers on one machine meet on 8181 and 9101
            *(f"-{option}={port}" for option, port in self.ports.items()),
        ]  # fmt: skip
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _wait_until_up(self.environment, self.folder / "log")

    def kill(self) -> None:
        self.process.kill()  # asked politely it takes 25 s, and its data are thrown away
        self.process.wait()


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment by which the standard credential chain finds a server with an empty bucket named "lake"."""
    server = S3Server(folder)
    try:
        server.start()
        yield server.environment
    finally:
        server.kill()


def _wait_until_up(environment: dict[str, str], log: Path) -> None:
    store = pafs.S3FileSystem(
        access_key=environment["AWS_ACCESS_KEY_ID"],
        secret_key=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=environment["AWS_ENDPOINT_URL"],
        region=environment["AWS_REGION"],
        allow_bucket_creation=True,
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            store.create_dir("lake")
            with store.open_output_stream("lake/.ready") as stream:  # buckets come up before volumes do
                stream.write(b"yes")
            store.delete_file("lake/.ready")
            return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
