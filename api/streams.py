"""How many event streams may be open: altogether, and of one owner."""

import threading
from collections import Counter


class Streams:
    """Places for streams. Safe to use from several threads."""

    def __init__(self, most: int, most_per_owner: int):
        self.most = most
        self.most_per_owner = most_per_owner
        self.are_ending = False
        """The service stops: open streams end, and their readers come back with Last-Event-ID."""
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, owner: str) -> bool:
        """A place for this owner, to be given back; False where all are taken."""
        with self._lock:
            if self._open.total() >= self.most or self._open[owner] >= self.most_per_owner:
                return False
            self._open[owner] += 1
            return True

    def give_back(self, owner: str) -> None:
        with self._lock:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]
