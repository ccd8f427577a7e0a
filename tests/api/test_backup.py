"""A backup of a service that runs, and what a restore brings back."""

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from api.backup import back_up, restore
from api.cli.service import _claim
from api.settings import Settings
from curation.clips import Lake, WrongCall


@pytest.fixture
def copied(demo_lake: Path, demo_snapshot: str, tmp_path: Path) -> Settings:
    """A service's settings over catalog and tables of its own; the tables' paths lead to the demo lake."""
    (tmp_path / "lake").mkdir()
    shutil.copy(demo_lake / "catalog.db", tmp_path / "lake" / "catalog.db")
    return Settings(data=str(tmp_path / "lake"))


def test_what_was_there_at_the_backup_is_there_after_the_restore(
    copied: Settings, open_service: Any, tmp_path: Path
) -> None:
    target = tmp_path / "monday.tar.gz"
    with open_service(copied) as running:
        made = running.post("/v1/tokens", json={"name": "kept", "scopes": ["read"]}).json()
        assert back_up(copied, target) == ["catalog.db", "jobs.db"]
        running.delete(f"/v1/tokens/{made['id']}")
        running.post("/v1/tokens", json={"name": "later"})
    assert target.stat().st_mode & 0o077 == 0
    catalog = copied.data_folder / "catalog.db"  # type: ignore[operator]
    catalog.write_bytes(b"")
    assert restore(copied, target) == ["catalog.db", "jobs.db"]
    assert Lake(copied.data).commits("demo")
    with open_service(copied) as again:
        (token,) = again.get("/v1/tokens").json()
        assert (token["id"], token["revoked_at"]) == (made["id"], None)
        bearer = {"authorization": f"Bearer {made['token']}"}
        assert again.get("/v1/datasets", headers=bearer).json()[0]["name"] == "demo"
        assert [line["path"] for line in again.get("/v1/audit").json()["entries"]] == ["/v1/tokens"]
    assert (copied.state_folder / "jobs.db.before-restore").exists()


def test_a_restore_waits_for_nobody(copied: Settings, open_service: Any, tmp_path: Path) -> None:
    with open_service(copied):
        back_up(copied, tmp_path / "b.tar.gz")
    lock = _claim(copied.state_folder)
    with pytest.raises(WrongCall, match="stop the service"):
        restore(copied, tmp_path / "b.tar.gz")
    lock.close()
    with Lake(copied.data).committer(), pytest.raises(WrongCall, match="wait for runs"):
        restore(copied, tmp_path / "b.tar.gz")
    restore(copied, tmp_path / "b.tar.gz")


def test_a_damaged_backup_changes_nothing(copied: Settings, open_service: Any, tmp_path: Path) -> None:
    with open_service(copied):
        back_up(copied, tmp_path / "b.tar.gz")
    before = (copied.data_folder / "catalog.db").read_bytes()  # type: ignore[operator]
    whole = (tmp_path / "b.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.tar.gz").write_bytes(b"x" * 1000)
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(__file__, "jobs.db")
    with tarfile.open(tmp_path / "bent.tar.gz", "w:gz") as archive:
        for name in ("backup.json", "jobs.db", "../../escaped", "/tmp/escaped"):
            entry = tarfile.TarInfo(name)
            entry.size = 20
            archive.addfile(entry, io.BytesIO(b"SQLite format 3\0bent"))
    for name in ("cut", "noise", "other", "bent", "missing"):
        with pytest.raises(WrongCall):
            restore(copied, tmp_path / f"{name}.tar.gz")
    assert (copied.data_folder / "catalog.db").read_bytes() == before  # type: ignore[operator]
    assert not (tmp_path.parent / "escaped").exists()


def test_there_must_be_something_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(WrongCall, match="nothing to back up"):
        back_up(Settings(data=str(tmp_path / "none")), tmp_path / "b.tar.gz")
