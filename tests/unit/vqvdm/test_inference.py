"""Nets made ready to run say what the plain ones say, in the precision asked for."""

import copy
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from vqvdm.cpu import PackedConv3d, packs
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.unet import UNet, UNetConfig
from vqvdm.errors import UserError
from vqvdm.inference import (
    Precision,
    common_precision,
    compiles_by_default,
    default_device,
    prepare_device,
    ready,
    resolve_precision,
)
from vqvdm.layers import Conv3d
from vqvdm.tokenizer.vqgan import VQGAN, VQGANConfig


def denoiser() -> UNet:
    torch.manual_seed(0)
    net = UNet(UNetConfig(width=32, multipliers=(1, 2), depths=(1, 1)), NetInputs(3, 5)).eval()
    for parameter in net.parameters():  # an untrained denoiser says nothing
        nn.init.normal_(parameter, std=0.1)
    return net.requires_grad_(False)


def predict(net: UNet, batch: int = 2, size: int = 8) -> Tensor:
    z_BCTHW = torch.randn(batch, 3, 4, size, size, generator=torch.Generator().manual_seed(1))
    times, classes, fps = torch.rand(batch), torch.arange(batch), torch.full((batch,), 12.0)
    return net(z_BCTHW, times.fill_(0.4), classes, fps)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_a_denoiser_made_ready_agrees_with_the_plain_one(
    dtype: torch.dtype, tolerance: float
) -> None:
    plain = denoiser()
    fast = ready(copy.deepcopy(plain), "cpu", dtype)
    # The first input decides on the layout; others must come out right as well.
    for batch, size in ((2, 8), (1, 8), (3, 16), (2, 4)):
        found, expected = predict(fast, batch, size), predict(plain, batch, size)
        assert found.dtype == dtype
        assert relative_error(found, expected) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_decoder_made_ready_agrees_with_the_plain_one(
    dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(
        VQGANConfig(blocks=((1, 4, 4), (4, 2, 2)), widths=(16, 32), depths=(1, 1), quantizer="fsq")
    ).eval()
    z_BCTHW = torch.rand(2, 3, 2, 4, 4) * 2 - 1
    with torch.no_grad():
        expected = vqgan.decode(z_BCTHW)
        ready(vqgan.decoder, "cpu", dtype)
        assert relative_error(vqgan.decode(z_BCTHW), expected) < tolerance
        # The codes are the same in any precision: the quantiser stays as it is.
        assert vqgan.quantizer(z_BCTHW).z_BCTHW.dtype == torch.float32


def test_packing_is_part_of_it() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        kinds = {type(module) for module in ready(denoiser(), "cpu", dtype).modules()}
        assert not kinds & ({Conv3d, nn.Conv3d} if packs(dtype) else {PackedConv3d})
        assert (nn.Linear in kinds) == (dtype == torch.float32 or not packs(dtype))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_given_precision_is_obeyed(device: str) -> None:
    assert resolve_precision("bf16", torch.device(device)) == torch.bfloat16
    assert resolve_precision("fp32", torch.device(device)) == torch.float32
    with pytest.raises(UserError, match="'half': use auto, fp32, bf16, fp16"):
        resolve_precision("half", torch.device(device))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False, "amx_tile": False}, torch.float32),
        ({"avx512_bf16": True, "amx_tile": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_tile": True}, torch.bfloat16),
    ],
)
def test_auto_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert resolve_precision("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("card", "capability", "expected"),
    [
        ("GTX 1080", (6, 1), torch.float32),
        ("V100", (7, 0), torch.float16),
        ("T4", (7, 5), torch.float16),
        ("A100", (8, 0), torch.bfloat16),
        ("RTX 4090", (8, 9), torch.bfloat16),
        ("H100", (9, 0), torch.bfloat16),
        ("B200", (10, 0), torch.bfloat16),
    ],
)
def test_auto_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, card: str, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    # What emulates bf16 counts as supporting it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert resolve_precision("auto", torch.device("cuda")) == expected


@pytest.fixture
def untouched() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    cudnn.benchmark, cudnn.allow_tf32 = before[:2]
    torch.set_float32_matmul_precision(before[2])


@pytest.mark.usefixtures("untouched")
def test_a_gpu_is_prepared_and_fp32_means_fp32() -> None:
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.allow_tf32 = False, True  # PyTorch's defaults
    prepare_device("cpu")
    assert (cudnn.benchmark, cudnn.allow_tf32) == (False, True)
    prepare_device("cuda")
    assert (cudnn.benchmark, cudnn.allow_tf32) == (True, False)
    torch.set_float32_matmul_precision("high")
    prepare_device(torch.device("cuda", 0), tf32=True)
    assert (cudnn.benchmark, cudnn.allow_tf32) == (True, True)
    # Codes are chosen by products in fp32: they are the same in every precision.
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_device_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert default_device() == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "variable", "found", "expected"),
    [
        ("cuda", None, "gcc", True),
        ("cuda", None, "clang", True),
        ("cuda", "/opt/cc", None, True),
        ("cuda", None, None, False),  # python:slim has no compiler
        ("cpu", None, "gcc", False),
    ],
)
def test_compiling_wants_a_gpu_and_a_c_compiler(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    variable: str | None,
    found: str | None,
    expected: bool,
) -> None:
    monkeypatch.delenv("CC", raising=False)
    if variable:
        monkeypatch.setenv("CC", variable)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == found else None)
    assert compiles_by_default(device) == expected


def test_what_will_be_compiled_is_not_packed() -> None:
    kinds = {type(m) for m in ready(denoiser(), "cpu", torch.float32, packed=False).modules()}
    assert Conv3d in kinds


AMPERE: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
TURING: tuple[Precision, ...] = ("fp16", "fp32")
PASCAL: tuple[Precision, ...] = ("fp32",)


@pytest.mark.parametrize(
    ("of_each", "begun", "expected"),
    [
        ([AMPERE, AMPERE], None, "bf16"),
        ([AMPERE, TURING], None, "fp16"),
        ([TURING, AMPERE], None, "fp16"),
        ([AMPERE, TURING, PASCAL], None, "fp32"),
        ([AMPERE], "fp16", "fp16"),
        ([AMPERE, TURING], "bf16", "fp16"),
        ([("bf16", "fp32")], "fp16", "bf16"),  # a processor
        ([AMPERE], "fp32", "fp32"),
    ],
)
def test_devices_that_work_together_use_what_none_emulates(
    of_each: list[tuple[Precision, ...]], begun: Precision | None, expected: Precision
) -> None:
    assert common_precision(of_each, begun) == expected
