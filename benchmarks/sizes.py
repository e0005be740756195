"""How large each preset's models are: parameters, arithmetic, and memory in training.

    python -m benchmarks.sizes [PRESET ...]

Nothing is computed: the nets stand on PyTorch's `meta` device, which computes shapes only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pipelines.recipes import presets
from pipelines.recipes.presets import PRESETS, Preset
from pipelines.training.settings import PIXEL_SPACE
from pipelines.training.world import Kinds, World
from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import BLOCKS, build
from vqvdm.tokenizer.discriminator import Discriminators
from vqvdm.tokenizer.vqgan import VQGAN, ResidualBlock

CLASSES = 101
GPUS_GIB = {"T4": 16, "RTX 4090": 24, "A100 40 GB": 40, "A100 80 GB": 80}
CLIPS = 8
AVERAGED, PLAIN = 5 * 4, 4 * 4
"""Bytes of a parameter in training, fp32: itself, its gradient and Adam's two moments; of nets that
are published their average too."""


@dataclass(frozen=True)
class Size:
    """One net of one preset, for one clip."""

    stage: str
    net: str
    parameters: int
    state_bytes: int
    """Weights, buffers such as the codebook, gradients, averages and the optimiser's moments."""
    gflop: dict[str, float]
    """Forward passes by name, FLOP = 2 multiply-adds."""
    saved_bytes: int
    """What a training step keeps for its way back, in fp32, for one clip."""
    checkpointed_bytes: int
    """The same with activation checkpointing, at its peak: the inputs of all blocks, and what the
    largest one keeps while it is computed again."""


def smallest_gpu(nets: Sequence[Size]) -> str:
    """The smallest GPU that trains the nets of a stage on batches of 8 clips in fp32."""
    need_gib = sum(net.state_bytes + CLIPS * net.saved_bytes for net in nets) / 2**30
    return next((name for name, gib in GPUS_GIB.items() if need_gib < 0.9 * gib), "none alone")


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def gflop(run: Callable[[], object]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes of activations that autograd keeps, each counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or another storage could be given the same address
        return tensor

    alive: list[Tensor] = []
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values())


def checkpointed_bytes(net: nn.Module, block: Kinds, runs: Sequence[Callable[[], Tensor]]) -> int:
    """The most bytes that are kept with activation checkpointing, which this enables in the net."""
    largest = 0

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal largest
        hook.remove()
        largest = max(largest, saved_bytes(lambda: module(*inputs)))

    for module in net.modules():
        if isinstance(module, block):
            hook = module.register_forward_pre_hook(measure)
            for run in runs:
                run()
            hook.remove()
    World(activation_checkpointing=True).checkpoint_activations(net, block)
    return sum(map(saved_bytes, runs)) + largest


def tokenizer_size(preset: Preset) -> Size:
    spec, config = preset.shard_videos, preset.train_vqgan.model
    with torch.device("meta"):
        net = VQGAN(config)
        x = torch.empty(1, 3, spec.frames, spec.size, spec.size)
        z = torch.empty(1, *config.latent_shape(spec.frames, spec.size, spec.size))
    encode, decode = (lambda: net.encoder(x)), (lambda: net.decoder(z))
    codebook_bytes = sum(b.nbytes for b in net.buffers())
    return Size(
        "one",
        "tokenizer",
        parameters(net),
        AVERAGED * parameters(net) + 2 * codebook_bytes,
        {"encode": gflop(encode), "decode": gflop(decode)},
        saved_bytes(encode) + saved_bytes(decode),
        checkpointed_bytes(net, ResidualBlock, (encode, decode)),
    )


def discriminators_size(preset: Preset) -> Size:
    """Of what is kept, both a clip and its reconstruction are counted, which are judged at once."""
    spec, config = preset.shard_videos, preset.train_vqgan.discriminator
    with torch.device("meta"):
        nets = Discriminators(config)
        x = torch.empty(1, 3, spec.frames, spec.size, spec.size)
        frame = torch.zeros(1, dtype=torch.long)

    def logits() -> Tensor:
        return torch.cat([part.flatten() for part in nets(x, frame).logits])

    kept = 2 * saved_bytes(logits)
    return Size(
        "one",
        "discriminators",
        parameters(nets),
        PLAIN * parameters(nets),
        {"judge": gflop(logits)},
        kept,
        kept,
    )


def denoiser_size(preset: Preset) -> Size:
    shape = latent_shape(preset)
    with torch.device("meta"):
        net = build(preset.train_ldm.net, NetInputs(shape[0], CLASSES))
        arguments = (
            torch.empty(1, *shape),
            torch.empty(1),
            torch.empty(1, dtype=torch.long),
            torch.empty(1),
        )
    step = lambda: net(*arguments)  # noqa: E731
    return Size(
        "two",
        "denoiser",
        parameters(net),
        AVERAGED * parameters(net),
        {"step": gflop(step)},
        saved_bytes(step),
        checkpointed_bytes(net, BLOCKS, (step,)),
    )


def sizes(name: str) -> list[Size]:
    """Tokenizer, discriminators and denoiser of a preset."""
    presets.settings(name, "train_vqgan")  # refuses an unknown name in words
    preset = PRESETS[name]()
    if preset.train_ldm.vqgan == PIXEL_SPACE:
        return [denoiser_size(preset)]
    return [tokenizer_size(preset), discriminators_size(preset), denoiser_size(preset)]


def latent_shape(preset: Preset) -> tuple[int, int, int, int]:
    """(C, T, H, W) of what the denoiser works on."""
    spec = preset.shard_videos
    size = (spec.frames, spec.size, spec.size)
    if preset.train_ldm.vqgan == PIXEL_SPACE:
        return 3, *size
    return preset.train_vqgan.model.latent_shape(*size)


def main() -> None:
    print(
        "| preset | net | parameters | GFLOP a clip | weights, optimiser, codebook "
        f"| training, a clip | activation checkpointing | its stage trains on, {CLIPS} clips |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or PRESETS:
        of_preset = sizes(name)
        for size in of_preset:
            stage = [net for net in of_preset if net.stage == size.stage]
            arithmetic = ", ".join(f"{what} {value:.1f}" for what, value in size.gflop.items())
            print(
                f"| {name} | {size.net} | {size.parameters / 1e6:.1f} M | {arithmetic} "
                f"| {size.state_bytes / 2**20:.0f} MiB "
                f"| {size.saved_bytes / 2**20:.0f} MiB | {size.checkpointed_bytes / 2**20:.0f} MiB "
                f"| {smallest_gpu(stage)} |"
            )


if __name__ == "__main__":
    main()
