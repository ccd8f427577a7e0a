"""Captions to token states, each string once: encoded by every text encoder, kept in memory and in the cache."""

from collections.abc import Sequence
from typing import Any

import torch

from models.text.loading import text_encoder
from models.text.tokens import TextEncoder, TextTokens, stack
from training.data.cache import TensorCache, text_key
from training.data.recent import RecentlyUsed

# Kept in memory by an encoder: 1,300 captions of 128 tokens of 384 numbers, 30 of 512 tokens of 4096. Reading one back
# from the cache costs about a millisecond.
TEXT_MEMORY_BYTES = 256 << 20


class CaptionEncoder:
    """Strings to one TextTokens per encoder, batched and padded to the longest of the batch."""

    def __init__(self, encoders: Sequence[TextEncoder], cache: TensorCache | None = None):
        self.encoders, self.cache = encoders, cache
        self.known: RecentlyUsed[TextTokens] = RecentlyUsed(TEXT_MEMORY_BYTES, lambda tokens: tokens.states.nbytes)

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

    def lengths_at_hand(self, text: str) -> tuple[int, ...] | None:
        """Tokens of each encoder's states of a string, None where it is not in memory."""
        known = [self.known.get((number, text)) for number in range(len(self.encoders))]
        return tuple(tokens.states.shape[1] for tokens in known if tokens is not None) if None not in known else None

    def _one(self, number: int, text: str) -> TextTokens:
        tokens = self.known.get((number, text))
        if tokens is None:
            tokens = self._look_up(self.encoders[number], text)
            self.known.put((number, text), tokens)
        return tokens

    def missing(self, text: str) -> bool:
        """Whether the cache lacks this string for any encoder."""
        return self.cache is not None and not all(self._key(encoder, text) in self.cache for encoder in self.encoders)

    def _key(self, encoder: TextEncoder, text: str) -> dict[str, Any]:
        return text_key(text, encoder_sha256=encoder.sha256, max_tokens=encoder.max_tokens)

    def _look_up(self, encoder: TextEncoder, text: str) -> TextTokens:
        if self.cache is None:
            return encoder.encode([text])
        key = self._key(encoder, text)
        entry = self.cache.get(key)
        if entry is None:
            states = encoder.encode([text]).states[0].cpu()
            self.cache.put(key, {"states": states})
            entry = {"states": states}
        states = entry["states"][None].float()
        return TextTokens(states, torch.ones(states.shape[:2], dtype=torch.bool))
