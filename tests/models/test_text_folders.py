"""The paper's text encoders from local folders, on tiny checkpoints of their kinds, and all of them behind one contract."""

import pytest
import torch

from models.text.loading import text_encoder
from models.text.prompt import tagged
from models.video.transformer import TransformerConfig, VideoTransformer
from tests.encoders import ENCODER_WIDTHS


@pytest.fixture
def folders(encoder_folders):
    return encoder_folders


@pytest.fixture(params=["ul2", "byt5", "metaclip"])
def encoder(request, folders):
    return text_encoder(f"{request.param}:{folders[request.param]}")


TEXTS = ["a dog runs", 'a sign that says "OPEN all night"']


def test_each_keeps_the_contract(encoder):
    both = encoder.encode(TEXTS)
    assert both.states.shape[2] == encoder.width == ENCODER_WIDTHS[encoder.name] and both.states.dtype == torch.float32
    assert not both.states[~both.mask].any()
    assert encoder.encode([""]).mask.sum() >= 1  # dropped prompts can be attended to
    for row, text in enumerate(TEXTS):  # padding of the batch changes nothing
        alone = encoder.encode([text])
        assert alone.mask.all() and alone.mask.sum() == both.mask[row].sum()
        torch.testing.assert_close(both.states[row][both.mask[row]], alone.states[0], atol=1e-5, rtol=1e-4)
    assert encoder.encode(['"' + "long " * 600 + '"']).states.shape[1] == encoder.max_tokens
    assert len(encoder.sha256) == 64 and encoder.sha256 == encoder.sha256


def test_limits_are_the_papers_where_it_gives_them(folders):
    limits = {name: text_encoder(f"{name}:{folder}").max_tokens for name, folder in folders.items()}
    assert limits == {"ul2": 512, "byt5": 100, "metaclip": 256}


def test_the_encoder_half_of_a_t5_is_read(folders):
    from transformers import T5ForConditionalGeneration

    whole = T5ForConditionalGeneration.from_pretrained(folders["ul2"]).eval()
    with torch.no_grad():
        expected = whole.encoder(input_ids=torch.tensor([[3, 4, 5, 1]])).last_hidden_state  # a dog runs </s>
    found = text_encoder(f"ul2:{folders['ul2']}").encode(["a dog runs"])
    torch.testing.assert_close(found.states, expected)


def test_byt5_reads_the_quoted_bytes_and_nothing_else(folders):
    encoder = text_encoder(f"byt5:{folders['byt5']}")
    assert encoder._tokens('a sign "OK"') == [3 + ord("O"), 3 + ord("K"), 1]
    assert encoder._tokens("no sign") == [1]
    torch.testing.assert_close(encoder.encode(['x "OK"']).states, encoder.encode(['y "OK" z']).states)


def test_metaclip_states_are_those_of_the_whole_tower(folders):
    """Pooled at the end mark and projected they are open_clip's own text features."""
    import open_clip

    encoder = text_encoder(f"metaclip:{folders['metaclip']}")
    model = open_clip.create_model(f"local-dir:{folders['metaclip']}").eval()
    tokens = encoder.encode(TEXTS)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folders['metaclip']}")(TEXTS))
    at_end = tokens.states[torch.arange(2), tokens.mask.sum(1) - 1]
    torch.testing.assert_close(at_end @ model.text_projection, expected, atol=1e-5, rtol=1e-4)


def test_the_identity_changes_with_the_weights(folders, tmp_path):
    before = text_encoder(f"byt5:{folders['byt5']}").sha256
    for path in folders["byt5"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert text_encoder(f"byt5:{tmp_path}").sha256 == before
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert text_encoder(f"byt5:{tmp_path}").sha256 != before
    weights.unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        _ = text_encoder(f"byt5:{tmp_path}").sha256


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json and no tokenizer\.json; pass ul2:FOLDER"):
        text_encoder(f"ul2:{tmp_path}")
    with pytest.raises(ValueError, match=r"open_clip_config\.json"):
        text_encoder(f"metaclip:{tmp_path}")


def test_three_encoders_become_one_sequence_of_the_models_width(folders):
    encoders = [text_encoder(f"{name}:{folder}") for name, folder in folders.items()]
    config = TransformerConfig(
        width=32, layers=1, heads=2, ffn_width=48, text_widths=tuple(e.width for e in encoders), max_frames=1
    )
    model = VideoTransformer(config)
    text = [encoder.encode(TEXTS) for encoder in encoders]
    states, mask = model.read(text)
    assert states.shape == (2, sum(t.states.shape[1] for t in text), 32) and mask.shape == states.shape[:2]
    rows = states[mask]  # each through its encoder's own LayerNorm
    torch.testing.assert_close(rows.mean(-1), torch.zeros(len(rows)), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(-1, correction=0), torch.ones(len(rows)), atol=0.02, rtol=0)


def test_tags_stand_before_the_caption():
    assert tagged("A bee lands.", 16, "pan left") == "FPS-16 pan left. A bee lands."
    assert tagged("A bee lands.", 23.976) == "FPS-24 A bee lands."
    assert tagged("Low motion, static camera.", 8, "static") == "FPS-8 Low motion, static camera."
    assert tagged(None, 0, "zoom in") == "zoom in." and tagged(None) == ""
