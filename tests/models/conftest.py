"""One thread and one seed for every test of the networks."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def redraw(model: torch.nn.Module, std: float = 0.1) -> torch.nn.Module:
    """Every parameter drawn anew, so that nothing is hidden behind a zero or an identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * std)
    return model


@pytest.fixture
def redrawn():
    return redraw
