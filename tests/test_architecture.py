"""The diagram of docs/architecture.md, made to hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("models", "curation", "training", "api")
FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MAY_IMPORT = {  # the longest matching room decides
    "models": ["models"],
    "curation.clips": ["curation.clips"],
    "curation": ["curation", "models"],
    "training": ["training", "models", "curation.clips"],
    "api": ["api", "training", "curation", "models"],
}
ONLY_IN = {  # a heavy library has one door
    "ray": ["curation.workers", "training.cluster", "training.encode_job", "api.jobs"],
    "av": ["curation.clips.frames", "curation.clips.cutting"],  # one reads pictures, one cuts files
    "pyarrow.fs": ["curation.clips.storage", "curation.sources.footage"],
    "pyiceberg": ["curation.clips.manifest", "curation.clips.relocate", "curation.clips.iceberg"],
    "fastapi": ["api"],
    "faiss": ["curation.content"],
    "rapidocr": ["models.content.reading"],
    "easyocr": ["models.content.reading"],
    "open_clip": ["models.content.aesthetic", "models.text.metaclip"],
    "scenedetect": ["curation.shots.pyscenedetect"],
}
NOT_IN = {  # what a room must not know
    "models": {"ray", "av", "pandas", "pyarrow", "pydantic", "typer"},
    "training.loop": {"ray", "av", "pandas", "pyarrow", "pydantic", "typer"},
    "training.checkpoints": {"ray", "av", "pandas", "pyarrow", "pydantic", "typer"},
    "training.objectives": {"ray", "av", "pandas", "pyarrow", "pydantic", "typer"},
    "curation.clips": {"ray", "torch"},
}
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _within(module: str, rooms: list[str]) -> bool:
    return any(f"{module}.".startswith(f"{room}.") for room in rooms)


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively; absolute imports say where things are"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_import_points_down(path: Path) -> None:
    here = _module(path)
    room = max((room for room in MAY_IMPORT if _within(here, [room])), key=len)
    for module in _imports(path):
        if module.split(".")[0] in ROOMS:
            assert _within(module, MAY_IMPORT[room]), f"{here} imports {module}; {room} may import {MAY_IMPORT[room]}"
        for library, doors in ONLY_IN.items():
            if _within(module, [library]):
                assert _within(here, doors), f"{here} imports {module}; only {doors} may"
        for place, libraries in NOT_IN.items():
            if _within(here, [place]):
                assert module.split(".")[0] not in libraries, f"{here} imports {module}; {place} knows nothing of it"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_says_what_it_is_and_is_named_after_it(path: Path) -> None:
    assert path.stem not in NO_NAMES, f"{path}: name the file after the thing it is about"
    assert ast.get_docstring(ast.parse((ROOT / path).read_text())), f"{path} opens with a sentence that says what it is"


def test_clips_load_neither_torch_nor_ray() -> None:
    code = "import sys, curation.clips; sys.exit(', '.join({'ray', 'torch'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_models_and_the_training_loop_import_on_a_machine_without_our_environment() -> None:
    """A GPU machine has torch, einops, numpy and safetensors; everything else is blocked here."""
    code = """
import importlib, pkgutil, sys
blocked = {"ray", "av", "pydantic", "typer", "rich", "pandas", "pyarrow", "duckdb", "transformers", "tokenizers", "torchvision",
           "efficientnet_lite_pytorch", "cv2", "faiss", "fastapi", "tensorboard", "scipy", "sqlalchemy", "pyiceberg"}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
import models, training
names = [m.name for m in pkgutil.walk_packages(models.__path__, "models.")]
names += ["training.loop", "training.checkpoints", "training.optim", "training.planner"]
import training.objectives
names += [m.name for m in pkgutil.walk_packages(training.objectives.__path__, "training.objectives.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15


def test_the_command_line_helps_without_loading_torch_or_ray() -> None:
    code = "import sys; from api.cli import main; main(['--help']); sys.exit(', '.join({'ray', 'torch'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "curate" in done.stdout and "generate" in done.stdout


def _dangers(tree: ast.AST) -> set[str]:
    """Calls that run what a file or a text says."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, words = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        module, _, verb = name.rpartition(".")
        if name in ("eval", "exec", "os.system", "os.popen") or words.get("shell", "False") != "False":
            found.add(name)
        if module in ("pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib") and verb != "dumps":
            found.add(name)
        if name == "torch.load" and words.get("weights_only") != "True":
            found.add(name)
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") or words.get("allow_pickle", "False") != "False":
            found.add(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_that_is_read_is_run(path: Path) -> None:
    """No pickles, no torch.load but of weights alone, no shell. (Ray and PyTorch's checkpoint index have pickles inside.)"""
    assert not _dangers(ast.parse((ROOT / path).read_text())), path


def test_what_would_run_is_found() -> None:
    for line in (
        "pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)", "yaml.load(f)", "np.load(f, allow_pickle=True)",
        "subprocess.run(x, shell=True)", "eval(x)", "os.system(x)", "dill.loads(x)",
    ):  # fmt: skip
        assert _dangers(ast.parse(line)), line
    assert not _dangers(ast.parse("torch.load(f, weights_only=True); model.eval(); yaml.safe_load(f); pickle.dumps(x)"))
