"""Lists of footage, .csv or .parquet, are others' files: read in a prison, within bounds, before anything is believed of them."""

from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from curation.clips.errors import UnreadableVideo, WrongCall
from curation.clips.schema import RIGHTS, TABLES
from curation.clips.storage import filesystem, is_local, join, local_copy, local_path, normalise
from curation.prison import Prison

LIST_EXTENSIONS = (".csv", ".parquet")
MAX_BYTES = 256 << 20  # of the file
MAX_ROWS = 1_000_000
MAX_COLUMNS = 1_000
MAX_CELLS = 5_000_000  # a process that holds them as Python values takes about 1 GB
MAX_TABLE_BYTES = 256 << 20  # of what it unfolds to
MEMORY_BYTES = 1 << 30  # of the child
SECONDS = 10.0
BATCH_ROWS = 4096
_OURS = {column.name for column in TABLES["videos"]} - {column.name for column in RIGHTS} - {"uri"}
_WORDS = {column.name for column in RIGHTS}  # words, even where a list has numbers

Entry = tuple[str, dict[str, Any]]


def is_list(source: str) -> bool:
    return source.lower().endswith(LIST_EXTENSIONS)


def read_list(source: str) -> list[Entry]:
    """Absolute URI, and the columns that pass through to `videos`, of every row. Relative URIs are beside the list. Raises `WrongCall`."""
    table = read_columns(source)
    if "uri" not in table.column_names:
        raise WrongCall(f"the list {source} has no column uri; it has {', '.join(table.column_names)[:300]}")
    if ours := sorted(_OURS & set(table.column_names)):
        raise WrongCall(f"the list {source} has a column {ours[0]!r}, which Cinemill writes itself; rename it")
    entries: list[Entry] = []
    for batch in table.to_batches(BATCH_ROWS):
        for row in batch.to_pylist():
            uri = row.pop("uri")
            if not uri:
                raise WrongCall(f"the list {source} has a row without a uri (row {len(entries) + 1})")
            if "\0" in uri:
                raise WrongCall(f"the list {source} has a uri with a NUL character (row {len(entries) + 1})")
            entries.append((_absolute(uri, source), row))
    return entries


def read_columns(source: str) -> pa.Table:
    """All rows of a .csv or .parquet file; columns are numbers, truth values and words, and a `uri` is always words.

    Raises `WrongCall`, within about ten seconds, for whatever is damaged, or unfolds to too much.
    """
    system, path = filesystem(source)
    found = system.get_file_info(path)
    if not found.is_file:
        raise WrongCall(f"no list at {source}")
    if found.size > MAX_BYTES:
        raise WrongCall(f"the list {source} has more than {MAX_BYTES >> 20} MiB; split it")
    prison = Prison(MEMORY_BYTES)
    try:
        with local_copy(source) as copy:
            table: pa.Table = prison.run(_read, copy, seconds=SECONDS)
    except UnreadableVideo as error:
        raise WrongCall(f"cannot read the list {source}: {error}") from error
    except Exception as error:
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise WrongCall(f"cannot read the list {source}: {words}") from error
    finally:
        prison.close()
    return table


def _absolute(uri: str, source: str) -> str:
    """A URI of a list, so that a folder with its list can move."""
    if uri.startswith("/"):
        return str(PurePosixPath(uri))
    if not is_local(uri) or uri.startswith("file:///"):
        return normalise(uri)
    if "://" in uri:
        raise WrongCall(f"the list {source} names {uri[:200]!r}; after file:// comes an absolute path")
    if is_local(source):
        return str(local_path(source).parent / uri)
    return join(source.rsplit("/", 1)[0], uri)


def _read(path: str) -> pa.Table:
    """What runs in the prison. Raises ValueError in words that say what is wrong."""
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    batches, size, rows = [], 0, 0
    for batch in _parquet(path) if path.lower().endswith(".parquet") else _csv(path):
        plain = pa.table([_plain(batch, i) for i in range(batch.num_columns)], names=batch.schema.names)
        rows, size = rows + plain.num_rows, size + plain.nbytes
        _bounded("rows", rows, MAX_ROWS)
        _bounded("cells", rows * plain.num_columns, MAX_CELLS)
        _bounded("bytes when it is unfolded", size, MAX_TABLE_BYTES)
        batches.append(plain)
    if not batches:
        raise ValueError("it has no rows")
    table = pa.concat_tables(batches, promote_options="permissive")
    table.validate(full=True)  # of UTF-8, too
    return table


def _bounded(what: str, number: int, most: int) -> None:
    if number > most:
        raise ValueError(f"it has more than {most:,} {what}; split it")


def _parquet(path: str) -> Any:
    with pq.ParquetFile(path, thrift_string_size_limit=32 << 20, thrift_container_size_limit=1_000_000) as file:
        _bounded("columns", file.metadata.num_columns, MAX_COLUMNS)
        _bounded("rows", file.metadata.num_rows, MAX_ROWS)
        _check_names(file.schema_arrow)
        if not file.metadata.num_rows:
            return
        yield from file.iter_batches(BATCH_ROWS, use_threads=False)


def _csv(path: str) -> Any:
    with pyarrow.csv.open_csv(path, pyarrow.csv.ReadOptions(use_threads=False)) as file:
        _bounded("columns", len(file.schema), MAX_COLUMNS)
        _check_names(file.schema)
        yield from file


def _check_names(schema: pa.Schema) -> None:
    names = schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has the column {twice[0][:100]!r} twice")
    if "uri" in names and not _is_text(schema.field("uri").type):
        raise ValueError(f"its column uri holds {str(schema.field('uri').type)[:100]}, not text")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _plain(batch: pa.RecordBatch, index: int) -> pa.Array:
    """A column as numbers, truth values or words."""
    column, name = batch.column(index), batch.schema.names[index]
    kind = column.type
    if name not in _WORDS and (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return column
    if _is_text(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
