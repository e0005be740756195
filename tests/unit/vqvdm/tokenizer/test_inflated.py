"""A tokenizer out of an image autoencoder: each frame is what the latter makes of it, at first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.image_autoencoders import BARE, autoencoder
from tests.tiny import write_bundle
from vqvdm import VideoGenerator
from vqvdm.checkpoint import save_model
from vqvdm.errors import UserError
from vqvdm.generator import load_vqgan
from vqvdm.tokenizer.image_autoencoder import inflated_config
from vqvdm.tokenizer.inflated import (
    TEMPORAL,
    Inflated,
    InflatedConfig,
    inflated_weights,
)
from vqvdm.tokenizer.kinds import build_for, described, read_config
from vqvdm.tokenizer.pixels import PIXELS, Pixels
from vqvdm.tokenizer.vqgan import VQGANConfig

TINY = InflatedConfig((8, 16), 1, 4, 4)
ROOT = Path(__file__).parents[4]


def inflated(image: Any, group: int = 4) -> Inflated:
    """The tokenizer out of an autoencoder of `diffusers`, its layers in time as they begin."""
    config = inflated_config(image.config | {"_class_name": "AutoencoderKL"}, "it")
    net = Inflated(InflatedConfig(**{**vars(config), "group": group}))
    found = net.load_state_dict(inflated_weights(image.state_dict()), strict=False)
    assert not found.unexpected_keys and all(TEMPORAL in name for name in found.missing_keys)
    return net


def random(seed: int = 0, config: InflatedConfig = TINY) -> Inflated:
    """A tokenizer whose layers in time say something, as trained ones do."""
    torch.manual_seed(seed)
    net = Inflated(config)
    for name, parameter in net.named_parameters():
        if TEMPORAL in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return net


def clips(frames: int = 8, height: int = 16, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, frames, height, width, generator=generator) * 2 - 1


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        BARE,
        {"use_post_quant_conv": False, "block_out_channels": (8, 12, 16), "layers_per_block": 2},
        {"block_out_channels": (8,), "latent_channels": 3},
    ],
    ids=["plain", "bare", "three levels", "one level"],
)
@torch.no_grad()
def test_each_frame_is_reconstructed_as_by_the_image_autoencoder(
    changes: dict[str, Any], group: int
) -> None:
    image = autoencoder(**changes)
    net, x = inflated(image, group), clips()
    z, (y, quantized) = net.encode(x), net(x)
    assert z.shape[1:] == net.config.latent_shape(8, 16, 24)
    assert torch.equal(net.decode(z), y) and torch.equal(quantized.z_BCTHW, z)
    channels = net.config.image_channels
    for frame in range(8):
        mean = image.encode(x[:, :, frame]).latent_dist.mode()
        first = frame % group * channels
        own = z[:, first : first + channels, frame // group]
        torch.testing.assert_close(own, mean, rtol=0, atol=1e-4)
        expected = image.decode(mean).sample
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(y[:, :, frame], expected, rtol=0, atol=1e-4)


def test_layers_in_time_begin_as_the_identity_and_learn() -> None:
    net, x = inflated(autoencoder()), clips()
    (net(x)[0] - x).square().mean().backward()
    kernels = {
        name: parameter
        for name, parameter in net.named_parameters()
        if TEMPORAL in name and name.endswith("conv.weight")
    }
    assert len(kernels) == 2 * (2 + 1)  # of both nets, each level and the middle
    for name, kernel in kernels.items():
        assert not kernel.any() and kernel.grad is not None and kernel.grad.any(), name
    # Once they have learned, frames depend on their neighbours.
    with torch.no_grad():
        for kernel in kernels.values():
            kernel += 0.1
        other = x.clone()
        other[:, :, 0] *= -1
        assert not torch.allclose(net(other)[0][:, :, 7], net(x)[0][:, :, 7], atol=1e-4)


def test_the_gradient_of_the_last_weight_is_that_of_autograd() -> None:
    layer = random().last_layer
    h = torch.randn(2, 8, 4, 16, 16)
    gradient = torch.randn(2, 3, 4, 16, 16)
    (layer(h) * gradient).sum().backward()
    expected = layer.weight.grad.flatten(1)  # type: ignore[attr-defined]
    found = layer.weight_gradient(h.bfloat16().float(), gradient)
    assert found.shape == (3, 8 * 9)
    torch.testing.assert_close(layer.weight_gradient(h, gradient), expected)
    assert layer.weight_gradient(h.bfloat16(), gradient).dtype == torch.float32


def test_clips_pass_alone_where_no_gradient_is_wanted() -> None:
    net, x, seen = random(), clips(), list[int]()
    together, _ = net(x)
    for part in (net.encoder, net.decoder):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0], together)
        assert seen == [1, 1, 1, 1]
        assert net.decode(net.encode(x)).shape == x.shape
    net(x)
    assert seen[-2:] == [2, 2]


def test_stable_diffusions_shape_is_the_default() -> None:
    """What is published as SD's autoencoder has 83,653,863 weights; the rest are layers in time."""
    config = InflatedConfig()
    assert config.latent_shape(16, 128, 128) == (16, 4, 16, 16)
    with torch.device("meta"):
        net = Inflated(config)
    image = [p.numel() for name, p in net.named_parameters() if TEMPORAL not in name]
    assert sum(image) == 83_653_863


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (InflatedConfig(()), "at least one"),
        (InflatedConfig((8, 30), norm_groups=8), "30 channels do not divide into 8 groups"),
        (InflatedConfig(group=0), "group must be at least 1"),
    ],
)
def test_a_shape_that_makes_no_net_is_refused(config: InflatedConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Inflated(config)


def test_clips_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="6 frames do not divide by 4; use 4 or 8"):
        TINY.latent_shape(6, 16, 16)
    with pytest.raises(UserError, match="17 height do not divide by 2"):
        random().encode(clips(height=17))


