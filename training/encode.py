"""Clips to latents, once: the cache is filled where it lacks entries and read where it has them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from training.data.plan import Plan, final_caption
from training.evaluation.validation import choose_clips
from training.recipes import VideoRecipe

TILE_PLAN = "32 frames, no overlap"  # of encode_tiled
Entry = tuple[Mapping[str, Any], Bucket]  # a clip's row and the shape it is read in


@dataclass(frozen=True, kw_only=True)
class LatentStore:
    """Latents of (row, bucket), from the cache or made now. Normalised posterior means, stored in bfloat16."""

    tae: TAE
    tae_sha256: str
    cache: TensorCache

    def key(self, clip: Mapping[str, Any], bucket: Bucket) -> dict[str, Any]:
        """The cache key of one entry."""
        return entry_key(clip, bucket, self.tae_sha256)

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


def entry_key(clip: Mapping[str, Any], bucket: Bucket, tae_sha256: str) -> dict[str, Any]:
    """The cache key of one latent of the autoencoder with these weights, which need not be loaded."""
    return latent_key(clip, bucket, tae_sha256=tae_sha256, compute_dtype="float32", tile_plan=TILE_PLAN)


def latent_shape(bucket: Bucket, channels: int) -> tuple[int, int, int, int]:
    """[C, T, H, W] of a bucket's latents."""
    return channels, -(-bucket.frames // 8), bucket.height // 8, bucket.width // 8


def planned_entries(plan: Plan) -> list[Entry]:
    """Every latent that the steps of a plan read."""
    rows = [(plan.rows[row], bucket) for row, bucket in sorted(plan.bucket_of.items())]
    wanted = rows if plan.batch.videos else []
    if plan.batch.images:
        wanted = wanted + [(row, bucket.image()) for row, bucket in rows]
    return wanted


def held_out_entries(rows: Sequence[Mapping[str, Any]], recipe: VideoRecipe) -> list[Entry]:
    """Every latent of held-out rows that a run reads: those of its validations, and all of them when it has finished."""
    chosen = choose_clips(rows, recipe, recipe.validate_clips) if recipe.validate_every else []
    at_the_end = [(row, bucket) for row in rows if not isinstance(bucket := recipe.assign(row), str)]
    known = {(row["clip_id"], bucket): (row, bucket) for row, bucket in [*chosen, *at_the_end]}
    return list(known.values())


def captions_of(entries: Iterable[Entry], recipe: VideoRecipe) -> list[str]:
    """The exact strings that the text encoders read for these entries, and the empty one that dropout reads."""
    return sorted({"", *(final_caption(row, bucket, recipe.fps_tag) for row, bucket in entries)})


def fill_cache(
    store: LatentStore,
    wanted: Sequence[Entry],
    progress: Callable[[int, int], None] | None = None,
    threads: int = 2,
) -> dict[str, str]:
    """Make every wanted entry that is not there; returns the clips that could not be read, with the reason.

    What is there is not read: that happens, with its checksum, when training asks for it.
    """
    missing = [entry for entry in wanted if store.key(*entry) not in store.cache]
    failed: dict[str, str] = {}

    def one(entry: Entry) -> None:
        try:
            store.get(*entry)
        except UnreadableVideo as error:
            failed[entry[0]["clip_id"]] = str(error)

    with ThreadPoolExecutor(threads, thread_name_prefix="encode") as pool:
        for number, _ in enumerate(pool.map(one, missing), start=1):
            if progress:
                progress(number, len(missing))
    return failed
