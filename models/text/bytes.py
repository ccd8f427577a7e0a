"""Text as bytes through a fixed random table: no weights to find, every letter visible.

Movie Gen reads the part of a prompt that is to be *drawn* (in quotation marks) with ByT5, a character-level encoder,
because word pieces hide spelling. This stands in its place without ByT5's weights: each byte has a fixed vector, each
position another, nothing is learned, and the transformer's projection and cross-attention must do the reading. With
`quoted_only` it takes ByT5's role exactly and sees only the quoted strings; without, it can be the only encoder there
is. It knows letters and order, and no meaning.
"""

import hashlib
import re

import numpy as np
import torch

from models.layers import sinusoids
from models.text.tokens import TextTokens

END = 256  # the token that closes every text, and all there is of an empty one


class ByteEncoder:
    """Texts to states [B, S, width]: a seeded Gaussian row per byte (nearly orthogonal to others) plus positions."""

    def __init__(self, width: int = 256, max_tokens: int = 128, quoted_only: bool = False, device: str = "cpu"):
        self.name = "quoted-bytes" if quoted_only else "bytes"
        self.width = width
        self.max_tokens = max_tokens
        self.quoted_only = quoted_only
        rows = np.random.RandomState(0).standard_normal((END + 1, width)).astype(np.float32)  # its stream is frozen
        identity = f"bytes-v1 {width} {max_tokens} {quoted_only}".encode() + rows.tobytes()
        self.sha256 = hashlib.sha256(identity).hexdigest()
        self._rows = torch.from_numpy(rows).to(device)
        self._positions = sinusoids(torch.arange(max_tokens), width).to(device)

    def encode(self, texts: list[str]) -> TextTokens:
        """UTF-8 bytes and an end token, cut to max_tokens, padded to the longest of the batch."""
        tokens = [self._tokens(text) for text in texts]
        length = max(len(row) for row in tokens)
        ids = torch.tensor([row + [END] * (length - len(row)) for row in tokens], device=self._rows.device)
        sizes = torch.tensor([len(row) for row in tokens], device=ids.device)
        mask = torch.arange(length, device=ids.device)[None] < sizes[:, None]
        return TextTokens((self._rows[ids] + self._positions[:length]) * mask[..., None], mask)

    def _tokens(self, text: str) -> list[int]:
        text = quoted(text) if self.quoted_only else text
        return [*text.encode()[: self.max_tokens - 1], END]


def quoted(text: str) -> str:
    """What stands in double quotation marks, straight or curly, joined by spaces: quoted('a sign "OPEN"') is 'OPEN'."""
    return " ".join(first or second for first, second in re.findall(r'"([^"]*)"|\u201c([^\u201d]*)\u201d', text))
