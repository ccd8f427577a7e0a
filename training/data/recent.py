"""What was read last, kept in memory up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class RecentlyUsed(Generic[Value]):
    """Values by key; beyond `limit_bytes` those unused for longest are forgotten. Safe to use from many threads."""

    def __init__(self, limit_bytes: int, size: Callable[[Value], int]):
        self.limit_bytes, self.size = limit_bytes, size
        self.values: OrderedDict[Hashable, Value] = OrderedDict()
        self.num_bytes = 0
        self.lock = threading.Lock()

    def get(self, key: Hashable) -> Value | None:
        """The value, which is now the last one used, or None."""
        with self.lock:
            if key not in self.values:
                return None
            self.values.move_to_end(key)
            return self.values[key]

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value; one that alone is over the limit is not kept."""
        with self.lock:
            if key in self.values:
                self.num_bytes -= self.size(self.values.pop(key))
            self.values[key] = value
            self.num_bytes += self.size(value)
            while self.num_bytes > self.limit_bytes:
                _, forgotten = self.values.popitem(last=False)
                self.num_bytes -= self.size(forgotten)
