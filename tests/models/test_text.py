"""Text encoders: real meaning from the packaged one, letters from the bytes."""

import hashlib

import pytest
import torch

from models.text.bytes import ByteEncoder, quoted
from models.text.loading import text_encoder
from models.text.minilm import MiniLM, packaged_folder


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("tokenizers")
    return text_encoder("minilm")


def test_a_dog_is_nearer_to_a_puppy_than_to_stocks(minilm):
    dog, puppy, stocks = minilm.embed(["a dog runs", "a puppy plays", "stock prices fell"])
    assert dog @ puppy > 0.4
    assert dog @ stocks < 0.2


def test_token_states_are_masked_and_do_not_depend_on_their_neighbours(minilm):
    both = minilm.encode(["a dog", "a very long sentence about a dog in the rain"])
    assert both.states.shape[2] == minilm.width == 384 and both.mask.dtype == torch.bool
    assert not both.states[0][~both.mask[0]].any()
    alone = minilm.encode(["a dog"])
    torch.testing.assert_close(both.states[0, : alone.states.shape[1]], alone.states[0], atol=1e-5, rtol=1e-4)


def test_the_empty_string_still_has_tokens_and_long_ones_are_cut(minilm):
    assert minilm.encode([""]).mask.sum() == 2  # the start and the end mark
    assert minilm.encode(["word " * 500]).states.shape[1] == minilm.max_tokens == 128


def test_the_encoder_is_named_by_the_hash_of_its_weights(minilm):
    data = (packaged_folder() / "model.safetensors").read_bytes()
    assert minilm.sha256 == hashlib.sha256(data).hexdigest()
    assert isinstance(minilm, MiniLM) and minilm.name == "minilm"


def test_bytes_see_letters_and_order():
    encoder = ByteEncoder(width=64)
    tokens = encoder.encode(["ab", "ba", "a"])
    assert tokens.states.shape == (3, 3, 64) and tokens.mask.sum(1).tolist() == [3, 3, 2]
    assert not torch.equal(tokens.states[0], tokens.states[1])
    assert not tokens.states[2, 2].any()
    assert encoder.encode([""]).mask.sum() == 1
    assert encoder.encode(["é"]).mask.sum() == 3  # two bytes and the end


def test_the_byte_table_is_the_same_everywhere():
    assert ByteEncoder().sha256 == ByteEncoder().sha256 != ByteEncoder(width=128).sha256
    torch.testing.assert_close(
        ByteEncoder()._rows[0, :3], torch.tensor([1.7640524, 0.4001572, 0.9787380])
    )  # fmt: skip


def test_quoted_bytes_see_only_what_is_to_be_drawn():
    assert quoted('a sign saying "OPEN" above “Bar”') == "OPEN Bar"
    encoder = text_encoder("quoted-bytes")
    assert encoder.encode(['a sign "OK"']).mask.sum() == 3
    assert encoder.encode(["no sign"]).mask.sum() == 1


def test_bytes_are_nearly_orthogonal():
    rows = torch.nn.functional.normalize(ByteEncoder()._rows, dim=1)
    off_diagonal = rows @ rows.T - torch.eye(len(rows))
    assert off_diagonal.abs().mean() < 0.06


def test_an_unknown_encoder_is_refused_with_the_names():
    with pytest.raises(ValueError, match="minilm, bytes or quoted-bytes"):
        text_encoder("ul2")
