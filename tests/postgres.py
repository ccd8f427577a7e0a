"""A real PostgreSQL on loopback for tests, from the binaries of this machine; as another user, since it refuses root."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDERS = ("/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/17/bin")


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl, the version's own folder first."""
    for folder in (*FOLDERS, *os.environ.get("PATH", "").split(":")):
        if Path(folder, "initdb").exists() and Path(folder, "postgres").exists():
            return Path(folder)
    return None


def unprivileged() -> list[str] | None:
    """What to put before a command so that it does not run as root; None where that cannot be done."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        return None
    user = next((u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody")), None)
    return user and ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a server with nothing in it, which is stopped and deleted in the end."""
    folder, found, before = tempfile.mkdtemp(prefix="postgres-"), binaries(), unprivileged()
    assert found is not None and before is not None
    if before:
        os.chown(folder, int(before[1].split("=")[1]), int(before[2].split("=")[1]))
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    data, quiet = f"{folder}/data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": "/"}
    make = [*before, f"{found}/initdb", "-D", data, "-U", "cinemill", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(make, check=True, **quiet)  # type: ignore[call-overload]
    server = subprocess.Popen(
        [*before, f"{found}/postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder], **quiet
    )  # type: ignore[call-overload]
    try:
        until = time.monotonic() + 60
        while subprocess.run([f"{found}/pg_isready", "-h", "127.0.0.1", "-p", str(port), "-q"], check=False).returncode:
            assert server.poll() is None and time.monotonic() < until, "PostgreSQL did not start"
            time.sleep(0.1)
        yield f"postgresql://cinemill@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()  # waits for clients
        server.kill() if not _ended(server) else None
        shutil.rmtree(folder, ignore_errors=True)


def _ended(server: "subprocess.Popen[bytes]") -> bool:
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True
