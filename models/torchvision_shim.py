"""Lets torchvision's CUDA-built wheel import beside a CPU build of torch.

Its compiled library does not load there, and its Python side then stumbles over operators nobody registered; so does
every library that merely finds it installed (transformers, timm, open_clip, easyocr). Registering the two missing
operators is enough. Call `install()` before the first import of any of these, in every process; beside a CUDA build of
torch, or where torchvision's own library loaded, it does nothing.
"""

import torch
from torch import Tensor

_library: torch.library.Library | None = None


def install() -> None:
    """Register torchvision's `nms` and `qnms` schemas, and a plain `nms` for the CPU, once a process."""
    global _library
    if _library is not None or torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _suppress, "CPU")
    _library = library  # the registration lives as long as this object


def _suppress(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes [N, 4] (x1, y1, x2, y2) that no kept box of a better score overlaps by too much."""
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low).prod(1)
    kept: list[int] = []
    waiting = scores.argsort(descending=True)
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        sides = torch.minimum(high[best], high[waiting]) - torch.maximum(low[best], low[waiting])
        shared = sides.clamp(min=0).prod(1)
        waiting = waiting[shared <= iou_threshold * (area[best] + area[waiting] - shared)]
    return torch.tensor(kept, dtype=torch.int64)
