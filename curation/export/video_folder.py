"""A folder that `datasets` loads by `load_dataset("videofolder", data_dir=...)`: clips by split, and their metadata beside them."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.csv

from curation.clips import Snapshot
from curation.clips.storage import join, read_bytes, write_bytes
from curation.export.clips import cut_clips_of


def export_video_folder(snapshot: Snapshot, out: str) -> dict[str, Any]:
    """Write `train/` and `validation/`, each with its clips and a metadata.csv whose column file_name leads to them.

    Videos are named, never embedded. Returns what snapshot.json says: how many clips each split has.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    clips, left_out = cut_clips_of(snapshot)
    for clip in clips:
        name = f"{clip.key}{clip.suffix}"
        split = clip.facts["split"]
        write_bytes(join(out, split, name), read_bytes(clip.file))
        rows.setdefault(split, []).append({"file_name": name, "caption": clip.caption} | clip.facts)
    for split, some in rows.items():
        sink = pa.BufferOutputStream()
        pyarrow.csv.write_csv(pa.Table.from_pylist(some), sink)
        write_bytes(join(out, split, "metadata.csv"), sink.getvalue().to_pybytes())
    counts = {split: len(some) for split, some in sorted(rows.items())}
    index = {"snapshot": snapshot.name, "clips": counts, "left_out": left_out}
    write_bytes(join(out, "snapshot.json"), (json.dumps(index) + "\n").encode())
    return index
