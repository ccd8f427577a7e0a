"""Long-prompt MetaCLIP from a local folder: the prompt as an encoder sees it that was trained beside pictures."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from models import torchvision_shim
from models.text.tokens import TextTokens
from models.weights import files_sha256, other_weights

CONFIG = "open_clip_config.json"


class MetaCLIP:
    """Texts to the text tower's states after its last norm, [B, S, width]; frozen, in eval mode, float32.

    `folder` is open_clip's: open_clip_config.json and the weights. The token limit is the checkpoint's context length:
    256 for the paper's (fine-tuned from 77 on long prompts, and not public), 77 for published ones. `open_clip` loads on
    first use; the image tower is read and let go.
    """

    name = "metaclip"

    def __init__(self, folder: str | Path, device: str = "cpu"):
        self.folder, self.device = Path(folder), device
        if not (self.folder / CONFIG).is_file():
            raise ValueError(f"{folder} holds no {CONFIG}; pass metaclip:FOLDER, an open_clip folder")
        other_weights(self.folder)
        sizes = json.loads((self.folder / CONFIG).read_text())["model_cfg"]["text_cfg"]
        self.width: int = sizes["width"]
        self.max_tokens: int = sizes.get("context_length", 77)

    @cached_property
    def sha256(self) -> str:
        """Identity of the weights and of the configuration, which decides the activation and the context."""
        return files_sha256(self.folder, CONFIG)

    @torch.no_grad()
    def encode(self, texts: list[str]) -> TextTokens:
        """Tokens with their start and end marks, cut to max_tokens, padded to the longest of the batch.

        Attention is causal, so what follows the end mark changes nothing before it and needs not be computed.
        """
        ids = self._tokenizer(texts).to(self.device)  # [B, max_tokens], 0 after the end mark
        sizes = ids.argmax(-1) + 1  # the end mark is the vocabulary's last entry
        ids = ids[:, : int(sizes.max())]
        mask = torch.arange(ids.shape[1], device=self.device)[None] < sizes[:, None]
        tower = self._tower
        x, allowed = tower._embeds(ids)
        causal = None if allowed is None else allowed[..., : ids.shape[1], : ids.shape[1]]
        states = tower.ln_final(tower.transformer(x, attn_mask=causal))
        return TextTokens(states.float() * mask[..., None], mask)

    @cached_property
    def _tokenizer(self) -> Any:
        torchvision_shim.install()
        import open_clip

        return open_clip.get_tokenizer(f"local-dir:{self.folder}")

    @cached_property
    def _tower(self) -> Any:
        torchvision_shim.install()
        import open_clip

        model = open_clip.create_model(f"local-dir:{self.folder}", force_custom_text=True)
        return model.text.float().eval().requires_grad_(False).to(self.device)
