"""A lake whose own files are damaged: the service answers a problem of 503 in words, the command line says one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.cli import main
from api.settings import Settings
from curation.clips.relocate import relocate

DATA, LISTS, METADATA = "tables/*/*/data/*.parquet", "tables/*/*/metadata/*.avro", "tables/*/*/metadata/*.json"


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def turned(data: bytes) -> bytes:
    return data[:40] + bytes(byte ^ 0x55 for byte in data[40 : len(data) - 8]) + data[-8:]


@pytest.mark.parametrize(
    ("files", "damage"),
    [(DATA, half), (DATA, turned), (DATA, lambda _: b""), (LISTS, half), (METADATA, half), ("catalog.db", lambda _: b"words" * 999)],
    ids=["data cut", "data turned over", "data empty", "lists cut", "metadata cut", "catalog overwritten"],
)  # fmt: skip
def test_damage_is_a_problem_in_words(
    files: str, damage: Callable[[bytes], bytes], demo_lake: Path, tmp_path: Path, open_service: Any, capsys: Any
) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(demo_lake, lake)
    relocate(str(lake))
    for path in lake.glob(files):
        path.write_bytes(damage(path.read_bytes()))
    with open_service(Settings(data=str(lake), state_dir=tmp_path / "state")) as client:
        answers = [
            client.get(f"/v1/datasets/demo/{what}")
            for what in ("rows?table=clips", "funnel", "statistics?columns=sharpness", "parquet", "quarantine")
        ]
        assert client.get("/healthz").status_code == 200
    for answer in answers:
        assert answer.status_code == 503 and answer.headers["content-type"] == "application/problem+json", answer.text
        assert "cannot be read" in answer.json()["detail"] and "Traceback" not in answer.text
    capsys.readouterr()
    assert main(["manifest", "show", "--out", str(lake)]) != 0
    words = capsys.readouterr().err
    assert "Traceback" not in words and 1 <= len(words.strip().splitlines()) <= 2 and len(words) < 600, words
