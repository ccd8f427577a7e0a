"""The attention door: every kernel gives the same numbers, and the door says which one ran."""

import pytest
import torch

from models.attention import attend, backend_for, record_kernels, use_backend


@pytest.fixture
def tensors():
    q, k, v = torch.randn(2, 3, 4, 16), torch.randn(2, 3, 6, 16), torch.randn(2, 3, 6, 16)
    return q, k, v, torch.tensor([[True, True, True, False, False, False], [True] * 6])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["math", "flash", "flex"])
def test_every_kernel_gives_the_same_numbers_and_gradients(tensors, name, masked):
    q, k, v, mask = tensors
    mask = mask if masked else None
    scores = q @ k.mT / 16**0.5
    scores = scores.masked_fill(~mask[:, None, None], -torch.inf) if masked else scores
    by_hand = scores.softmax(-1) @ v
    q.requires_grad_(name != "flex")  # which has no backward pass on a CPU
    with use_backend(name), record_kernels() as ran:
        out = attend(q, k, v, mask)
    assert ran == {name: 1}
    torch.testing.assert_close(out, by_hand)
    if not q.requires_grad:
        return
    out.square().sum().backward()
    gradient, q.grad = q.grad, None
    attend(q, k, v, mask).square().sum().backward()
    torch.testing.assert_close(gradient, q.grad)


def test_a_key_that_may_not_be_read_counts_for_nothing(tensors):
    q, k, v, mask = tensors
    torch.testing.assert_close(attend(q, k, v, mask)[0], attend(q[:1], k[:1, :, :3], v[:1, :, :3])[0])


def test_what_ran_is_counted_and_only_inside(tensors):
    with record_kernels() as ran:
        attend(*tensors)
        with use_backend("math"):
            assert backend_for(*tensors) == "math"
            attend(*tensors)
            attend(*tensors)
    attend(*tensors)
    assert ran["math"] in (2, 3) and ran.total() == 3


def test_a_kernel_that_cannot_run_is_an_error(tensors):
    with use_backend("cudnn"), pytest.raises(RuntimeError, match=r"[Nn]o (available|viable)"):
        attend(*tensors)
    with pytest.raises(ValueError, match="cudnn, flash, efficient, math, flex"), use_backend("magic"):
        pass
    with pytest.raises(ValueError, match="use it alone"), use_backend("flex", "math"):
        pass
    assert attend(*tensors).shape == (2, 3, 4, 16)  # nothing of it is left behind


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [None, "math", "flex"])
def test_the_door_compiles_whole(tensors, name):
    """fullgraph: neither the recorder nor the choice of a kernel breaks the graph."""
    torch._dynamo.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="eager")
    if name is None:
        torch.testing.assert_close(compiled(*tensors), attend(*tensors))
    else:
        with use_backend(name):
            torch.testing.assert_close(compiled(*tensors), attend(*tensors))
