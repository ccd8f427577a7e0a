"""Clips to latents, once, ahead of training: the cache is filled where it lacks entries and read where it has them."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from curation.clips import UnreadableVideo
from models.autoencoders.tae import TAE
from models.tiling import encode_tiled
from training.data.buckets import Bucket
from training.data.cache import TensorCache, latent_key
from training.data.pixels import read_window, to_signal

TILE_PLAN = "32 frames, no overlap"  # of encode_tiled


@dataclass(frozen=True, kw_only=True)
class LatentStore:
    """Latents of (row, bucket), from the cache or made now. Normalised posterior means, stored in bfloat16."""

    tae: TAE
    tae_sha256: str
    cache: TensorCache

    def key(self, clip: Mapping[str, Any], bucket: Bucket) -> dict[str, Any]:
        """The cache key of one entry."""
        return latent_key(clip, bucket, tae_sha256=self.tae_sha256, compute_dtype="float32", tile_plan=TILE_PLAN)

    def get(self, clip: Mapping[str, Any], bucket: Bucket) -> torch.Tensor:
        """float32 [C, T, H, W], the same whether it was cached or not; raises UnreadableVideo."""
        key = self.key(clip, bucket)
        entry = self.cache.get(key)
        if entry is None:
            entry = {"latent": self._encode(clip, bucket)}
            self.cache.put(key, entry)
        return entry["latent"].float()

    @torch.no_grad()
    def _encode(self, clip: Mapping[str, Any], bucket: Bucket) -> torch.Tensor:
        device = next(self.tae.parameters()).device
        signal = torch.from_numpy(to_signal(read_window(clip, bucket)))[None].to(device)
        return encode_tiled(self.tae, signal)[0].to(torch.bfloat16).cpu()


def latent_shape(bucket: Bucket, channels: int) -> tuple[int, int, int, int]:
    """[C, T, H, W] of a bucket's latents."""
    return channels, -(-bucket.frames // 8), bucket.height // 8, bucket.width // 8


def fill_cache(
    store: LatentStore,
    wanted: list[tuple[Mapping[str, Any], Bucket]],
    progress: Callable[[int, int], None] | None = None,
    threads: int = 2,
) -> dict[str, str]:
    """Make every wanted entry that is missing; returns the clips that do not decode, with the reason."""
    failed: dict[str, str] = {}

    def one(item: tuple[Mapping[str, Any], Bucket]) -> None:
        try:
            store.get(*item)
        except UnreadableVideo as error:
            failed[item[0]["clip_id"]] = str(error)

    with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
        for number, _ in enumerate(pool.map(one, wanted), start=1):
            if progress:
                progress(number, len(wanted))
    return failed
