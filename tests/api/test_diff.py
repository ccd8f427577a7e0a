"""What changed between two snapshots, against a lake whose every decision is written here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from api.settings import Settings
from curation.clips import Lake
from curation.clips.schema import DECISIONS, arrow_schema
from curation.recipes import load_recipe

SHARP = "visual.sharpness"


def clip(letter: str) -> str:
    return letter * 32


def write(lake: Lake, fates: Mapping[str, str | None]) -> None:
    """fates: letter -> the rule that rejects that clip, None if it is kept."""
    rows = [
        {
            "dataset": "d", "kind": "clip", "uri": "/v.mp4", "video_id": "v", "clip_id": clip(letter),
            "fate": "kept" if rule is None else "duplicate" if rule == "duplicate" else "rejected",
            "rule": None if rule == "duplicate" else rule, "failed_rules": [rule] if rule and rule != "duplicate" else [],
        }
        for letter, rule in fates.items()
    ]  # fmt: skip
    counts = {
        f"{kind}s_{fate}": 0
        for kind in ("video", "clip")
        for fate in ("in", "kept", "rejected", "duplicate", "quarantined")
    }
    recipe = load_recipe("demo")
    with lake.committer():
        lake.replace("decisions", "dataset", pa.Table.from_pylist(rows, schema=arrow_schema(DECISIONS)))
        lake.commit(
            "d",
            recipe_hash=recipe.hash,
            recipe=recipe.model_dump(mode="json"),
            code_version="0",
            counts=counts,
            measured_by="-",
        )


@pytest.fixture
def client(tmp_path: Path, open_service: Any) -> Any:
    lake = Lake(str(tmp_path / "lake"))
    lake.create()
    write(lake, {"a": None, "b": None, "c": SHARP, "d": None, "e": SHARP, "f": None})
    write(lake, {"a": None, "b": SHARP, "c": None, "d": "duplicate", "e": SHARP, "0": None})
    with open_service(Settings(data=str(tmp_path / "lake"))) as opened:
        yield opened


def test_added_and_removed_by_reason(client: Any) -> None:
    told = client.get("/v1/datasets/d/diff?from=1&to=2").json()
    assert (told["kept_before"], told["kept_after"], told["kept_in_both"]) == (4, 3, 1)
    assert told["removed_by"] == {SHARP: 1, "duplicate": 1, "gone": 1}
    assert told["added_by"] == {SHARP: 1, "new": 1}
    assert told["removed"] == [
        {"clip_id": clip("b"), "reason": SHARP}, {"clip_id": clip("d"), "reason": "duplicate"},
        {"clip_id": clip("f"), "reason": "gone"},
    ]  # fmt: skip
    assert told["added"] == [{"clip_id": clip("0"), "reason": "new"}, {"clip_id": clip("c"), "reason": SHARP}]
    back = client.get("/v1/datasets/d/diff?from=2&to=1&limit=1").json()
    assert back["kept_in_both"] == 1 and sum(back["added_by"].values()) == 3 and len(back["added"]) == 1


def test_a_snapshot_stays_what_it_was(client: Any) -> None:
    def kept(number: int) -> list[str]:
        rows = client.get(f"/v1/datasets/d/rows?fate=kept&snapshot={number}").json()["rows"]
        return [row["clip_id"][0] for row in rows]

    assert (kept(1), kept(2)) == (["a", "b", "d", "f"], ["0", "a", "c"])
    after = client.get("/v1/datasets/d/rows?snapshot=1&limit=2").json()["next"]
    refused = client.get(f"/v1/datasets/d/rows?snapshot=2&limit=2&after={after}")
    assert refused.status_code == 422 and "another snapshot" in refused.json()["detail"]


def test_a_snapshot_that_is_not_there_is_named(client: Any) -> None:
    assert "9" in client.get("/v1/datasets/d/diff?from=1&to=9").json()["detail"]
    assert client.get("/v1/datasets/d/diff?from=1").status_code == 422
