"""Content-addressed latents and text embeddings: an entry's name is a hash of everything that made it, so it is never stale."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from training.data.buckets import Bucket, window_times

LATENT_FORMAT = 1  # raise when the same inputs encode to other latents; tests/training holds golden ones
TEXT_FORMAT = 1
FRAME_RULE = "nearest presented frame; crop box; central crop to the aspect; area or bicubic resize"

log = logging.getLogger(__name__)


def latent_key(
    clip: Mapping[str, Any], bucket: Bucket, *, tae_sha256: str, compute_dtype: str, tile_plan: str
) -> dict[str, Any]:
    """Everything a latent depends on. `source_sha256` is the 128 bits a manifest keeps of the file's hash."""
    return {
        "source_sha256": clip["video_id"],
        "stream_index": clip["stream_index"],
        "start_pts": clip["start_pts"],
        "end_pts": clip["end_pts"],
        "time_base": [clip["time_base_numerator"], clip["time_base_denominator"]],
        "bucket": [bucket.frames, bucket.height, bucket.width],
        "times": [round(t, 6) for t in window_times(clip, bucket).tolist()],
        "crop_box": [clip.get(f"crop_{side}") for side in ("left", "top", "width", "height")],
        "frame_rule": FRAME_RULE,
        "tae_sha256": tae_sha256,
        "compute_dtype": compute_dtype,
        "storage_dtype": "bfloat16",
        "tile_plan": tile_plan,
        "latent_format": LATENT_FORMAT,
    }


def text_key(text: str, *, encoder_sha256: str, max_tokens: int) -> dict[str, Any]:
    """Everything a text embedding depends on: the exact final string, tags included."""
    return {"text": text, "encoder_sha256": encoder_sha256, "max_tokens": max_tokens, "text_format": TEXT_FORMAT}


def key_hash(key: Mapping[str, Any]) -> str:
    """BLAKE2b of the key's canonical JSON."""
    canonical = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=20).hexdigest()


class TensorCache:
    """A folder of safetensors files named by their key's hash. Safe to share between runs and to write from many workers."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where this key's entry is, or would be."""
        name = key_hash(key)
        return self.folder / name[:2] / f"{name}.safetensors"

    def __contains__(self, key: Mapping[str, Any]) -> bool:
        """Whether a file has this key's name: cheap. Only `get` tells whether it holds what it should."""
        return self.path(key).exists()

    def get(self, key: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """The entry, or None where there is none or it is not what was written for this key (then it is removed)."""
        path = self.path(key)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:  # safetensors raises its own error for every kind of damage
            log.warning("cache entry %s cannot be read (%s); it is made again", path, error)
            path.unlink(missing_ok=True)
            return None
        if metadata.get("checksum") != _checksum(tensors) or metadata.get("key") != _stored(key):
            log.warning("cache entry %s does not match its checksum or its key; it is made again", path)
            path.unlink(missing_ok=True)
            return None
        return tensors

    def put(self, key: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write an entry: first beside its place, then renamed into it."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"checksum": _checksum(tensors), "key": _stored(key)}
        beside = path.with_suffix(f".{os.getpid()}.{id(tensors):x}.partial")
        beside.write_bytes(save(tensors, metadata=metadata))
        os.replace(beside, path)


def _stored(key: Mapping[str, Any]) -> str:
    """The key as an entry carries it: a file under another entry's name is found out, and people can read what it is."""
    return json.dumps(dict(key), sort_keys=True)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b over names, types, shapes and bytes."""
    digest = hashlib.blake2b(digest_size=20)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
