"""What a text encoder returns, and what every text encoder promises."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextTokens:
    """States [B, S, W] of up to S tokens a prompt; mask [B, S] is True where there is a token and False at padding."""

    states: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.states.ndim != 3 or self.states.shape[:2] != self.mask.shape or self.mask.dtype != torch.bool:
            raise ValueError(
                f"states {tuple(self.states.shape)} and mask {tuple(self.mask.shape)} {self.mask.dtype} do not belong "
                "together; they are [B, S, W] and bool [B, S]"
            )

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "TextTokens":
        """Both tensors on `device`, the states in `dtype`."""
        return TextTokens(self.states.to(device, dtype), self.mask.to(device))

    def padded(self, length: int) -> "TextTokens":
        """The same tokens with padding up to `length`."""
        extra = length - self.states.shape[1]
        if extra < 0:
            raise ValueError(f"{self.states.shape[1]} tokens do not fit into {length}")
        pad = torch.nn.functional.pad
        return TextTokens(pad(self.states, (0, 0, 0, extra)), pad(self.mask, (0, extra), value=False))


class TextEncoder(Protocol):
    """A frozen encoder. Even the empty string gives at least one token, so that dropped prompts can be attended to."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def sha256(self) -> str:
        """Identity of the weights, recorded in caches and checkpoints."""
        ...

    def encode(self, texts: list[str]) -> TextTokens: ...


def stack(samples: list[TextTokens]) -> TextTokens:
    """Batches of one encoder's tokens joined along B, padded to the longest."""
    length = max(tokens.states.shape[1] for tokens in samples)
    samples = [tokens.padded(length) for tokens in samples]
    return TextTokens(torch.cat([s.states for s in samples]), torch.cat([s.mask for s in samples]))
