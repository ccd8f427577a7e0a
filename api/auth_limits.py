"""How much one caller may ask in a minute: a bucket that refills steadily, in memory."""

import threading
import time
from collections import OrderedDict

MOST_CALLERS = 10_000


class RateLimit:
    """At most `per_minute` requests of one caller in any rush, refilled evenly. Safe to use from several threads."""

    def __init__(self, per_minute: int):
        self.capacity = float(per_minute)
        self.per_second = per_minute / 60.0
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, caller: str) -> float:
        """0 if the request may pass, and is counted; else how many seconds until the next one may."""
        now = time.monotonic()
        with self._lock:
            left, at = self._buckets.pop(caller, (self.capacity, now))
            left = min(self.capacity, left + (now - at) * self.per_second)
            passes = left >= 1.0
            self._buckets[caller] = (left - 1.0 if passes else left, now)
            if len(self._buckets) > MOST_CALLERS:
                self._buckets.popitem(last=False)
        return 0.0 if passes else (1.0 - left) / self.per_second
