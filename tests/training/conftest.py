"""A small real lake, written through the manifest's own door, and models too small to wait for."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pytest
import torch

from curation.clips import Lake
from curation.clips.schema import TABLES, arrow_schema
from models.autoencoders.tae import TAEConfig
from models.video.transformer import TransformerConfig
from training.data.buckets import demo_buckets
from training.data.plan import BatchSize
from training.recipes import TAERecipe, VideoRecipe, tae_demo, video_demo

SAMPLES = Path(__file__).parents[2] / "samples"
FOOTAGE = {  # file, split
    "bee_720p.mp4": "train",
    "beetle_bw_360p.mp4": "train",
    "toy_elf_480p.mp4": "train",
    "flower_timelapse_540p_vp8.webm": "validation",
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Rows as Snapshot.kept_clips() gives them, one for each of four real videos."""
    return [row_of(SAMPLES / name, split) for name, split in FOOTAGE.items()]


@pytest.fixture(scope="session")
def small_snapshot(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> str:
    """The name of a committed snapshot that keeps those rows."""
    return write_lake(tmp_path_factory.mktemp("small") / "lake", rows)


@pytest.fixture
def make_lake(tmp_path: Path) -> Callable[[list[dict[str, Any]]], str]:
    """Commits the given rows as another small snapshot and returns its name."""
    return lambda rows: write_lake(tmp_path / "another" / "lake", rows)


@pytest.fixture(scope="session")
def tae_recipe() -> TAERecipe:
    """The demo's recipe with a model a step of which takes milliseconds."""
    return replace(
        tae_demo(),
        name="tae_tiny",
        model=TAEConfig(channels=8, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=4, groups=4, patch=4),
        buckets=demo_buckets(frames=8, fps=8.0, side=32),
        batch=BatchSize(videos=2, images=1),
        steps=6,
        checkpoint_every=2,
    )


@pytest.fixture(scope="session")
def video_recipe() -> VideoRecipe:
    """A transformer of 16 channels that reads bytes."""
    return replace(
        video_demo(),
        name="video_tiny",
        model=TransformerConfig(
            latent_channels=4,
            width=16,
            layers=1,
            heads=2,
            ffn_width=32,
            text_widths=(256,),
            max_frames=2,
            max_rows=4,
            max_cols=4,
        ),
        text_encoders=("bytes",),
        buckets=demo_buckets(frames=8, fps=8.0, side=32),
        batch=BatchSize(videos=3, images=1),
        steps=6,
        checkpoint_every=2,
    )


def row_of(path: Path, split: str) -> dict[str, Any]:
    """A whole video as one kept clip."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        stamps = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        time_base = Fraction(stream.time_base or 1)
        width, height = stream.codec_context.width, stream.codec_context.height
        index = stream.index
    end = stamps[-1] + (stamps[-1] - stamps[0]) // (len(stamps) - 1)
    seconds = float((end - stamps[0]) * time_base)
    video_id = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    return {
        "clip_id": hashlib.sha256(f"{video_id} whole".encode()).hexdigest()[:32],
        "video_id": video_id,
        "uri": str(path),
        "stream_index": index,
        "start_pts": stamps[0],
        "end_pts": end,
        "time_base_numerator": time_base.numerator,
        "time_base_denominator": time_base.denominator,
        "start_seconds": 0.0,
        "end_seconds": seconds,
        "width": width,
        "height": height,
        "fps": len(stamps) / seconds,
        "num_frames": len(stamps),
        "caption": f"a film called {path.stem.split('_')[0]}",
        "camera_motion": None,
        "split": split,
        "duplicate_group": video_id,
        "has_sound": False,
        "crop_left": 0,
        "crop_top": 0,
        "crop_width": width,
        "crop_height": height,
    }


def write_lake(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Commit rows as the kept clips of a data set; returns the snapshot's name."""
    lake = Lake(str(folder))
    lake.create()

    def append(name: str, records: list[dict[str, Any]]) -> None:
        schema = arrow_schema(TABLES[name])
        measured = {"fps": pa.float32()} | dict.fromkeys(
            ("crop_left", "crop_top", "crop_width", "crop_height"), pa.int64()
        )
        for extra, kind in measured.items() if name == "clips" else ():  # filters' columns that training reads
            schema = schema.append(pa.field(extra, kind)) if extra not in schema.names else schema
        lake.append(name, pa.Table.from_pylist(records, schema))

    fate = {"dataset": "small", "fate": "kept"}
    append("videos", rows)
    append("clips", rows)
    append("captions", [row | {"captioner": "test"} for row in rows])
    append(
        "decisions",
        [row | fate | {"kind": "clip"} for row in rows]
        + [fate | {"kind": "video", "uri": row["uri"], "video_id": row["video_id"]} for row in rows],
    )
    commit = lake.commit("small", recipe_hash="none", recipe={}, code_version="test", counts={}, measured_by="test")
    return lake.snapshot("small", commit.number).name
