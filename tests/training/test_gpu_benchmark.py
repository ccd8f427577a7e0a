"""The command for GPU machines, at tiny sizes on a CPU, on a Python that has only what such a machine has."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.report import Report
from benchmarks.gpu.sizes import SMALL
from benchmarks.gpu.tables import failures, render
from models.attention import BACKENDS
from models.memory import RECOMPUTE

ROOT = Path(__file__).parents[2]
# Python reads a module of this name when it starts: it hides, in every process, what a GPU machine lacks.
HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = {"ray", "av", "pydantic", "typer", "curation", "api", "pyarrow", "pandas", "duckdb", "pyiceberg", "yaml", "transformers", "diffusers",
          "tokenizers", "torchvision", "tensorboard", "fastapi", "scipy", "cv2", "faiss", "rich", "sqlalchemy", "PIL"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without our libraries; one thread, since pieces this small gain nothing from more."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


def gpu(bare: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    return subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True)


def section(bare: dict[str, str], tmp_path: Path, name: str) -> dict[str, Any]:
    """What one section told, once it has passed; its tables are the end of what is printed."""
    out = tmp_path / "out"
    done = gpu(bare, "--device", "cpu", "--small", "--sections", name, "--out", str(out))
    log = out / f"{name}.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    results = json.loads((out / "results.json").read_text())
    assert results["failures"] == [] and done.stdout.endswith((out / "tables.txt").read_text())
    (found,) = results["sections"]
    assert found["name"] == name and found["status"] == "done"
    return found


def rows(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the first word of their table's name."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for line in found["lines"]:
        if line["kind"] == "row":
            tables.setdefault(line["table"].split()[0].strip(",:"), []).append(line["columns"])
    return tables


def kinds(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [line for line in found["lines"] if line["kind"] == kind]


def test_what_is_hidden_is_hidden(bare):
    code = "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('ray', 'curation', 'pydantic', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.stdout.strip() == "[False, False, False, True]", done.stderr


def test_every_section_imports_there(bare):
    code = "import importlib, sys; from benchmarks.gpu.__main__ import SECTIONS\nfor s in SECTIONS: importlib.import_module(f'benchmarks.gpu.{s}').run"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_ceilings(bare, tmp_path):
    found = section(bare, tmp_path, "ceilings")
    tables = rows(found)
    assert tables["copy"][0]["TB_s"] > 0
    assert len(tables["matrix"]) == 7 and all(row["TFLOP_s"] > 0 for row in tables["matrix"])
    measured = {(row["tokens"], row["keys"], row["kernel"]) for row in tables["self-attention"]}
    assert {(n, n, kernel) for n in SMALL.attention_tokens for kernel in ("flash", "math", "flex")} == measured
    assert len(tables["cross-attention"]) == 12, "two lengths, with and without mask, three kernels"
    whys = " ".join(line["what"] for line in kinds(found, "missing"))
    assert "cudnn" in whys and "efficient" in whys, "kernels of a GPU are told as not measured"


def test_autoencoders(bare, tmp_path):
    found = section(bare, tmp_path, "autoencoders")
    (frames, side), table = SMALL.videos[0], rows(found)["autoencoders"]
    assert [(r["frames"], r["layout"], r["tiled"]) for r in table] == [
        (frames, "channels last", "whole"),
        (frames, "contiguous", "whole"),
        (2 * frames, "channels last", "tiled"),
    ]
    for row in table:
        assert (
            row["decode_Mpixel_s"] == pytest.approx(row["decode_frames_s"] * side**2 / 1e6)
            and row["encode_frames_s"] > 0
        )
    assert [line["what"] for line in kinds(found, "missing")] == ["autoencoders of other libraries"]
    assert kinds(found, "target")[0]["value"] is None


@pytest.mark.slow
def test_correctness(bare, tmp_path):
    found = section(bare, tmp_path, "correctness")
    checks = {line["what"]: line for line in kinds(found, "check")}
    assert len(checks) == 12 and all(check["passed"] for check in checks.values())
    assert sum("attention flash" in what or "attention math" in what for what in checks) == 4
    losses = rows(found)["losses"]
    assert losses[0]["last"] < losses[0]["first"] and losses[0]["last"] != losses[1]["last"], (
        "both learn, in two precisions"
    )


@pytest.mark.slow
def test_recovery(bare, tmp_path):
    """Three processes of our loop: one left alone, one killed, one resumed."""
    (row,) = rows(section(bare, tmp_path, "recovery"))["kill"]
    assert row["killed_after"] == 10 and row["steps_compared"] == 14 - row["resumed_from"]
    assert row["resumed_from"] in (4, 8), "8 where its save had ended before the kill"
    assert row["to_the_last_bit"] == "yes"


@pytest.mark.slow
def test_stack(bare, tmp_path):
    found = section(bare, tmp_path, "stack")
    table, targets = rows(found)["training"], kinds(found, "target")
    assert {(row["tokens"], row["mode"]) for row in table} == {
        (c.tokens, m) for c in SMALL.clips for m in ("eager", "compiled")
    }
    assert all(row["seconds"] > 0 and row["planned_seconds"] > 0 and row["planned_gib"] > 0 for row in table)
    assert (
        sum("planned seconds" in t["what"] for t in targets) == 3 and sum("memory" in t["what"] for t in targets) == 2
    )
    assert all(target["value"] is None for target in targets if "memory" in target["what"]), "a CPU tells no peak"


@pytest.mark.slow
def test_blocks(bare, tmp_path):
    """Every mode of two blocks, compiled and not."""
    found = section(bare, tmp_path, "blocks")
    measured = {(r["block"], r["tokens"], r["recompute"], r["mode"]) for r in rows(found)["blocks"]}
    assert measured == {
        (block, clip.tokens, recompute, mode)
        for block in ("Cinemill", "plain Llama")
        for clip in SMALL.clips
        for recompute in RECOMPUTE
        for mode in ("eager", "compiled")
    }
    assert all(line["passed"] for line in kinds(found, "check")) and len(kinds(found, "target")) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_section_that_breaks_is_told_and_the_next_one_runs(bare, tmp_path):
    file = tmp_path / "results.json"
    done = gpu(bare, "--small", "--sections", "ceilings,autoencoders", "--json", str(file))
    results = json.loads(file.read_text())
    assert done.returncode == 1
    assert [s["status"] for s in results["sections"]] == ["failed", "failed"]
    assert len(results["failures"]) == 2 and all("exit code 1" in why for why in results["failures"])
    assert "FAILED" in done.stdout


def test_a_section_without_time_says_so(bare, tmp_path):
    done = gpu(bare, "--device", "cpu", "--small", "--sections", "ceilings", "--minutes", "0")
    assert done.returncode == 0 and "not measured (no time left)" in done.stdout and "TFLOP_s" not in done.stdout


@pytest.mark.parametrize(
    ("words", "why"), [(["--device", "cpu"], "use --small"), (["--sections", "blocs"], "blocs is not")]
)
def test_a_wrong_call_is_refused(bare, words, why):
    done = gpu(bare, *words)
    assert done.returncode == 2 and why in done.stderr


def test_a_check_fails_by_its_limit_by_no_number_and_by_an_error(tmp_path):
    report = Report(file=tmp_path / "lines", device=torch.device("cpu"), sizes=SMALL, deadline=float("inf"))
    report.check("good", lambda: 0.1, 0.1)
    report.check("over", lambda: 0.2, 0.1)
    report.check("nan", lambda: float("nan"), 0.1)
    report.check("raises", lambda: 1 / 0, 0.1)
    report.target("missed", 1.0, 2.0, "times")
    assert report.attempt("broken", lambda: BACKENDS["none"]) is None
    lines = [json.loads(line) for line in report.file.read_text().splitlines()]
    told = [{"name": "one", "status": "done", "error": "", "seconds": 1.0, "lines": lines}]
    assert [why.split(":")[0] for why in failures(told)] == ["over", "nan", "raises"], "a target is no check"
    text = render(told)
    assert "KeyError: 'none'" in text and text.count("FAILED") == 4