def test_a_config_json_tells_which_tokenizer_it_is_of() -> None:
    for config in (TINY, VQGANConfig(widths=(8, 16))):
        assert read_config(described(config)) == config
        assert build_for(described(config)).config == config
    assert "tokenizer" not in described(VQGANConfig())  # as earlier versions read it
    assert isinstance(build_for({"model": PIXELS}), Pixels)
    assert read_config({"model": PIXELS}).latent_shape(3, 5, 7) == (3, 3, 5, 7)
    with pytest.raises(UserError, match="tokenizer 'waves', which is not inflated"):
        read_config({"model": {}, "tokenizer": "waves"})


WITHOUT = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "diffusers":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuses())
import torch
from vqvdm.generator import load_vqgan

torch.save(load_vqgan(sys.argv[1]).encode(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.long
def test_what_is_published_needs_no_diffusers(tmp_path: Path) -> None:
    net, x = random(), clips()
    save_model(tmp_path / "net", net, described(TINY))
    torch.save(x, tmp_path / "x")
    arguments = [str(tmp_path / name) for name in ("net", "x", "z")]
    subprocess.run([sys.executable, "-c", WITHOUT, *arguments], cwd=ROOT, check=True, timeout=300)
    assert torch.equal(torch.load(tmp_path / "z"), load_vqgan(tmp_path / "net").encode(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_decoder_takes_another_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    net, x = random(), clips()
    save_model(tmp_path, net, described(TINY))
    loaded = load_vqgan(tmp_path, decoder_dtype=dtype)
    with torch.no_grad():
        z = net.encode(x)
        torch.testing.assert_close(loaded.encode(x), z)
        y = loaded.decode(z)
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), net.decode(z), rtol=0.1, atol=0.1)


def test_a_bundle_with_it_samples_in_other_sizes(tmp_path: Path) -> None:
    config = InflatedConfig((8, 8, 8), 1, 2, 4)
    generator = VideoGenerator.load(write_bundle(tmp_path, tokenizer=config), precision="fp32")
    assert generator.compression == (4, 4, 4) and generator.group == 4
    videos = generator.sample(["zero", "seven"], fps=8, steps=1)
    assert videos.shape == (2, 16, 32, 32, 3)
    assert generator.sample(["zero"], fps=8, steps=1, size=64, frames=8).shape[:3] == (1, 8, 64)
    with pytest.raises(UserError, match="frames is 6: this model makes multiples of 4"):
        generator.sample(["zero"], fps=8, steps=1, frames=6)
    assert videos.std() > 1


@torch.no_grad()
def test_a_compiled_decoder_decodes_the_same() -> None:
    net = random()
    z = torch.randn(3, 16, 1, 4, 4)
    expected = net.decode(z)
    net.decoder.compile(backend="aot_eager", dynamic=False)
    torch.testing.assert_close(net.decode(z), expected)
