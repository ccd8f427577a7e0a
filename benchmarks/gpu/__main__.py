"""Measure and check everything that needs a GPU, in under ten minutes; tables come last.

python3 -m benchmarks.gpu [--out FOLDER] [--json FILE] [--sections NAME,...]
python3 -m benchmarks.gpu --device cpu --small      the same code at tiny sizes, where there is no GPU

It needs torch, triton, einops, safetensors and numpy, no network and no data. Where diffusers can be imported (its wheel
on PYTHONPATH will do), blocks and autoencoders of other video models are measured beside ours. Each section is a process
of its own with a share of the time. Exit code 1: a check failed or a section broke; a missed target is no failure.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.tables import Section, failures, render

SECTIONS = {  # name -> seconds, in the order they run; what one leaves over the later ones share
    "correctness": 60,
    "recovery": 60,
    "ceilings": 95,
    "stack": 120,
    "blocks": 160,
    "autoencoders": 65,
}
MINUTES = 9.0
GRACE = 25.0  # seconds a section may run over: for a measurement it has begun
SMALL_GRACE = 300.0  # on a CPU that others use too
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes: the code is tried, nothing is claimed")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="of " + ", ".join(SECTIONS))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="all of it")
    parser.add_argument("--out", type=Path, help="a folder for results.json, tables.txt and each section's log")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--run-section", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_section:
        run_section(arguments)
        return
    names = [name for name in arguments.sections.split(",") if name]
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"section {', '.join(unknown)} is not one of {', '.join(SECTIONS)}")
    if arguments.device == "cpu" and not arguments.small:
        parser.error("at the full sizes a CPU would take days; use --small with --device cpu")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the section that runs along
    with tempfile.TemporaryDirectory(prefix="cinemill-gpu-") as place:
        out = arguments.out or Path(place)
        out.mkdir(parents=True, exist_ok=True)
        sections = run_all(names, arguments, out)
    text = render(sections)
    results = json.dumps({"arguments": sys.argv[1:], "failures": failures(sections), "sections": sections}, indent=1)
    if arguments.out:
        (out / "results.json").write_text(results)
        (out / "tables.txt").write_text(text + "\n")
    if arguments.json:
        arguments.json.write_text(results)
    print(text)
    sys.exit(1 if failures(sections) else 0)


def run_all(names: list[str], arguments: argparse.Namespace, out: Path) -> list[Section]:
    """One section after the other, each with its share of the time that is left."""
    ends = time.monotonic() + 60 * arguments.minutes
    sections = []
    for index, name in enumerate(names):
        left = ends - time.monotonic()
        seconds = left * SECTIONS[name] / sum(SECTIONS[later] for later in names[index:])
        section = supervise(name, max(seconds, 0.0), arguments, out)
        sections.append(section)
        print(f"{name}: {section['status']} in {section['seconds']:.0f} s", flush=True)
    return sections


def supervise(name: str, seconds: float, arguments: argparse.Namespace, out: Path) -> Section:
    """Run one section as a process; what it told, even where it crashed or had to be killed."""
    lines, log = out / f"{name}.jsonl", out / f"{name}.log"
    lines.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu", "--run-section", name, "--seconds", str(seconds)]
    command += ["--device", arguments.device, "--out", str(out.absolute()), *(["--small"] if arguments.small else [])]
    # Read by cuBLAS when it starts: with the workspaces that it would take anyway, sums come in the same order.
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if name == "correctness" else {}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths)}
    began = time.monotonic()
    most = seconds + (SMALL_GRACE if arguments.small else GRACE)
    status, error = "done", ""
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, stdout=words, stderr=subprocess.STDOUT, env=os.environ | environment, start_new_session=True
        )
        try:
            code = process.wait(most)
        except subprocess.TimeoutExpired:
            status, error = "failed", f"killed after {most:.0f} s: something in it hung or took too long"
        else:
            if code:
                status, error = "failed", f"exit code {code}: {_last_words(log)}"
        finally:
            _kill_group(process)
    told: list[dict[str, Any]] = []
    for line in lines.read_text().splitlines() if lines.exists() else []:
        try:
            told.append(json.loads(line))
        except json.JSONDecodeError:  # half a line, written as it was killed
            break
    return {"name": name, "status": status, "error": error, "seconds": time.monotonic() - began, "lines": told}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """The section and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no words"


def run_section(arguments: argparse.Namespace) -> None:
    """In the section's own process."""
    import platform

    import torch

    from benchmarks.gpu.report import Report
    from benchmarks.gpu.sizes import FULL, SMALL

    device = torch.device(arguments.device)
    deadline = time.monotonic() + arguments.seconds
    file = arguments.out / f"{arguments.run_section}.jsonl"
    report = Report(file=file, device=device, sizes=SMALL if arguments.small else FULL, deadline=deadline)
    cuda = device.type == "cuda"
    report.write(
        "machine",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        device=torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
    )
    torch.manual_seed(0)
    importlib.import_module(f"benchmarks.gpu.{arguments.run_section}").run(report)


if __name__ == "__main__":
    main()
