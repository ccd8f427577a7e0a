"""A text encoder from its name."""

from models.text.bytes import ByteEncoder
from models.text.minilm import MiniLM
from models.text.tokens import TextEncoder


def text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """The encoder called "minilm" (real meaning), "bytes" (every letter) or "quoted-bytes" (the letters to be drawn)."""
    match name:
        case "minilm":
            return MiniLM(device=device)
        case "bytes":
            return ByteEncoder(device=device)
        case "quoted-bytes":
            return ByteEncoder(quoted_only=True, device=device)
    raise ValueError(f"text encoder {name!r} is not known; use minilm, bytes or quoted-bytes")
