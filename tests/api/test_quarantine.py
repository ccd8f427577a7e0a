"""Videos that could not be read: listed with their reasons, and tried again by a job."""

from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
QUARANTINE = "/v1/datasets/demo/quarantine"


@pytest.fixture
def own(settings: Any, open_service: Any, demo_snapshot: str, tmp_path: Path) -> Any:
    """Jobs here wait for ever: none may start."""
    asked = {"state_dir": tmp_path, "roots": (str(SAMPLES),), "job_command": ("true",), "poll_seconds": 1000.0}
    with open_service(settings.model_copy(update=asked)) as opened:
        yield opened


def test_every_quarantined_video_has_its_reason(own: Any) -> None:
    told = own.get(QUARANTINE).json()
    assert told["matching"] == len(told["rows"]) == own.get("/v1/datasets/demo/funnel").json()["videos"]["quarantined"]
    assert all(row["fate"] == "quarantined" and row["reason"] and row["cause"] for row in told["rows"])


def test_a_retry_is_a_job_over_exactly_these_videos(own: Any) -> None:
    uris = [row["uri"] for row in own.get(QUARANTINE).json()["rows"]]
    made = own.post(f"{QUARANTINE}/retry", json={}, headers={"idempotency-key": "again"})
    assert made.status_code == 201 and made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    asked = made.json()["request"]
    assert (asked["sources"], asked["dataset"], asked["retry_quarantined"]) == (uris, "demo", True)
    again = own.post(f"{QUARANTINE}/retry", json={"uris": uris}, headers={"idempotency-key": "again"})
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])


def test_only_what_is_quarantined_may_be_tried_again(own: Any, clips: list[dict[str, Any]]) -> None:
    refused = own.post(f"{QUARANTINE}/retry", json={"uris": [clips[0]["uri"]]})
    assert refused.status_code == 422 and "not among" in refused.json()["detail"]
    assert own.post("/v1/datasets/nothing/quarantine/retry", json={}).status_code == 404


def test_a_retry_stays_within_the_roots(settings: Any, open_service: Any, demo_snapshot: str, tmp_path: Path) -> None:
    with open_service(settings.model_copy(update={"state_dir": tmp_path, "roots": (str(tmp_path),)})) as elsewhere:
        assert elsewhere.post(f"{QUARANTINE}/retry", json={}).status_code == 403
