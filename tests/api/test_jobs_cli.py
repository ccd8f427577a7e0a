"""`cinemill jobs` against a real service, with real exports and a real estimate."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from api.cli import main
from api.cli.remote import connected
from api.estimate import scale_up
from api.settings import Settings
from tests.api.test_serve import served


def test_submit_watch_list_show_and_cancel(
    demo_lake: Path, demo_snapshot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {"CINEMILL_OUTPUTS": str(tmp_path), "CINEMILL_STATE_DIR": str(tmp_path / "state")}
    with served(demo_lake, **folders) as url:
        here = ["--server", url]
        for table, name in (("clips", "clips.parquet"), ("ledger", "sub/ledger.csv")):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            words = ["jobs", "submit", "export", "dataset=demo", f"table={table}", f"out={name}", "--key", name, *here]
            assert main([*words, "--watch"]) == 0
            assert capsys.readouterr().out.split() == ["submitted", "queued", "running", "succeeded"]
            assert (tmp_path / name).is_file()
        assert main([*words, "--json"]) == 0
        job: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (job["state"], job["request"]["snapshot"], job["result"]["bytes"]) == (
            "succeeded", 1, (tmp_path / "sub" / "ledger.csv").stat().st_size,
        ), "the same key is the same job"  # fmt: skip
        assert main(["jobs", "list", "--json", *here]) == 0
        assert [each["kind"] for each in json.loads(capsys.readouterr().out)] == ["export", "export"]
        assert main(["jobs", "list", "--state", "succeeded", *here]) == 0 and job["id"] in capsys.readouterr().out
        assert main(["jobs", "show", job["id"], *here]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == job["id"]
        for wrong, says in (
            (["submit", "export", "dataset=nowhere", "out=x.csv"], "no data set 'nowhere'"),
            (["submit", "export", "dataset"], "NAME=VALUE"),
            (["submit", "export", "dataset=demo", "out=/etc/x.csv"], "CINEMILL_OUTPUTS"),
            (["cancel", job["id"]], "is over"),
            (["watch", "0000"], "no job"),
        ):
            assert main(["jobs", *wrong, *here]) == 2, wrong
            said = capsys.readouterr().err
            assert says in said and said.count("\n") == 1
    assert main(["jobs", "list", *here]) == 2 and "no service answers" in capsys.readouterr().err
    rows = pq.read_metadata(tmp_path / "clips.parquet").num_rows
    assert rows > 0 and not list(tmp_path.glob(".unfinished-*"))


def test_a_job_is_watched_over_a_restart_of_the_service(demo_lake: Path, demo_snapshot: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slowly = "import sys; import time; time.sleep(8); from api.cli import main; sys.exit(main(sys.argv[1:]))"
    environment = {
        "CINEMILL_STATE_DIR": str(tmp_path / "state"),
        "CINEMILL_OUTPUTS": str(tmp_path),
        "CINEMILL_JOB_COMMAND": f"{sys.executable},-c,{slowly}",
    }
    with served(demo_lake, "--port", str(port), **environment) as url:
        with connected(url) as service:
            job = service.submit(kind="export", dataset="demo", out="clips.parquet")
        command = [sys.executable, "-m", "api.cli", "jobs", "watch", job.id, "--server", url]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watch.stdout is not None and [watch.stdout.readline() for _ in range(3)][-1] == "running\n"
    with served(demo_lake, "--port", str(port), **environment):
        said, complained = watch.communicate(timeout=60)
    assert said == "succeeded\n" and (tmp_path / "clips.parquet").is_file(), "nothing twice, nothing left out"
    assert watch.returncode == 0 and complained.startswith("the service does not answer")


def test_an_estimate_is_exact_for_what_it_saw_and_wider_for_what_it_did_not() -> None:
    footage, total = scale_up(4, [10.0, 20.0, 30.0, 40.0], [10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0])
    assert (footage.low, footage.value, footage.high) == (100.0, 100.0, 100.0)
    assert (total.low, total.value, total.high) == (10.0, 10.0, 10.0)
    _, few = scale_up(1000, [10.0, 20.0, 30.0, 40.0], [10.0, 20.0], [1.0, 2.2])
    assert few.low < few.value < few.high and few.value == pytest.approx(25_000 * 3.2 / 30)
    _, same = scale_up(1000, [10.0] * 50, [10.0] * 20, [1.0] * 20)
    assert same.high - same.low == pytest.approx(0.0, abs=1e-6), "videos that are all alike leave no doubt"


def test_intervals_of_estimates_hold_what_they_promise() -> None:
    """200 draws from a population with long tails: the truth lies within the 95 % interval in at least 85 % of them."""
    import random

    draw = random.Random(0)
    population = [
        (length, length * draw.uniform(0.1, 0.4)) for length in (draw.lognormvariate(3.0, 0.8) for _ in range(3000))
    ]
    truth = sum(cost for _, cost in population)
    held = 0
    for _ in range(200):
        looked = draw.sample(population, 500)
        probed = looked[:60]
        _, total = scale_up(3000, [x for x, _ in looked], [x for x, _ in probed], [y for _, y in probed])
        held += total.low <= truth <= total.high
    assert 170 <= held <= 200, held


@pytest.mark.slow
def test_a_real_estimate_of_the_samples(ray_cluster: None, make_settings: Any, demo_lake: Path) -> None:
    """The probe of every sample costs what the curation of every sample cost, but for the load of the machine."""
    from api.estimate import estimate
    from curation.clips import Lake
    from curation.recipes import load_recipe
    from tests.conftest import SAMPLES

    settings: Settings = make_settings()
    found = estimate([str(SAMPLES)], load_recipe("demo"))
    rows = Lake(str(demo_lake)).snapshot("demo").table("videos").to_pylist()
    spent = sum(
        (row["decode_seconds"] or 0) + (row["model_seconds"] or 0) + (row["early_seconds"] or 0) for row in rows
    )
    assert (found["videos"], found["probed"]) == (15, 15)
    assert 0.5 < found["cpu_hours"]["value"] * 3600 / spent < 2.0
    assert not list(Path(settings.data).parent.glob("cinemill-estimate-*"))
