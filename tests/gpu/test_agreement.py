"""Every net, objective and sampler says on a GPU what it says on a CPU."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.training.world import World
from tests.agreement import TOLERANCE, differing, relative_error
from tests.tiny import write_bundle
from tests.trainings import METHODS, batch
from vqvdm.checkpoint import load_config, save_model
from vqvdm.diffusion.attention import SEQUENCES_AT_ONCE, attend_fused
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.samplers import SAMPLERS, SamplingOptions
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.generator import VideoGenerator
from vqvdm.inference import ready
from vqvdm.metrics.clip_classifier import ClipClassifier
from vqvdm.metrics.pixels import psnr, ssim
from vqvdm.tokenizer.discriminator import DiscriminatorConfig, Discriminators
from vqvdm.tokenizer.quantize import Codebook
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig

DTYPES = [torch.float32, torch.bfloat16]
SAMPLING = [(name, sampler) for name, samplers in SAMPLERS.items() for sampler in samplers]


def spoken(net: nn.Module) -> nn.Module:
    """A net whose residual branches, which start at zero, say something."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


def unet(config: UNetConfig) -> tuple[nn.Module, tuple[Tensor, ...]]:
    z_BCTHW = torch.randn(2, 3, 4, 8, 8)
    conditions = torch.tensor([0.3, 0.9]), torch.tensor([0, 5]), torch.tensor([8.0, 25.0])
    return UNet(config, NetInputs(3, 5)), (z_BCTHW, *conditions)


def vqgan(part: str, factorised: bool) -> tuple[nn.Module, tuple[Tensor, ...]]:
    net = VQGAN(
        VQGANConfig(
            ((1, 4, 4), (4, 2, 2)), (16, 32), (1, 1), codebook_size=64, factorised=factorised
        )
    )
    x_BCTHW = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    return getattr(net, part), (x_BCTHW if part == "encoder" else torch.randn(2, 3, 2, 4, 4),)


class Logits(nn.Module):
    """The discriminators' logits as one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = Discriminators(DiscriminatorConfig(width=8, levels=2))

    def forward(self, x_BCTHW: Tensor, frame_B: Tensor) -> Tensor:
        return torch.cat([logits.flatten() for logits in self.nets(x_BCTHW, frame_B).logits])


def classifier() -> nn.Module:
    net = ClipClassifier(5, size=32)
    net.forward = net.features  # type: ignore[method-assign]
    return net


NETS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "denoiser": lambda: unet(UNetConfig(width=32, multipliers=(1, 2), depths=(1, 1))),
    "denoiser of pixels": lambda: unet(
        UNetConfig(32, (1, 2), (1, 1), factorised=True, spatial_attention_from=1)
    ),
    "encoder": lambda: vqgan("encoder", False),
    "decoder": lambda: vqgan("decoder", False),
    "factorised encoder": lambda: vqgan("encoder", True),
    "factorised decoder": lambda: vqgan("decoder", True),
    "discriminators": lambda: (Logits(), (torch.rand(2, 3, 8, 32, 32), torch.tensor([1, 7]))),
    "classifier": lambda: (
        classifier(), (torch.randint(0, 256, (2, 3, 8, 48, 48), dtype=torch.uint8),)
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_nets(name: str, dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    net, inputs = NETS[name]()
    spoken(net)
    with torch.no_grad():
        expected = net(*inputs)
        there = ready(copy.deepcopy(net), device, torch.float32)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = there(*(each.to(device) for each in inputs))
    assert relative_error(found, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("cosine", [False, True], ids=["euclidean", "cosine"])
def test_codes(cosine: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    codebook = Codebook(3, 512, cosine)
    z_NC = torch.randn(4096, 3)
    codebook.start(z_NC)
    there = copy.deepcopy(codebook).to(device)
    z_BCTHW = torch.randn(2, 3, 4, 16, 16)
    for training in (True, False):
        codebook.train(training), there.train(training)
        with torch.autocast(device.type, torch.bfloat16):  # which must not reach the distances
            found = there(z_BCTHW.to(device))
        expected = codebook(z_BCTHW)
        assert (found.indices_BTHW.cpu() != expected.indices_BTHW).float().mean() < 1e-3
    torch.manual_seed(1)
    codebook.learn(z_NC, codebook(z_NC.T[None, :, :, None, None]).indices_BTHW.flatten())
    torch.manual_seed(1)
    there.learn(z_NC.to(device), there(z_NC.T[None, :, :, None, None].to(device))[1].flatten())
    assert relative_error(there.counts_K, codebook.counts_K) < 1e-2


def bundle_of(folder: Path, objective: str) -> Path:
    bundle = write_tokenised(folder)
    metadata = load_config(bundle) | {"objective": {"name": objective, "intervals": 4}}
    config = UNetConfig(width=16, multipliers=(1, 2), depths=(1, 1), head_width=8)
    net = UNet(config, NetInputs(3, 2, intervals=objective == "average_velocity"))
    torch.manual_seed(0)
    save_model(bundle, spoken(net), metadata | {"model": vars(net.config)})
    return bundle


def write_tokenised(folder: Path) -> Path:
    """A tiny bundle with a codebook: FSQ's package is missing on some machines."""
    tokenizer = VQGANConfig(((4, 8, 8),), (8,), (1,), codebook_size=64)
    return write_bundle(folder, tokenizer=tokenizer)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize(("objective", "sampler"), SAMPLING)
