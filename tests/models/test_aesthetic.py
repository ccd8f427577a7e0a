"""LAION's aesthetic score: real code on small random weights in the layouts of the published files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from curation.clips import WrongCall
from curation.clips.frames import decode_look
from curation.clips.strip import make_strip
from curation.contracts import ClipView, Models, Unmeasured
from curation.pipeline import plan_run
from curation.recipes import load_recipe
from curation.visual.aesthetic import Aesthetic
from models import torchvision_shim
from models.content.aesthetic import AestheticModel

SAMPLES = Path(__file__).parents[2] / "samples"
WIDTH = 32


@pytest.fixture(scope="module")
def small_clip():
    """A CLIP of OpenAI's kind, two layers deep, with random weights; matrices in half precision as published."""
    torchvision_shim.install()
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 64, "patch_size": 32, "image_size": 224}
    text = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}
    network = open_clip.CLIP(WIDTH, vision, text, quick_gelu=True).eval()
    rounded = {name: t.half().float() if t.ndim > 1 else t for name, t in network.state_dict().items()}
    network.load_state_dict(rounded)
    return network


@pytest.fixture(scope="module")
def files(small_clip, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    state = small_clip.state_dict()
    torch.save(state, folder / "clip.pt")
    from safetensors.torch import save_file

    save_file({name: t.contiguous() for name, t in state.items()}, folder / "clip.safetensors")
    torch.jit.save(torch.jit.script(_Holder(state)), str(folder / "clip_jit.pt"))
    torch.save({"weight": torch.randn(1, WIDTH), "bias": torch.tensor([5.0])}, folder / "linear.pth")
    sizes = [WIDTH, 1024, 128, 64, 16, 1]
    layers = {}
    for number, rows, columns in zip((0, 2, 4, 6, 7), sizes[1:], sizes[:-1], strict=True):
        layers[f"layers.{number}.weight"] = torch.randn(rows, columns) / columns**0.5
        layers[f"layers.{number}.bias"] = torch.randn(rows)
    torch.save(layers, folder / "mlp.pth")
    torch.save({"weight": torch.randn(1, 768), "bias": torch.zeros(1)}, folder / "wide.pth")
    return {path.name: str(path) for path in folder.iterdir()}


class _Holder(torch.nn.Module):
    """Weights as a TorchScript archive, which is what OpenAI publishes."""

    def __init__(self, state):
        super().__init__()
        for name, tensor in state.items():
            at: torch.nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, torch.nn.Module())
                at = getattr(at, part)
            at.register_parameter(last, torch.nn.Parameter(tensor.clone()))

    def forward(self):
        return 0


@pytest.fixture(scope="module")
def bee():
    return make_strip(str(SAMPLES / "bee_720p.mp4"), "bee")


def _plain(network, picture: np.ndarray) -> torch.Tensor:
    """CLIP's published preparation, written out: shorter side to 224 bicubic, middle square, its means and deviations."""
    height, width = picture.shape[:2]
    scale = 224 / min(height, width)
    image = Image.fromarray(picture).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    x = torch.tensor(np.array(image.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        embedding = network.encode_image(x[None])
    return embedding / embedding.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("clip", ["clip.pt", "clip.safetensors", "clip_jit.pt"])
def test_the_score_is_the_heads_of_the_unit_embedding(small_clip, files, bee, clip) -> None:
    picture = decode_look(bee.looks[1][1])
    unit = _plain(small_clip, picture)
    linear = torch.load(files["linear.pth"])
    expected = float(unit @ linear["weight"].T + linear["bias"])
    assert AestheticModel(files[clip], files["linear.pth"])(picture) == pytest.approx(expected, abs=1e-4)
    x, layers = unit, torch.load(files["mlp.pth"])
    for number in (0, 2, 4, 6, 7):
        x = x @ layers[f"layers.{number}.weight"].T + layers[f"layers.{number}.bias"]
    assert AestheticModel(files[clip], files["mlp.pth"])(picture) == pytest.approx(float(x), abs=1e-4)


def test_the_filter_asks_the_middle_picture(files, bee) -> None:
    models = Models(aesthetic_clip=files["clip.pt"], aesthetic_head=files["linear.pth"])
    looks = [(float(bee.strip.clock.frame_seconds[frame]), look) for frame, look in bee.looks]
    view = ClipView(facts=bee.facts, strip=bee.strip, looks=looks, models=models)
    middle = min(looks, key=lambda each: abs(each[0] - bee.strip.clock.duration_seconds / 2))[1]
    expected = AestheticModel(files["clip.pt"], files["linear.pth"])(decode_look(middle))
    assert Aesthetic().score(view)["aesthetic"] == pytest.approx(expected, abs=1e-6)


def test_without_weights_it_is_unmeasured_and_says_why(bee) -> None:
    looks = [(0.0, bee.looks[0][1])]
    score = Aesthetic().score(ClipView(facts=bee.facts, strip=bee.strip, looks=looks))["aesthetic"]
    assert isinstance(score, Unmeasured) and "models.aesthetic_clip" in score
    assert Aesthetic().measured_with(Models()) == ""


def test_other_weights_are_another_version(files) -> None:
    words = {
        Aesthetic().measured_with(Models(aesthetic_clip=files["clip.pt"], aesthetic_head=files[head]))
        for head in ("linear.pth", "mlp.pth")
    }
    assert len(words) == 2 and all(len(word) == 17 for word in words)


@pytest.mark.parametrize(
    ("clip", "head", "words"),
    [
        ("clip.pt", None, "models.aesthetic_head is missing"),
        ("/nowhere/ViT-L-14.pt", "linear.pth", "models.aesthetic_clip: there is no file /nowhere/ViT-L-14.pt"),
        ("clip.pt", "clip.safetensors", "neither LAION's linear aesthetic head"),
        ("clip.pt", "clip.pt", "neither LAION's linear aesthetic head"),
    ],
)
def test_wrong_weights_are_said_before_any_work(files, tmp_path, clip, head, words) -> None:
    models = Models(aesthetic_clip=files.get(clip, clip), aesthetic_head=files.get(head, head))
    recipe = load_recipe("moviegen_256").model_copy(update={"models": models})
    with pytest.raises(WrongCall, match=words):
        plan_run([str(SAMPLES)], recipe, str(tmp_path / "lake"))
    assert not (tmp_path / "lake").exists()


def test_a_head_for_other_embeddings_is_refused(files) -> None:
    with pytest.raises(ValueError, match=r"768 numbers; .* gives 32"):
        AestheticModel(files["clip.pt"], files["wide.pth"])
