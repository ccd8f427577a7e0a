"""Tiny randomly drawn checkpoints in the layouts of the paper's three text encoders."""

import json
from pathlib import Path

import torch

ENCODER_WIDTHS = {
    "ul2": 32,
    "metaclip": 24,
    "byt5": 40,
}  # in the order of the paper's sizes; each another, so that order shows


def save_encoders(root: Path) -> dict[str, Path]:
    """A folder each, by the name that recipes call it."""
    makers = {"ul2": _ul2, "metaclip": _metaclip, "byt5": _byt5}
    return {name: make(root / name, ENCODER_WIDTHS[name]) for name, make in makers.items()}


def _t5(folder: Path, vocab_size: int, width: int) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocab_size, d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _ul2(folder: Path, width: int) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["<pad>", "</s>", "<unk>", "a", "dog", "runs", "FPS", "-", "16"]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return _t5(folder, len(words), width)


def _byt5(folder: Path, width: int) -> Path:
    return _t5(folder, 384, width)


def _metaclip(folder: Path, width: int) -> Path:
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 64},
        "text_cfg": {"context_length": 256, "vocab_size": 49408, "width": width, "heads": 2, "layers": 2},
    }
    folder.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**sizes).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes, "preprocess_cfg": {}}))
    return folder
