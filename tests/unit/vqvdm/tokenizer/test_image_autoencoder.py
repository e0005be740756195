"""Image autoencoders in folders: which are taken, and what is said of the others."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.image_autoencoders import BARE, autoencoder, rename_as_of_2022, write_autoencoder
from vqvdm.errors import UserError
from vqvdm.tokenizer.image_autoencoder import WEIGHTS, inflated_config, read_weights
from vqvdm.tokenizer.inflated import InflatedConfig, inflated_weights

STABLE_DIFFUSION = {
    "_class_name": "AutoencoderKL", "_diffusers_version": "0.4.2", "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32,
    "out_channels": 3, "sample_size": 256, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
"""The config.json of its autoencoder, as it was published."""
LATER = {
    "force_upcast": True, "latents_mean": None, "latents_std": None, "scaling_factor": 0.3611,
    "shift_factor": 0.1159, "latent_channels": 16, "mid_block_add_attention": True,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
"""What those of later models have besides, or otherwise."""


def test_published_configurations_are_understood() -> None:
    assert inflated_config(STABLE_DIFFUSION, "it") == InflatedConfig()
    later = inflated_config(STABLE_DIFFUSION | LATER, "it")
    assert later == InflatedConfig(image_channels=16, quant_conv=False, post_quant_conv=False)
    assert later.latent_shape(16, 128, 128) == (64, 4, 16, 16)


def test_defaults_are_those_of_diffusers() -> None:
    image = autoencoder(block_out_channels=(64,), norm_num_groups=32)
    stated = inflated_config(image.config | {"_class_name": "AutoencoderKL"}, "it")
    assert inflated_config({"_class_name": "AutoencoderKL"}, "it") == stated


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "AutoencoderKLWan"}, "is of the class AutoencoderKLWan"),
        ({"down_block_types": ["DownEncoderBlock2D"] * 3 + ["Attn"]}, "down_block_types Attn"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "1 up_block_types and 4 block_out_channels"),
        ({"act_fn": "gelu"}, "act_fn gelu"),
        ({"in_channels": 1}, "in_channels 1"),
        ({"norm_type": "spatial"}, "the option norm_type"),
        ({"norm_num_groups": 48}, "cannot be built: 128 channels do not divide into 48 groups"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"--init-from x .*{words}.*: only an AutoencoderKL"):
        inflated_config(STABLE_DIFFUSION | changes, "--init-from x")


@pytest.mark.parametrize("changes", [{}, BARE], ids=["plain", "bare"])
def test_weights_are_read(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = write_autoencoder(tmp_path, **changes)
    expected = inflated_weights(autoencoder(**changes).state_dict())
    found = read_weights(folder, "it")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_names_of_2022_are_known(tmp_path: Path) -> None:
    before = read_weights(write_autoencoder(tmp_path), "it")
    rename_as_of_2022(tmp_path)
    assert any(".proj_attn." in name for name in load_file(tmp_path / WEIGHTS))
    found = read_weights(tmp_path, "it")
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def test_weights_in_half_precision_become_float32(tmp_path: Path) -> None:
    autoencoder().half().save_pretrained(tmp_path)
    found = read_weights(tmp_path, "it")["encoder.conv_in.weight"]
    assert found.dtype == torch.float32 and found.shape == (8, 3, 1, 3, 3)


def test_weights_that_are_not_those_of_the_configuration_are_refused(tmp_path: Path) -> None:
    file = write_autoencoder(tmp_path) / WEIGHTS
    tensors = load_file(file)
    lacking = {name: each for name, each in tensors.items() if name != "encoder.conv_out.bias"}
    cases = [
        (lacking, r"missing keys: encoder\.conv_out\.bias"),
        (tensors | {"more": torch.zeros(1)}, "unexpected keys: more"),
        (tensors | {"encoder.conv_out.bias": torch.zeros(3)}, "holds no AutoencoderKL that"),
    ]
    for changed, words in cases:
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(UserError, match=words) as caught:
            read_weights(tmp_path, "it")
        assert "\n" not in str(caught.value)
    file.write_bytes(b"junk")
    with pytest.raises(UserError, match="it holds no AutoencoderKL that diffusers loads"):
        read_weights(tmp_path, "it")


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    autoencoder().save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "diffusion_pytorch_model.bin").exists()
    with pytest.raises(UserError, match="holds no AutoencoderKL that diffusers loads"):
        read_weights(tmp_path, "it")


def test_the_missing_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(STABLE_DIFFUSION))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"diffusers, which is not installed: .*\[images\]"):
        read_weights(tmp_path, "it")
