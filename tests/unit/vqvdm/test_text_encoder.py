"""Texts become embeddings by any encoder of `transformers`, and by nothing else that a folder
holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.text_encoders import WIDTH, write_encoder
from vqvdm import text_encoder
from vqvdm.errors import UserError
from vqvdm.text_encoder import TextEncoder, encoder_files, files_of, most_tokens, sums_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return write_encoder(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_an_embedding_depends_on_its_text_alone(folder: Path) -> None:
    encoder = TextEncoder(folder)
    red, blue, long = "a red ball", "a blue ball", "a red ball " * 50
    embeddings_BD = encoder([red, blue, None, " ", long])
    assert (embeddings_BD.shape, embeddings_BD.dtype) == ((5, WIDTH), torch.float32)
    assert torch.equal(embeddings_BD[:1], TextEncoder(folder)([red]))
    assert not torch.allclose(embeddings_BD[0], embeddings_BD[1], atol=0.1)
    assert not embeddings_BD[2:4].any()
    norms_B = embeddings_BD[[0, 1, 4]].norm(dim=1)
    torch.testing.assert_close(norms_B, torch.full((3,), WIDTH**0.5))


def test_it_is_the_mean_over_the_tokens(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)("a red ball", return_tensors="pt")
    with torch.no_grad():
        hidden_1LD = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    assert hidden_1LD.shape[1] == 5  # with one before and one after the words
    mean_D = hidden_1LD[0].mean(0)
    wanted_D = mean_D / mean_D.norm() * WIDTH**0.5
    torch.testing.assert_close(TextEncoder(folder)(["a red ball"])[0], wanted_D)


def clip(folder: Path) -> Any:
    from transformers import CLIPConfig, CLIPModel

    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    layers |= {"num_attention_heads": 2}
    text = layers | {"vocab_size": 10, "max_position_embeddings": 16, "eos_token_id": 3}
    vision = layers | {"image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return CLIPModel(config)


def t5(folder: Path) -> Any:
    from transformers import T5Config, T5Model

    return T5Model(T5Config(vocab_size=10, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))


def t5_encoder(folder: Path) -> Any:
    from transformers import T5EncoderModel

    return T5EncoderModel(t5(folder).config)


@pytest.mark.parametrize(("make", "width"), [(clip, 12), (t5, 16), (t5_encoder, 16)])
def test_projections_and_encoders_of_pairs_are_found(make: Any, width: int, copied: Path) -> None:
    """CLIP has a projection for texts, T5 a decoder that has no part in it, nor need be saved."""
    model = make(copied).eval()
    model.save_pretrained(copied)
    encoder = TextEncoder(copied)
    assert encoder.width == width
    tokens = encoder._tokenizer("a red ball", return_tensors="pt")
    with torch.no_grad():
        if make is clip:
            found = model.get_text_features(tokens["input_ids"]).pooler_output[0]
        else:
            found = model.encoder(tokens["input_ids"]).last_hidden_state[0].mean(0)
    wanted = found / found.norm() * width**0.5
    torch.testing.assert_close(encoder(["a red ball"])[0], wanted)


def test_siglip_reads_texts_at_their_full_length(copied: Path) -> None:
    from transformers import AutoTokenizer, SiglipConfig, SiglipModel

    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    layers |= {"num_attention_heads": 2}
    text = layers | {"vocab_size": 10, "max_position_embeddings": 12}
    vision = layers | {"image_size": 8, "patch_size": 4}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(copied)
    tokenizer = AutoTokenizer.from_pretrained(copied)
    ids_1L = tokenizer("a red ball", padding="max_length", max_length=12)["input_ids"]
    with torch.no_grad():
        found = model.get_text_features(torch.tensor([ids_1L])).pooler_output[0]
    wanted = found / found.norm() * 4
    torch.testing.assert_close(TextEncoder(copied)(["a red ball"])[0], wanted)


def test_a_model_with_random_layers_is_no_encoder(copied: Path) -> None:
    """Of which its file has only some."""
    told = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(told | {"num_hidden_layers": 2}))
    with pytest.raises(UserError, match="the weights are not those of the BertModel that its"):
        TextEncoder(copied)


@pytest.mark.parametrize(("positions", "stated"), [(514, None), (40, None), (40, 512), (40, 38)])
def test_a_long_text_is_cut_to_what_the_model_takes(
    positions: int, stated: int | None, copied: Path
) -> None:
    """Some positions of RoBERTa stand for no token, and its tokenizer need not say how many do."""
    from transformers import BertTokenizerFast, RobertaConfig, RobertaModel

    told = {} if stated is None else {"model_max_length": stated}
    BertTokenizerFast(vocab=str(copied / "vocab.txt"), **told).save_pretrained(copied)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    layers |= {"num_attention_heads": 2, "vocab_size": 10}
    RobertaModel(
        RobertaConfig(max_position_embeddings=positions, pad_token_id=1, **layers)
    ).save_pretrained(copied)
    encoder = TextEncoder(copied)
    long, same, cut = encoder(["a red ball " * n for n in (300, 400, 2)])
    assert long.isfinite().all() and torch.equal(long, same) and not torch.equal(long, cut)
    # Two stand for no token, and two tokens stand for the beginning and the end of the text.
    taken = min(positions - 2, 512) - 2
    words = ("a red ball " * 300).split()
    fits, full = encoder([" ".join(words[:count]) for count in (taken - 1, taken)])
    assert torch.equal(full, long) and not torch.equal(fits, long)


@pytest.mark.parametrize(
    ("stated", "positions", "most"),
    [
        (77, 77, 77),
        (10**30, 514, 512),
        (10**30, 16, 16),
        (4096, 4098, 4096),
        (512, None, 512),
        (10**30, -1, 512),
        (-1, 0, 512),
    ],
)
def test_most_tokens_of_a_text(stated: int, positions: int | None, most: int) -> None:
    class Config:
        max_position_embeddings = positions

        def get_text_config(self) -> Config:
            return self

    model = torch.nn.Module()
    model.config = Config()  # type: ignore[assignment]
    assert most_tokens(SimpleNamespace(model_max_length=stated), model) == most


def test_what_utf8_lacks_is_escaped_as_in_captions(folder: Path) -> None:
    prompt, caption = TextEncoder(folder)(["a \ud800 ball", r"a \ud800 ball"])
    assert torch.equal(prompt, caption)


def whisper() -> Any:
    """A model of another kind of input."""
    from transformers import WhisperConfig, WhisperModel

    names = ("d_model", "encoder_ffn_dim", "decoder_ffn_dim")
    layers = {
        f"{part}_{what}": 1
        for part in ("encoder", "decoder")
        for what in ("layers", "attention_heads")
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return WhisperModel(WhisperConfig(vocab_size=16, **dict.fromkeys(names, 8), **layers, **tokens))


def test_a_model_that_reads_no_texts_is_told_in_a_line(copied: Path) -> None:
    whisper().save_pretrained(copied)
    with pytest.raises(UserError, match=r"^a folder holds no text encoder that transformers loads"):
        TextEncoder(copied, name="a folder")


OTHER = b'{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 10}'


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("model.safetensors", None, "lacks weights as .safetensors; pass a folder that"),
        ("config.json", None, "lacks config.json; pass"),
        ("tokenizer.json", None, "lacks a tokenizer; pass"),
        ("model.safetensors", b"junk", "holds no text encoder that transformers loads: Error"),
        ("config.json", b'{"model_type": "none"}', "holds no text encoder that transformers loads"),
        ("config.json", OTHER, "the weights are not those of the GPT2Model that its config"),
    ],
)
def test_what_is_no_encoder_is_told_in_a_line(
    copied: Path, name: str, content: bytes | None, why: str
) -> None:
    if content is None:
        (copied / name).unlink()
        (copied / "vocab.txt").unlink()
    else:
        (copied / name).write_bytes(content)
    with pytest.raises(UserError, match=why) as told:
        TextEncoder(copied)
    assert "\n" not in str(told.value) and str(copied) in str(told.value)


def test_no_folder_is_told(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"nowhere is no text encoder: it lacks config\.json and"):
        TextEncoder(tmp_path / "nowhere")


def test_pickles_and_code_are_no_files_of_an_encoder() -> None:
    names = ["config.json", "model.safetensors", "tokenizer.json", "spiece.model"]
    others = ["pytorch_model.bin", "modeling_own.py", "README.md", "onnx/config.json"]
    assert encoder_files([*others, *names], "folder") == sorted(names)
    assert files_of({"text": {"files": {"a.json": "0"}}}) == ["text_encoder/a.json"]
    assert files_of({}) == []


@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/a.json", "onnx/a.json", "..", "", "run.py", "a\0.json"]
)
def test_a_name_that_no_file_of_an_encoder_has_is_told(name: str) -> None:
    told = {"text": {"files": {"config.json": "0", name: "1"}}}
    for read in (sums_of, files_of):
        with pytest.raises(UserError, match=r"cannot be a file of a text encoder") as error:
            read(told)
        assert repr(name) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_library_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"transformers, .*pip install .* '\.\[text\]'$"):
        TextEncoder("folder")


def test_the_library_is_imported_with_the_first_encoder_only() -> None:
    script = "import sys, vqvdm, vqvdm.text_encoder; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
