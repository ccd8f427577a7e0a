"""Which failures are worth another attempt, and when."""

import random
import re
import signal
from typing import Literal

from api.settings import Settings

ErrorClass = Literal["user", "infrastructure", "failure"]
UNKNOWN_EXIT = -1
"""What an executor answers for work that is over but whose exit status nobody can tell any more."""
LOST_MACHINES = (  # what Ray, sockets and a busy lake say when the work itself did nothing wrong
    "ActorDiedError", "ActorUnavailableError", "NodeDiedError", "WorkerCrashedError", "ObjectLostError", "OwnerDiedError",
    "OutOfMemoryError", "RaySystemError", "RpcError", "NodePreemptedError", "ConnectionError", "ConnectionResetError",
    "ConnectionRefusedError", "BrokenPipeError", "TimeoutError", "CommitFailedException", "CommitStateUnknownException",
    "another run is writing to",
    "node timed out during startup",
)  # fmt: skip
RAY_LOG = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+\t[A-Z]+ \w+\.py:\d+ -- .*")
"""A line that Ray's own code logs; ours ends with a line of its own, `cinemill: ...`, or a traceback."""
KILLED = (130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGKILL, 128 + signal.SIGTERM)


def classify(status: int, complaint: str) -> ErrorClass:
    """user: the request is wrong, and would be again. infrastructure: it was killed, or machines failed. failure: our code raised.

    status: of the process, negative for a signal. complaint: the end of what it wrote to stderr.
    """
    if status == UNKNOWN_EXIT or status in KILLED or any(name in complaint for name in LOST_MACHINES):
        return "infrastructure"
    said = [line for line in complaint.splitlines() if line.strip() and not RAY_LOG.fullmatch(line)]
    if status == 1 and not said:  # Ray's core ends a process without a word when its node has died; ours always say why
        return "infrastructure"
    return "user" if status == 2 else "failure"


def retry_delay(attempts: int, settings: Settings, draw: random.Random) -> float | None:
    """Seconds until the next attempt: doubled each time, and a random half of it, so that many do not come back at once. None: no more."""
    if attempts >= settings.max_attempts:
        return None
    longest = min(settings.retry_seconds_max, settings.retry_seconds * 2.0 ** (attempts - 1))
    return longest * draw.uniform(0.5, 1.0)
