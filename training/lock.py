"""One run, one folder, one job: a lock that ends with the process that holds it."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the service asks who trains, and does without torch
    from training.world import World

WAIT_SECONDS = 120.0  # a node that died may keep its lock on a network disk for a lease of 90 s
log = logging.getLogger(__name__)


class AnotherJob(RuntimeError):
    """Somebody else trains in this folder."""


def check_free(out: Path) -> None:
    """ValueError where a job is training in this folder now."""
    if not (out / "lock").exists():
        return
    with (out / "lock").open("a") as file:
        if not _take(file.fileno(), fcntl.LOCK_SH):  # those who only ask do not stand in one another's way
            raise ValueError(f"another job is training in {out}; wait for it, or choose another --out")


@contextmanager
def run_lock(out: Path, world: "World") -> Iterator[None]:
    """Hold the folder on the first worker while the run goes on; AnotherJob on all of them where it stays taken."""
    file = (out / "lock").open("a") if world.is_first else None
    try:
        until = time.monotonic() + WAIT_SECONDS
        taken = file is None or _take(file.fileno())
        while not taken and file is not None and time.monotonic() < until:
            time.sleep(0.2)
            taken = _take(file.fileno())
        if not all(world.gather(taken)):
            raise AnotherJob(f"another job is training in {out}; wait for it, or choose another --out")
        yield
    finally:
        if file is not None:
            file.close()


def _take(number: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(number, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # a disk without locks
        log.warning("the run's folder cannot be locked (%s): see to it that one job trains in it", error)
    return True
