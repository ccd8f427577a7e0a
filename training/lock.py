"""One run, one folder, one job: a lock that ends with the process that holds it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.world import World

WAIT_SECONDS = 30.0  # after a kill, the lost job's first worker may take a moment to be gone


@contextmanager
def run_lock(out: Path, world: World) -> Iterator[None]:
    """Hold the folder on the first worker while the run goes on; ValueError on all of them where another job has it."""
    file = (out / "lock").open("a") if world.is_first else None
    try:
        taken = True if file is None else _take(file.fileno())
        if not all(world.gather(taken)):
            raise ValueError(f"another job is training in {out}; wait for it, or choose another --out")
        yield
    finally:
        if file is not None:
            file.close()


def _take(number: int) -> bool:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
