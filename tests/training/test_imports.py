"""What runs on a GPU machine without our other libraries, and what may not be imported where."""

import subprocess
import sys
from pathlib import Path

BARE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ray", "av", "pydantic", "typer", "diffusers", "duckdb", "fastapi", "curation", "pyarrow", "yaml", "transformers"}:
            raise ImportError(f"{name} is not on the GPU machine")

sys.meta_path.insert(0, Blocked())
import training.loop, training.checkpoints, training.optim, training.objectives.flow, training.objectives.autoencoder
import training.data.plan, training.data.buckets, training.parallel.verify
"""


def test_the_loop_needs_neither_ray_nor_a_decoder():
    done = subprocess.run([sys.executable, "-c", BARE], cwd=Path(__file__).parents[2], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
