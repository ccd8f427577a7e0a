"""LPIPS on seeded weights in the published files' layout, against a second, functional reading of it."""

import pytest
import torch
import torch.nn.functional as F

from models.lpips import LPIPS, NUMBERS, WIDTHS

LAST = 28


@pytest.fixture(scope="module")
def published():
    """VGG-16's convolutions and LPIPS' five heads under their published names, seeded."""
    generator, vgg, before = torch.Generator().manual_seed(0), {"classifier.0.weight": torch.zeros(1)}, 3
    for width, numbers in zip(WIDTHS, NUMBERS, strict=True):
        for number in numbers:
            scale = (2 / (9 * before)) ** 0.5
            vgg[f"features.{number}.weight"] = torch.randn(width, before, 3, 3, generator=generator) * scale
            vgg[f"features.{number}.bias"] = torch.randn(width, generator=generator) * 0.1
            before = width
    heads = {f"lin{k}.model.1.weight": torch.rand(1, w, 1, 1, generator=generator) for k, w in enumerate(WIDTHS)}
    return vgg, heads


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    for name, state in zip(("vgg16-397923af.pth", "vgg.pth"), published, strict=True):
        torch.save(state, folder / name)
    return folder


def by_hand(published, pictures, others):
    vgg, heads = published
    total = torch.zeros(len(pictures))
    x = torch.cat([pictures, others])
    x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    stage = 0
    for number in range(LAST + 1):
        if f"features.{number}.weight" in vgg:
            x = F.relu(F.conv2d(x, vgg[f"features.{number}.weight"], vgg[f"features.{number}.bias"], padding=1))
        if number == NUMBERS[stage][-1]:
            a, b = F.normalize(x, dim=1).chunk(2)
            total += ((a - b) ** 2 * heads[f"lin{stage}.model.1.weight"]).sum(1).mean((1, 2))
            x, stage = F.max_pool2d(x, 2), stage + 1
    return total


def test_published_weights_mean_what_they_meant(published, folder):
    lpips = LPIPS.load(folder)
    pictures = torch.rand(2, 3, 40, 32) * 2 - 1
    others = (pictures + 0.3 * torch.randn_like(pictures)).clamp(-1, 1)
    torch.testing.assert_close(lpips(pictures, others), by_hand(published, pictures, others), atol=1e-5, rtol=1e-4)
    assert lpips(pictures, pictures).tolist() == [0, 0]


def test_it_is_differentiable_and_stays_as_it_is(folder):
    lpips = LPIPS.load(folder)
    picture = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    lpips(picture, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert picture.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in lpips.parameters())


def test_a_missing_file_is_named(published, tmp_path):
    torch.save(published[1], tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"5 of LPIPS' 31 tensors .*vgg16-397923af"):
        LPIPS.load(tmp_path)
