"""What the tests share: one Ray, and one real lake made from samples/ by it."""

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
    curate([str(SAMPLES)], load_recipe("demo"), str(out))
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
def encoder_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """UL2, MetaCLIP and ByT5 in their own layouts, tiny and randomly drawn."""
    from models import torchvision_shim

    torchvision_shim.install()  # before the first import of transformers or open_clip
    from tests.encoders import save_encoders

    return save_encoders(tmp_path_factory.mktemp("encoders"))
