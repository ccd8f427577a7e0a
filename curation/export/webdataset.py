"""WebDataset: tar shards of `{key}.mp4`, `{key}.json`, `{key}.txt`, in the order of clip_id, with an index of the shards."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any

from curation.clips import Snapshot
from curation.clips.storage import join, read_bytes, write_bytes
from curation.export.clips import CutClip, cut_clips_of

INDEX = "index.json"
END = 10_240  # bytes: a tar is filled up to a multiple of these


def export_webdataset(snapshot: Snapshot, out: str, shard_bytes: int = 1 << 30) -> dict[str, Any]:
    """Write the kept clips to `out` and return the index: snapshot, and name, clips, bytes and SHA-256 of every shard.

    The same snapshot gives the same bytes. A shard is closed before it would grow beyond `shard_bytes`, and is in memory until it
    is written; the index comes last.
    """
    clips, left_out = cut_clips_of(snapshot)
    shards: list[dict[str, Any]] = []
    for number, group in enumerate(_groups(clips, shard_bytes)):
        name, data = f"{snapshot.dataset}-{number:06d}.tar", _tar(group)
        write_bytes(join(out, name), data)
        shards.append(
            {"name": name, "clips": len(group), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    index = {
        "snapshot": snapshot.name,
        "clips": sum(shard["clips"] for shard in shards),
        "left_out": left_out,
        "shards": shards,
    }
    write_bytes(join(out, INDEX), (json.dumps(index, indent=1) + "\n").encode())
    return index


Parts = dict[str, bytes]  # name in the tar -> content


def _groups(clips: Iterable[CutClip], shard_bytes: int) -> Iterator[list[Parts]]:
    """Clips that fit into one shard together; one that is larger than a shard has its own."""
    group: list[Parts] = []
    size = END
    for clip in clips:
        parts = {
            f"{clip.key}{clip.suffix}": read_bytes(clip.file),
            f"{clip.key}.json": json.dumps(clip.facts, sort_keys=True).encode(),
            f"{clip.key}.txt": clip.caption.encode(),
        }
        own = sum(512 + -(-len(data) // 512) * 512 for data in parts.values())
        if group and size + own > shard_bytes:
            yield group
            group, size = [], END
        group.append(parts)
        size += own
    if group:
        yield group


def _tar(group: Iterable[Parts]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for parts in group:
            for name, data in parts.items():
                entry = tarfile.TarInfo(name)  # owner and time stay 0
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
