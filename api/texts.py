"""What turns a text into a vector, by the model whose vectors it is compared with."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from curation.content.embedding import EMBEDDER


def _class_words() -> Any:
    import torch  # only a service that is asked for texts pays for it

    from models.content.class_words import ClassWords

    torch.set_num_threads(1)  # a text takes 30 ms of one core; more threads wait for one another where cores are busy
    return ClassWords()


DOORS: Mapping[str, Callable[[], Any]] = {EMBEDDER: _class_words}
"""Embedder, as the embeddings table names it -> makes what has `name` and `read(text)`, as ClassWords has."""


class TextDoors:
    """One door for each embedder, opened when first asked for and kept."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, embedder: str) -> Any:
        """Raises KeyError for an embedder that texts cannot be compared with."""
        with self._lock:
            if embedder not in self._open:
                self._open[embedder] = DOORS[embedder]()
            return self._open[embedder]
