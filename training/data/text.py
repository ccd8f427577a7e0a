"""Captions to token states, each string once: encoded by every text encoder, kept in memory and in the cache."""

from collections.abc import Sequence

import torch

from models.text.loading import text_encoder
from models.text.tokens import TextEncoder, TextTokens, stack
from training.data.cache import TensorCache, text_key


class CaptionEncoder:
    """Strings to one TextTokens per encoder, batched and padded to the longest of the batch."""

    def __init__(self, encoders: Sequence[TextEncoder], cache: TensorCache | None = None):
        self.encoders, self.cache = encoders, cache
        self.known: dict[tuple[int, str], TextTokens] = {}

    @classmethod
    def of(cls, names: Sequence[str], cache: TensorCache | None = None, device: str = "cpu") -> "CaptionEncoder":
        """From encoder names; raises ValueError for one that is not known or not installed."""
        return cls([text_encoder(name, device=device) for name in names], cache)

    def __call__(self, texts: Sequence[str]) -> list[TextTokens]:
        """One TextTokens [B, S, W] per encoder."""
        return [stack([self._one(number, text) for text in texts]) for number in range(len(self.encoders))]

    def identities(self) -> list[dict[str, object]]:
        """What a checkpoint records of its encoders."""
        return [
            {"name": e.name, "sha256": e.sha256, "max_tokens": e.max_tokens, "width": e.width} for e in self.encoders
        ]

    def _one(self, number: int, text: str) -> TextTokens:
        if (number, text) not in self.known:
            self.known[number, text] = self._look_up(self.encoders[number], text)
        return self.known[number, text]

    def _look_up(self, encoder: TextEncoder, text: str) -> TextTokens:
        if self.cache is None:
            return encoder.encode([text])
        key = text_key(text, encoder_sha256=encoder.sha256, max_tokens=encoder.max_tokens)
        entry = self.cache.get(key)
        if entry is None:
            states = encoder.encode([text]).states[0]
            self.cache.put(key, {"states": states})
            entry = {"states": states}
        states = entry["states"][None].float()
        return TextTokens(states, torch.ones(states.shape[:2], dtype=torch.bool))
