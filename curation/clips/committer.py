"""One committer a lake: whoever holds it writes, others wait or are refused. It is let go of when its process ends, however it ends."""

import contextlib
import fcntl
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from curation.clips.errors import WrongCall

PAUSE = 0.05  # seconds between two tries


@contextlib.contextmanager
def committer(lake_uri: str, catalog: sa.Engine, wait: float = 0.0) -> Iterator[None]:
    """Hold the lake. SQLite: a lock on a file beside the catalog; PostgreSQL: an advisory lock of a connection.

    Raises `WrongCall` where another still writes after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    with contextlib.ExitStack() as held:
        if catalog.dialect.name == "sqlite":
            file = held.enter_context(open(Path(str(catalog.url.database)).with_suffix(".committer"), "w"))

            def taken() -> bool:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True
        else:
            connection = held.enter_context(catalog.connect().execution_options(isolation_level="AUTOCOMMIT"))
            key = int.from_bytes(hashlib.sha256(lake_uri.encode()).digest()[:8], signed=True)

            def taken() -> bool:
                return bool(connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": key}))

            held.callback(connection.execute, sa.text("SELECT pg_advisory_unlock(:key)"), {"key": key})
        while not taken():
            if time.monotonic() >= deadline:
                raise WrongCall(f"another run is writing to {lake_uri}; wait for it, or choose another --out")
            time.sleep(PAUSE)
        yield
