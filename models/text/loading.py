"""A text encoder from its name."""

from models.text.bytes import ByteEncoder
from models.text.metaclip import MetaCLIP
from models.text.minilm import MiniLM
from models.text.t5 import T5Encoder
from models.text.tokens import TextEncoder


def text_encoder(name: str, device: str = "cpu") -> TextEncoder:
    """The encoder of that name.

    Here without weights to find: "minilm" (real meaning), "bytes" (every letter), "quoted-bytes" (the letters to be
    drawn). The paper's, from a local folder: "ul2:FOLDER", "byt5:FOLDER" (reads quoted letters only), "metaclip:FOLDER".
    """
    kind, _, folder = name.partition(":")
    match kind, bool(folder):
        case "minilm", False:
            return MiniLM(device=device)
        case "bytes", False:
            return ByteEncoder(device=device)
        case "quoted-bytes", False:
            return ByteEncoder(quoted_only=True, device=device)
        case (("ul2" | "byt5"), True):
            return T5Encoder(kind, folder, device=device)
        case "metaclip", True:
            return MetaCLIP(folder, device=device)
    raise ValueError(
        f"text encoder {name!r} is not known; use minilm, bytes or quoted-bytes, "
        "or a local folder as ul2:FOLDER, byt5:FOLDER or metaclip:FOLDER"
    )
