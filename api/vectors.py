"""The clips of a snapshot whose vectors are nearest to one, exactly: a matrix product for each batch, and a running best."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from api.query import TooSlow
from api.settings import Settings
from api.tables import TableCache, Views
from curation.clips import Snapshot
from curation.clips.schema import TABLES, arrow_schema
from curation.clips.storage import filesystem

MOST_VECTORS = 5_000_000
"""Rows that an exact search goes through. Their ids take 40 bytes each of memory; reading their vectors 16 CPU-s a million."""
STREAMED = 4096  # vectors of a batch read from a file: 21 MB of 1,280 numbers
HELD = 65_536  # vectors of a batch that is in memory
READ_BYTES = 8 * 2**20  # what is fetched from a file or a bucket at a time
DECIMALS = 6  # of a score; what a product of floats rounds differently lies beyond
AT_A_TIME = 2

Batch = tuple[np.ndarray, np.ndarray]
"""Places int64 [B] among the rows of the embeddings table, and their vectors float32 [B, D]."""


class TooManyVectors(Exception):
    """More than an exact search goes through."""


@dataclass(frozen=True)
class Nearest:
    """compared: how many clips were. found: (clip_id, score), best first, equal scores by clip_id."""

    compared: int
    found: list[tuple[str, float]]


class VectorSearch:
    """Searches vectors of snapshots. Those of a snapshot stay in memory if they take no more than `vector_cache_bytes`
    together; else every search reads the files, a batch at a time."""

    def __init__(self, views: Views, settings: Settings):
        self.views = views
        self.seconds = settings.query_seconds
        self._rows = TableCache(settings.table_cache_bytes)
        self._matrices = TableCache(settings.vector_cache_bytes)
        self._places = threading.BoundedSemaphore(AT_A_TIME)

    def embedders(self, snapshot: Snapshot) -> Counter[str]:
        """Which models made vectors of the clips of this snapshot, and of how many. Raises TooManyVectors."""
        rows = self._held_rows(snapshot)
        mine = rows.filter(rows["kept"].is_valid())
        counted = mine["embedder"].value_counts().to_pylist()
        return Counter({each["values"]: each["counts"] for each in counted if each["counts"]})

    def vectors_of(self, snapshot: Snapshot, clip_id: str) -> dict[str, np.ndarray]:
        """Embedder -> vector float32 [D] of one clip."""
        with self.views.engine.cursor() as reader:
            files = reader.files(snapshot.files("embeddings"), arrow_schema(TABLES["embeddings"]))
            found = reader.rows(f"SELECT embedder, embedding FROM {files} WHERE clip_id = ?", [clip_id])
        return {embedder: np.array(vector, np.float32) for embedder, vector in found if vector}

    def nearest(
        self, snapshot: Snapshot, embedder: str, query: np.ndarray, count: int, *, kept_only: bool, without: str = ""
    ) -> Nearest:
        """The `count` clips whose vectors have the largest dot product with `query` float32 [D].

        kept_only: of the kept clips alone. without: a clip that is left out. Raises TooManyVectors, and TooSlow after
        `query_seconds`; vectors that go into memory are read to the end first, so that the next search has them.
        """
        until = time.monotonic() + self.seconds
        if not self._places.acquire(timeout=self.seconds):
            raise TooSlow
        try:
            rows = self._held_rows(snapshot)
            ids = rows["clip_id"]
            kept = rows["kept"].fill_null(False).to_numpy()
            best = _Best(count)
            for places, matrix in self._batches(snapshot, rows, embedder, len(query)):
                if time.monotonic() > until:
                    raise TooSlow
                scores = np.round((matrix @ query).astype(np.float64), DECIMALS)
                usable = np.isfinite(scores)
                if kept_only:
                    usable &= kept[places]
                best.add(places[usable], scores[usable], ids, without)
            return Nearest(best.seen, best.found)
        finally:
            self._places.release()

    def _held_rows(self, snapshot: Snapshot) -> pa.Table:
        """clip_id, embedder and kept (null: the clip is of no part of this data set) of the embeddings table, in its files' order."""
        return self._rows.remember(snapshot, "vectors", lambda: self._read_rows(snapshot))

    def _read_rows(self, snapshot: Snapshot) -> pa.Table:
        schema = pa.schema([("clip_id", pa.string()), ("embedder", pa.dictionary(pa.int32(), pa.string()))])
        parts, total = [schema.empty_table()], 0
        for uri in snapshot.files("embeddings"):
            with _opened(uri) as file:
                total += file.metadata.num_rows
                if total > MOST_VECTORS:
                    raise TooManyVectors
                parts.append(file.read(schema.names, use_threads=False).cast(schema))
        rows = pa.concat_tables(parts).unify_dictionaries()
        view = self.views.open(snapshot, "clips")
        with self.views.engine.cursor() as reader:
            decided = reader.table(
                f"SELECT d.clip_id, coalesce(d.fate = 'kept', false) AS kept {view.joined(reader, 'clip', [])}"
            )
        place = pc.index_in(rows["clip_id"], value_set=decided["clip_id"].cast(pa.string()))
        return rows.append_column("kept", decided["kept"].take(place))

    def _batches(self, snapshot: Snapshot, rows: pa.Table, embedder: str, width: int) -> Iterator[Batch]:
        """The vectors of this model and data set."""
        wanted = pc.and_(pc.equal(rows["embedder"], embedder), rows["kept"].is_valid()).fill_null(False).to_numpy()
        size = int(wanted.sum()) * width * 4
        if size > self._matrices.limit_bytes:
            yield from _streamed(snapshot, wanted, width)
            return

        def load() -> pa.Table:
            places = np.empty(int(wanted.sum()), np.int64)
            matrix = np.empty((len(places), width), np.float32)
            at = 0
            for some, vectors in _streamed(snapshot, wanted, width):
                places[at : at + len(some)], matrix[at : at + len(some)] = some, vectors
                at += len(some)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix[:at].reshape(-1)), width)
            return pa.table({"place": places[:at], "vector": vectors})

        held = self._matrices.remember(snapshot, f"{embedder} {width}", load)
        for batch in held.to_batches(max_chunksize=HELD):
            vectors = batch["vector"].flatten().to_numpy()  # flatten, unlike values, knows where a slice begins
            yield batch["place"].to_numpy(), vectors.reshape(-1, width)


