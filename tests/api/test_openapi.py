"""The interface as it is written down in docs/openapi.json, and every answer against it."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.cli import main

WRITTEN = Path(__file__).parents[2] / "docs" / "openapi.json"
STREAMS = "/v1/jobs/{job_id}/events"


def test_the_interface_is_the_one_written_down(client: TestClient) -> None:
    """A change is wanted? `cinemill openapi docs/openapi.json` writes it down; the diff then shows it to reviewers."""
    assert client.get("/v1/openapi.json").json() == json.loads(WRITTEN.read_text()), (
        "run: cinemill openapi docs/openapi.json"
    )


def test_the_command_writes_the_interface_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openapi", str(tmp_path / "openapi.json")]) == 0
    assert (tmp_path / "openapi.json").read_text() == WRITTEN.read_text()


def test_it_is_openapi_3_1_with_names_that_stay() -> None:
    document = json.loads(WRITTEN.read_text())
    assert document["openapi"].startswith("3.1")
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids) and all(name.isidentifier() for name in ids)
    for path, operations in document["paths"].items():
        form = "application/json" if path.startswith("/v1/iceberg/") else "application/problem+json"
        for operation in operations.values():
            assert "security" in operation
            for status, answer in operation["responses"].items():
                if status[0] in "45":
                    assert set(answer["content"]) == {form}
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert "HTTPValidationError" not in WRITTEN.read_text()


def conforms(opened: TestClient, examples: int) -> int:
    """How many generated requests were answered as the interface says: right ones and wrong ones, `examples` an operation."""
    token = opened.app.state.service.tokens.create("conformance", ("admin",), 1.0)[1]  # type: ignore[attr-defined]
    headers = {"authorization": f"Bearer {token}"}
    interface = schemathesis.openapi.from_asgi("/v1/openapi.json", opened.app, headers=headers)
    # Columns, rules and ids are known to the data, not to the interface: a 422 that says so is no failure.
    seen = 0
    failures: list[str] = []
    for found in interface.get_all_operations():
        operation = found.ok()
        if operation.path == STREAMS:  # ends only with its job; test_jobs.py reads it
            continue
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            cases = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=examples, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=cases)
            def check(case: Any) -> None:
                nonlocal seen
                seen += 1
                response = case.call(headers=headers)
                assert response.status_code < 500, f"{case.as_curl_command()}: {response.text}"
                # too many bytes are refused before anybody looks at them
                unasked = [positive_data_acceptance] + [negative_data_rejection] * (response.status_code == 413)
                case.validate_response(response, headers=headers, excluded_checks=unasked)

            try:
                check()
            except (Exception, BaseExceptionGroup) as error:
                if "Unsatisfiable" in type(error).__name__:  # a path without parameters cannot be asked wrongly
                    continue
                failures.append(f"{operation.method} {operation.path} {mode}: {error}")
    assert not failures, "\n\n".join(failures)
    return seen


@pytest.fixture
def own(settings: Any, open_service: Any, demo_snapshot: str, tmp_path: Path) -> Any:
    """The demo lake with a state of its own, since generated requests make tokens and may start jobs."""
    asked = {
        "state_dir": tmp_path, "roots": (str(tmp_path),), "allowed_hosts": ("testserver",), "require_tokens": True,
        "reads_per_minute": 10**6, "writes_per_minute": 10**6, "failures_per_minute": 10**6,
    }  # fmt: skip
    with open_service(settings.model_copy(update=asked)) as opened:
        yield opened


def test_generated_requests_are_answered_as_written_down(own: TestClient) -> None:
    assert conforms(own, 8) > 300


@pytest.mark.slow
def test_many_generated_requests_are_answered_as_written_down(own: TestClient) -> None:
    seen = conforms(own, int(os.environ.get("CINEMILL_EXAMPLES", "150")))
    print(f"{seen} requests, 0 failures")
    assert seen > 5000
