"""The shim lets torchvision import beside a CPU torch, and its suppression of boxes is right."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from models import torchvision_shim


def test_torchvision_imports_after_the_shim():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    code = "from models.torchvision_shim import install; install(); install(); import torchvision; print('imported')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr[-500:]


def test_overlapping_boxes_give_way_to_the_better_one():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 4]]).float()
    scores = torch.tensor([0.8, 0.9, 0.7, 0.6])
    # 1 with 0: 81 / 119 = 0.68; 1 with 3: 27 / 113 = 0.24
    assert torchvision_shim._suppress(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert torchvision_shim._suppress(boxes, scores, 0.2).tolist() == [1, 2]
    assert torchvision_shim._suppress(boxes[:0], scores[:0], 0.5).tolist() == []