class _Best:
    """The best `count` of what was added so far."""

    def __init__(self, count: int):
        self.count = count
        self.seen = 0
        self.found: list[tuple[str, float]] = []

    def add(self, places: np.ndarray, scores: np.ndarray, ids: pa.ChunkedArray, without: str) -> None:
        """places: int64 [B] into ids; scores: float64 [B]."""
        self.seen += len(places)
        if len(scores) > self.count:
            # Equals are not in the order of their ids, so all at the edge are looked at; one more, since `without` may be here.
            edge = np.partition(scores, -self.count - 1)[-self.count - 1]
            places, scores = places[scores >= edge], scores[scores >= edge]
        if len(self.found) == self.count:
            places, scores = places[scores >= self.found[-1][1]], scores[scores >= self.found[-1][1]]
        names = ids.take(pa.array(places)).to_pylist()
        added = list(zip(names, scores.tolist(), strict=True))
        if without in names:
            self.seen -= 1
        every = [*self.found, *((name, score) for name, score in added if name != without)]
        self.found = sorted(every, key=lambda each: (-each[1], each[0]))[: self.count]


@contextmanager
def _opened(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, read a few pages at a time whatever the size of its row groups."""
    system, path = filesystem(uri)
    with system.open_input_file(path) as source:
        yield pq.ParquetFile(source, buffer_size=READ_BYTES, pre_buffer=False, read_dictionary=["embedder"])


def _streamed(snapshot: Snapshot, wanted: np.ndarray, width: int) -> Iterator[Batch]:
    """Where `wanted` bool [N] says so, and the vector has this width."""
    at = 0
    for uri in snapshot.files("embeddings"):
        with _opened(uri) as file:
            for batch in file.iter_batches(STREAMED, columns=["embedding"], use_threads=False):
                places = np.flatnonzero(wanted[at : at + len(batch)])
                at += len(batch)
                if len(places):
                    yield _matrix(batch.column(0), places, at - len(batch), width)


def _matrix(vectors: Any, places: np.ndarray, start: int, width: int) -> Batch:
    if len(places) < len(vectors):
        vectors = vectors.take(pa.array(places))
    lengths = vectors.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        vectors = vectors.filter(pa.array(lengths == width))
        places = places[lengths == width]
    return places + start, vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
