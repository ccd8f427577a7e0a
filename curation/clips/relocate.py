"""After a lake's folder was moved: Iceberg stores absolute paths, in JSON and in Avro, and each of them is written anew."""

import json
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from pyiceberg.avro.file import AvroFile, AvroOutputFile
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.typedef import Record

from curation.clips.errors import WrongCall
from curation.clips.storage import is_local, local_path

FILES = PyArrowFileIO()


def relocate(uri: str) -> tuple[str, int]:
    """Point the local lake that now lies at `uri` to its own files. Returns where it lay before, and how many files were rewritten.

    Rewritten files replace the old ones only when whole; run it again if it was interrupted. Raises `WrongCall`.
    """
    if not is_local(uri) or not (local_path(uri) / "catalog.db").exists():
        raise WrongCall(f"{uri} is not a local lake; objects in a bucket do not move")
    here = local_path(uri)
    engine = sa.create_engine(f"sqlite:///{here / 'catalog.db'}")
    with engine.begin() as catalog:
        pointers = catalog.execute(sa.text("SELECT table_name, metadata_location FROM iceberg_tables")).all()
        if not pointers:
            raise WrongCall(f"{uri} holds no table; nothing to relocate")
        there = pointers[0][1].removeprefix("file://").split("/tables/")[0]
        if there == str(here):
            return there, 0

        def moved(path: str) -> str:
            return path.replace(f"file://{there}/", f"file://{here}/", 1)

        files = [path for path in here.glob("tables/*/*/metadata/*") if path.is_file()]
        rewritten = sum(_rewrite(path, moved) for path in sorted(files, key=_lists_last))
        for name, location in pointers:
            catalog.execute(
                sa.text(
                    "UPDATE iceberg_tables SET metadata_location = :new, previous_metadata_location = NULL WHERE table_name = :name"
                ),
                {"new": moved(location), "name": name},
            )
    return there, rewritten


def _lists_last(path: Path) -> tuple[bool, str]:
    return path.name.startswith("snap-"), path.name  # a manifest list records how long its manifests are


def _rewrite(path: Path, moved: Callable[[str], str]) -> int:
    partial = path.with_suffix(".partial")
    if path.name.endswith(".metadata.json"):
        partial.write_text(json.dumps(_moved_within(json.loads(path.read_text()), moved)))
    elif path.suffix == ".avro":
        _rewrite_avro(path, partial, moved)
    else:
        return 0
    partial.replace(path)
    return 1


def _moved_within(value: object, moved: Callable[[str], str]) -> object:
    if isinstance(value, dict):
        return {key: _moved_within(item, moved) for key, item in value.items()}
    if isinstance(value, list):
        return [_moved_within(item, moved) for item in value]
    return moved(value) if isinstance(value, str) else value


def _rewrite_avro(path: Path, partial: Path, moved: Callable[[str], str]) -> None:
    """Manifest lists name manifests, manifests name data files; both keep everything else."""
    with AvroFile[Record](FILES.new_input(str(path))) as reader:
        schema, metadata = reader.schema, {k: v for k, v in reader.header.meta.items() if k != "avro.schema"}
        records = [_moved_record(record, moved) for record in reader]
    name = "manifest_entry"
    if path.name.startswith("snap-"):
        name = "manifest_file"
        for record in records:  # fields 0 and 1: manifest_path, manifest_length
            record[1] = Path(record[0].removeprefix("file://")).stat().st_size
    with AvroOutputFile[Record](FILES.new_output(str(partial)), schema, name, metadata=metadata) as writer:
        writer.write_block(records)


def _moved_record(record: Record, moved: Callable[[str], str]) -> Record:
    for position in range(len(record)):
        value = record[position]
        if isinstance(value, Record):
            _moved_record(value, moved)
        elif isinstance(value, str):
            record[position] = moved(value)
    return record
