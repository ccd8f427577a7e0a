"""Position tables: summed, looked up by global token number, entering every layer, growing without a jump."""

import pytest
import torch

from models.positions import Positions, extend_table, interpolate_table
from models.text.tokens import TextTokens
from models.video.transformer import TransformerConfig, VideoTransformer


@pytest.fixture
def model(redrawn):
    config = TransformerConfig(
        width=32, layers=3, heads=2, ffn_width=48, text_widths=(8,), max_frames=2, max_rows=4, max_cols=4
    )
    return redrawn(VideoTransformer(config).double(), std=0.2)


@pytest.fixture
def inputs():
    text = TextTokens(torch.randn(2, 5, 8).double(), torch.ones(2, 5, dtype=torch.bool))
    return torch.randn(2, 16, 2, 8, 8).double(), torch.rand(2).double(), [text]


def test_a_token_gets_the_sum_of_its_three_entries():
    positions = Positions(6, 3, 4, 5)
    grid = positions((2, 3, 5)).reshape(2, 3, 5, 6)
    torch.testing.assert_close(grid[1, 2, 4], positions.time[1] + positions.row[2] + positions.column[4])


def test_a_slice_of_the_sequence_is_looked_up_by_global_number():
    positions = Positions(6, 3, 4, 5)
    index = torch.tensor([29, 0, 7])
    torch.testing.assert_close(positions((2, 3, 5), index), positions((2, 3, 5))[index])


def test_too_large_a_grid_says_which_table_is_short():
    with pytest.raises(ValueError, match="5 rows of tokens exceed the position table's 4"):
        Positions(6, 3, 4, 5)((1, 5, 5))


def test_positions_enter_every_layer(model, inputs):
    """Each block is given its predecessor's output plus the positions, and without them the answer is another."""
    entered, left = [], [model.patch_in(model.patchify(inputs[0]))]
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
        block.register_forward_hook(lambda module, args, output: left.append(output))
    positions = model.positions((2, 4, 4))
    with torch.no_grad():
        whole = model(*inputs)
        for before, after in zip(left, entered, strict=False):
            torch.testing.assert_close(after, before + positions)
        assert len(entered) == len(model.blocks) == 3
        for block in model.blocks[1:]:
            block.register_forward_pre_hook(lambda module, args: (args[0] - positions, *args[1:]))
        assert (model(*inputs) - whole).abs().max() > 1e-3


def test_doubling_the_tables_leaves_old_pictures_alone(model, inputs):
    grown = model.with_positions(extend=2)
    assert (grown.config.max_rows, grown.config.max_cols, grown.config.max_frames) == (8, 8, 2)
    assert torch.equal(grown.positions.row[:4], model.positions.row)
    with torch.no_grad():
        assert torch.equal(grown(*inputs), model(*inputs))
        wide = torch.randn(2, 16, 2, 8, 16).double()
        assert grown(wide, *inputs[1:]).shape == wide.shape
    with pytest.raises(ValueError, match="columns"):
        model(wide, *inputs[1:])


def test_tripling_interpolates_at_patch_centres():
    table = torch.randn(5, 4)
    finer = interpolate_table(table, 3)
    assert finer.shape == (15, 4)
    torch.testing.assert_close(finer[1::3], table)  # the middle of each group of three is the old patch's centre
    torch.testing.assert_close(finer[2], torch.lerp(table[0], table[1], 1 / 3))
    torch.testing.assert_close(finer[0], table[0])  # outside the first centre nothing is invented
    torch.testing.assert_close(interpolate_table(torch.arange(4.0)[:, None], 2)[1:-1, 0], torch.arange(0.25, 3, 0.5))


def test_a_tripled_model_sees_the_old_centres_where_they_were(model):
    grown = model.with_positions(interpolate=3)
    fine = grown.positions((2, 12, 12)).reshape(2, 12, 12, -1)
    coarse = model.positions((2, 4, 4)).reshape(2, 4, 4, -1)
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse)


def test_an_image_model_grows_a_table_of_time(model, inputs):
    longer = model.with_positions(frames=32)
    assert longer.config.max_frames == 32 and len(longer.positions.time) == 32
    with torch.no_grad():
        assert torch.equal(longer(*inputs), model(*inputs))


def test_an_extended_table_mirrors_what_it_knows():
    table = torch.arange(3.0)[:, None]
    assert extend_table(table, 8).flatten().tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="only grow"):
        extend_table(table, 2)
