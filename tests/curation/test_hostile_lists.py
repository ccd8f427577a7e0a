"""Lists of footage that mean no good: refused in a sentence that names the file, within seconds and a bounded memory, never a crash."""

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from api.roots import OutsideRoots, allowed_source
from curation.clips.errors import WrongCall
from curation.prison import Prison
from curation.sources.footage import find_footage
from curation.sources.lists import MAX_ROWS, SECONDS, read_columns, read_list

LENIENCE = 5.0  # seconds more, on a loaded machine


def written(path: Path, table: pa.Table, **options: Any) -> bytes:
    pq.write_table(table, path, **options)
    return path.read_bytes()


def good(path: Path) -> bytes:
    return written(path, pa.table({"uri": [f"{i}.mp4" for i in range(500)], "licence": ["CC0"] * 500}))


def footer_lies(path: Path, digits: bytes, lie: bytes) -> bytes:
    """A good file whose footer has these bytes in place of others."""
    data = good(path)
    start = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    assert digits in data[start:]
    return data[:start] + data[start:].replace(digits, lie)


def deep(levels: int) -> pa.Array:
    kind: pa.DataType = pa.string()
    for _ in range(levels):
        kind = pa.list_(kind)
    return pa.nulls(3, kind)


class OneKey(pe.KmsClient):
    """A key service with one key, which keeps nothing secret."""

    def __init__(self, _: Any):
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return key.hex().encode()

    def unwrap_key(self, key: bytes, _: str) -> bytes:
        return bytes.fromhex(key.decode())


def encrypted(path: Path) -> bytes:
    factory = pe.CryptoFactory(OneKey)
    asked = pe.EncryptionConfiguration(footer_key="k", column_keys={"k": ["uri"]})
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), asked)
    with pq.ParquetWriter(path, pa.schema([("uri", pa.string())]), encryption_properties=properties) as writer:
        writer.write_table(pa.table({"uri": ["x.mp4"]}))
    return path.read_bytes()