def test_samplers(
    objective: str, sampler: str, dtype: torch.dtype, device: torch.device, tmp_path: Path
) -> None:
    bundle = bundle_of(tmp_path, objective)
    precision = "fp32" if dtype == torch.float32 else "bf16"
    here = VideoGenerator.load(bundle, "cpu", "fp32")
    there = VideoGenerator.load(bundle, device, precision)  # type: ignore[arg-type]
    options = SamplingOptions(4, 1.5, sampler)
    expected, found = (
        made.sample_latents(["zero", None], 8.0, options=options) for made in (here, there)
    )
    # An error of the noise is divided by the level of the signal, at first a hundredth.
    tolerance = TOLERANCE[dtype] if dtype == torch.float32 or objective != "epsilon" else 0.5
    assert relative_error(found, expected) < tolerance
    if dtype == torch.float32:
        pixels, expected_pixels = (made.vqgan.decode(expected.to(d)) for made, d in
                                   ((there, device), (here, "cpu")))  # fmt: skip
        assert relative_error(pixels, expected_pixels) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", METHODS)
def test_training_steps(name: str, device: torch.device) -> None:
    if name == "fsq":
        pytest.importorskip("vector_quantize_pytorch")
    here, there = (METHODS[name](world, 2) for world in (World(), World(device=device)))
    for step in (0, 8):  # the discriminators judge both
        expected, found = (dict(method.train_step(batch(), step)) for method in (here, there))
        assert found["skipped_steps"] == 0
        assert differing(found, expected) == {}


def test_errors_of_pixels(device: torch.device) -> None:
    torch.manual_seed(0)
    x, y = (torch.rand(2, 3, 4, 32, 32) * 2 - 1 for _ in range(2))
    for metric in (psnr, ssim):
        assert relative_error(metric(x.to(device), y.to(device)), metric(x, y)) < 1e-4


def test_frames_are_judged_where_the_classifier_is(device: torch.device) -> None:
    from pipelines.evaluation.frame_classifier import FrameClassifier, frame_probabilities

    torch.manual_seed(0)
    net = FrameClassifier(3).eval()
    videos = np.random.default_rng(0).integers(0, 256, (3, 4, 32, 32, 3), np.uint8)
    expected = frame_probabilities(net, videos)
    found = frame_probabilities(net.to(device), videos)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_more_sequences_than_a_grid_takes(device: torch.device, rehearsal: bool) -> None:
    count = 100 if rehearsal else SEQUENCES_AT_ONCE + 7
    q, k, v = (torch.randn(count, 1, 4, 8, device=device, requires_grad=True) for _ in range(3))
    y = attend_fused(q, k, v)
    expected = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    assert relative_error(y, expected) < 1e-4
    weight = torch.randn_like(y)
    pairs = zip(*(torch.autograd.grad(each, (q, k, v), weight) for each in (y, expected)),
                strict=True)  # fmt: skip
    assert all(relative_error(*pair) < 1e-4 for pair in pairs)
