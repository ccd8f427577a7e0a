"""The paper's two T5-type encoders from a local folder: UL2 reads the prompt, ByT5 the letters that are to be drawn."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from models import torchvision_shim
from models.text.bytes import quoted
from models.text.tokens import TextTokens
from models.weights import files_sha256, other_weights

PAD, END = 0, 1  # of every T5 vocabulary
FIRST_BYTE = 3  # ByT5's vocabulary: padding, end, unknown, then the 256 bytes


class T5Encoder:
    """Texts to the encoder's last states [B, S, width]; frozen, in eval mode, in the checkpoint's own precision.

    `folder` is a transformers folder: config.json, the weights, and tokenizer.json (ByT5 needs none). Of an
    encoder-decoder checkpoint the encoder alone is loaded (UL2: 10 of 20 B parameters). `transformers` and `tokenizers`
    load on first use. The paper gives no token limits; 512 and 100 are the open reimplementation's (mindone).
    """

    def __init__(self, name: str, folder: str | Path, device: str = "cpu"):
        self.name = name
        self.max_tokens = {"ul2": 512, "byt5": 100}[name]
        self.folder, self.device = Path(folder), device
        needed = ["config.json"] if name == "byt5" else ["config.json", "tokenizer.json"]
        if missing := [file for file in needed if not (self.folder / file).is_file()]:
            raise ValueError(f"{folder} holds no {' and no '.join(missing)}; pass {name}:FOLDER, a transformers folder")
        other_weights(self.folder)
        self.width: int = json.loads((self.folder / "config.json").read_text())["d_model"]

    @cached_property
    def sha256(self) -> str:
        """Identity of the weights and the tokenizer."""
        return files_sha256(self.folder, "tokenizer.json")

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextTokens:
        """Tokens and an end mark, cut to max_tokens, padded to the longest of the batch; float32, 0 at padding."""
        rows = [self._tokens(text) for text in texts]
        length = max(len(row) for row in rows)
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows], device=self.device)
        sizes = torch.tensor([len(row) for row in rows], device=self.device)
        mask = torch.arange(length, device=self.device)[None] < sizes[:, None]
        states = self._encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return TextTokens(states.float() * mask[..., None], mask)

    def _tokens(self, text: str) -> list[int]:
        if self.name == "byt5":
            ids = [FIRST_BYTE + byte for byte in quoted(text).encode()]
        else:
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [*ids[: self.max_tokens - 1], END]

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    @cached_property
    def _encoder(self) -> Any:
        torchvision_shim.install()
        from transformers import T5EncoderModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would list the decoder's weights, which we leave out
        logging.disable_progress_bar()
        model = T5EncoderModel.from_pretrained(self.folder, local_files_only=True, dtype="auto")
        return model.eval().requires_grad_(False).to(self.device)
