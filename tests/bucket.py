"""A real S3 server on loopback, from a package: SeaweedFS."""

import os
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


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment by which the standard credential chain finds a server with an empty bucket named "lake"."""
    program = weed()
    assert program is not None
    ports = [_free_port() for _ in range(4)]
    environment = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "not a secret",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[3]}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "identities.json").write_text(IDENTITIES)
    options = ("master.port", "volume.port", "filer.port", "s3.port")
    command = [
        program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        f"-s3.config={folder / 'identities.json'}", "-master.volumeSizeLimitMB=64", "-volume.max=20",
        *(f"-{option}={port}" for option, port in zip(options, ports, strict=True)),
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_up(environment, folder / "log")
        yield environment
    finally:
        process.kill()  # asked politely it takes 25 s, and its data are thrown away
        process.wait()


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


def _free_port() -> int:
    """A free port whose gRPC twin, 10,000 above, is free too."""
    for port in range(20000 + os.getpid() % 20000, 50000, 7):
        if port in _given:
            continue
        with socket.socket() as one, socket.socket() as twin:
            try:
                one.bind(("127.0.0.1", port))
                twin.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError("no free port")


_given: set[int] = set()