def bomb(path: Path, rows: int, letters: int) -> bytes:
    """One text again and again: a dictionary of one entry unfolds to rows x letters bytes."""
    with pq.ParquetWriter(path, pa.schema([("uri", pa.string())])) as writer:
        batch = pa.table({"uri": pa.array(["x" * letters] * min(rows, 100_000))})
        for _ in range(max(1, rows // 100_000)):
            writer.write_table(batch, row_group_size=100_000)
    return path.read_bytes()


def wide(path: Path, columns: int) -> bytes:
    return written(path, pa.table([pa.array(["x"])] * (columns + 1), ["uri", *(f"c{i}" for i in range(columns))]))


BAD: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda path: b"",
    "magic_alone": lambda path: b"PAR1PAR1",
    "words": lambda path: b"uri\nx.mp4\n" * 50,
    "zip": lambda path: b"PK\x03\x04" + bytes(500) + b"PAR1",
    "footer_of_4_gib": lambda path: good(path)[:-8] + b"\xff\xff\xff\xff" + b"PAR1",
    "footer_of_nothing": lambda path: good(path)[:-8] + bytes(4) + b"PAR1",
    "footer_zeroed": lambda path: good(path)[:-300] + bytes(292) + good(path)[-8:],
    "fewer_rows_than_said": lambda path: footer_lies(path, b"\xe8\x07", b"\xfe\xff\xff\xff\x0f"),
    "rows_negative": lambda path: footer_lies(path, b"\xe8\x07", b"\xe9\x07"),
    "encrypted": encrypted,
    "no_rows": lambda path: written(path, pa.table({"uri": pa.array([], pa.string())})),
    "no_columns": lambda path: written(path, pa.table({})),
    "no_uri": lambda path: written(path, pa.table({"url": ["x.mp4"]})),
    "uri_twice": lambda path: written(path, pa.table([pa.array(["x"]), pa.array(["y"])], ["uri", "uri"])),
    "uri_number": lambda path: written(path, pa.table({"uri": [1, 2]})),
    "uri_bytes": lambda path: written(path, pa.table({"uri": [b"x.mp4"]})),
    "uri_list": lambda path: written(path, pa.table({"uri": [["x.mp4"]]})),
    "uri_struct": lambda path: written(path, pa.table({"uri": [{"x": 1}]})),
    "uri_null": lambda path: written(path, pa.table({"uri": ["x.mp4", None]})),
    "uri_empty": lambda path: written(path, pa.table({"uri": ["x.mp4", ""]})),
    "uri_nul": lambda path: written(path, pa.table({"uri": ["x\0.mp4"]})),
    "invalid_utf8": lambda path: written(
        path, pa.table({"uri": pa.Array.from_buffers(pa.string(), 1, [None, *map(pa.py_buffer, (struct.pack("<ii", 0, 4), b"\xff\xfe\xc3("))])})
    ),
    "our_column": lambda path: written(path, pa.table({"uri": ["x.mp4"], "cause": ["none"]})),
    "20000_columns": lambda path: wide(path, 20_000),
    "too_many_rows": lambda path: bomb(path, MAX_ROWS + 100_000, 1),
    "bomb_of_2_gb": lambda path: bomb(path, 900_000, 2_500),
    "one_text_of_300_mb": lambda path: written(path, pa.table({"uri": ["x" * (300 << 20)]}), compression="zstd"),
    "nested_500_deep": lambda path: written(path, pa.table({"uri": ["x"] * 3, "tags": deep(500)})).replace(b"uri", b"urx"),
}  # fmt: skip


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Most bytes that each reading child held."""
    peaks: list[int] = []
    run = Prison.run

    def noted(self: Prison, *words: Any, **more: Any) -> Any:
        try:
            return run(self, *words, **more)
        finally:
            peaks.append(self.peak_bytes)

    monkeypatch.setattr(Prison, "run", noted)
    return peaks


def refused(path: Path) -> str:
    started = time.monotonic()
    with pytest.raises(WrongCall) as caught:
        find_footage([str(path)])
    assert time.monotonic() - started < SECONDS + LENIENCE
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000 + len(str(path))
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_list_is_refused_by_name(name: str, tmp_path: Path, watched: list[int]) -> None:
    path = tmp_path / f"{name}.parquet"
    path.write_bytes(BAD[name](path))
    words = refused(path)
    assert all(peak < 1 << 30 for peak in watched)
    print(name, watched, words.replace(str(tmp_path), "")[:120])


@pytest.mark.slow
def test_a_million_columns_are_refused(tmp_path: Path, watched: list[int]) -> None:
    path = tmp_path / "wide.parquet"
    wide(path, 1_000_000)
    refused(path)
    assert all(peak < 1 << 30 for peak in watched)


def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path) -> None:
    """Cut and mutated at 14 places; what is accepted in spite of it still has its rows and texts."""
    path, draw = tmp_path / "list.parquet", random.Random(0)
    whole = good(path)
    outcomes = {"refused": 0, "read": 0}
    with_prison = [whole[: draw.randrange(len(whole))] for _ in range(6)]
    for _ in range(8):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        with_prison.append(bytes(damaged))
    for data in with_prison:
        path.write_bytes(data)
        try:
            entries = read_list(str(path))
        except WrongCall as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
        else:
            assert all(isinstance(uri, str) for uri, _ in entries)
            outcomes["read"] += 1
    print(outcomes)
    assert outcomes["refused"] >= 6


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe\x00", b"uri\n\xff\xfe.mp4\n", b"uri,uri\na,b\n", b"uri\nx.mp4,y\n", b"uri\n\0\n", b"uri\n", b"x\ny\n",
     b"uri\n" + b"a" * 3_000_000 + b"\n", b"," * 100_000 + b"\n"],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_a_bad_csv_is_refused_by_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    refused(path)


def test_a_good_list_passes_through(tmp_path: Path) -> None:
    pq.write_table(
        pa.table(
            {
                "uri": pa.array(["/a/../b.mp4", "c d.mp4", "s3://b/x.mp4", "/a/../b.mp4"]).dictionary_encode(),
                "year": [1999, None, 2001, 2], "source_id": [1, 2, 3, 4], "tags": [["x"], [], None, None],
            }
        ),
        tmp_path / "list.parquet",
    )  # fmt: skip
    entries = read_list(str(tmp_path / "list.parquet"))
    assert [uri for uri, _ in entries] == ["/a/../b.mp4", f"{tmp_path}/c d.mp4", "s3://b/x.mp4", "/a/../b.mp4"]
    assert entries[0][1] == {"year": 1999, "source_id": "1", "tags": "['x']"} and entries[1][1]["year"] is None
    assert read_columns(str(tmp_path / "list.parquet")).num_rows == 4


def test_the_service_reads_lists_in_the_same_way(tmp_path: Path) -> None:
    roots = (str(tmp_path),)
    itself = tmp_path / "itself.csv"
    itself.write_text("uri\nitself.csv\n")
    assert allowed_source(str(itself), roots) == str(itself), "an entry is footage, never a list again"
    for name in ("bomb_of_2_gb", "encrypted", "uri_nul", "nested_500_deep"):
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(BAD[name](path))
        with pytest.raises(WrongCall, match=name):
            allowed_source(str(path), roots)
    (tmp_path / "inside.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("/etc/passwd")
    (tmp_path / "etc").symlink_to("/etc")
    for entry in (
        "/etc/passwd",
        "link.mp4",
        "etc/passwd",
        "../x.mp4",
        "file:///etc/passwd",
        f"{tmp_path}/etc/passwd",
        "http://a/x",
    ):
        (tmp_path / "list.csv").write_text(f"uri\ninside.mp4\n{entry}\n")
        with pytest.raises(OutsideRoots):
            allowed_source(str(tmp_path / "list.csv"), roots)


def test_a_list_in_a_bucket_is_checked_too(s3: str) -> None:
    from curation.clips.storage import write_bytes

    for entry, inside in (
        ("beside.mp4", True),
        ("/etc/passwd", False),
        ("../up.mp4", False),
        ("s3://other/x.mp4", False),
    ):
        write_bytes(f"{s3}/lists/list.csv", f"uri\n{entry}\n".encode())
        if inside:
            assert allowed_source(f"{s3}/lists/list.csv", (f"{s3}/lists",)) == f"{s3}/lists/list.csv"
            assert read_list(f"{s3}/lists/list.csv")[0][0] == f"{s3}/lists/beside.mp4"
        else:
            with pytest.raises(OutsideRoots):
                allowed_source(f"{s3}/lists/list.csv", (f"{s3}/lists",))
