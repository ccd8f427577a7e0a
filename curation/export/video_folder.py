"""A folder that `datasets` loads by `load_dataset("videofolder", data_dir=...)`: clips by split, and their metadata beside them."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation.clips import Snapshot
from curation.clips.storage import join, read_bytes, write_bytes
from curation.export.clips import cut_clips_of


def export_video_folder(snapshot: Snapshot, out: str) -> dict[str, Any]:
    """Write `train/` and `validation/`, each with its clips and a metadata.parquet whose column file_name leads to them.

    Videos are named, never embedded. Returns what snapshot.json says: how many clips each split has, and how many were left out.
    """
    clips, left_out = cut_clips_of(snapshot)
    rows: list[dict[str, Any]] = []
    for clip in clips:
        name = f"{clip.key}{clip.suffix}"
        write_bytes(join(out, clip.facts["split"], name), read_bytes(clip.file))
        rows.append({"file_name": name, "caption": clip.caption} | clip.facts)
    table = _typed(pa.Table.from_pylist(rows))
    counts = {}
    for split in table["split"].unique().sort().to_pylist():
        some = table.filter(pc.equal(table["split"], split))
        sink = pa.BufferOutputStream()
        pq.write_table(some, sink, compression="zstd")
        write_bytes(join(out, split, "metadata.parquet"), sink.getvalue().to_pybytes())
        counts[split] = some.num_rows
    index = {"snapshot": snapshot.name, "clips": counts, "left_out": left_out}
    write_bytes(join(out, "snapshot.json"), (json.dumps(index) + "\n").encode())
    return index


def _typed(table: pa.Table) -> pa.Table:
    """All splits need the same types; a column without any value is text."""
    fields = [pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema]
    return table.cast(pa.schema(fields))
