"""How fast both stages of `ucf101-small` train and encode, and how much of the GPU that uses."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.bundle import CLASSES
from benchmarks.gpu.profiling import kernels
from benchmarks.gpu.setup import Setup
from benchmarks.memory import MemoryBatch, random_batch
from benchmarks.sizes import denoiser_size, gflop, latent_shape, tokenizer_size
from pipelines.recipes.presets import Preset
from pipelines.training.methods.base import Method
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.methods.vqgan import VQGANMethod
from pipelines.training.world import World
from vqvdm.generator import from_uint8
from vqvdm.inference import prepare_device
from vqvdm.tokenizer.discriminator import Discriminators
from vqvdm.tokenizer.vqgan import VQGAN


def stage_two(setup: Setup, world: World) -> Method:
    data = {
        "shape": latent_shape(setup.preset), "classes": CLASSES, "fps": [25.0],
        "mean": [0.0] * 3, "std": [1.0] * 3,
    }  # fmt: skip
    return LDMMethod(setup.preset.train_ldm, world, data)


def latents(setup: Setup, count: int) -> MemoryBatch:
    shape = latent_shape(setup.preset)
    return random_batch(count, latent=shape, classes=len(CLASSES), pinned=setup.is_gpu)


def stage_one(setup: Setup, world: World) -> Method:
    return VQGANMethod(setup.preset.train_vqgan, world)


def clips(setup: Setup, count: int) -> MemoryBatch:
    spec = setup.preset.shard_videos
    return random_batch(count, clip=(spec.frames, spec.size, spec.size), pinned=setup.is_gpu)


Make = Callable[[Setup, World], Method]
Feed = Callable[[Setup, int], MemoryBatch]


def gflop_of_stage_two(preset: Preset) -> float:
    """Arithmetic of a training step for a clip, FLOP = 2 multiply-adds: the net forwards, and
    twice that backwards, as is the custom for MFU."""
    return 3 * denoiser_size(preset).gflop["step"]


def gflop_of_stage_one(preset: Preset) -> float:
    """The same for the tokenizer, without discriminators."""
    return 3 * sum(tokenizer_size(preset).gflop.values())


def gflop_of_discriminators(preset: Preset) -> float:
    """What the discriminators add: forwards and back to the reconstruction for the tokenizer,
    forwards for feature matching, and both ways for clips and reconstructions."""
    spec, config = preset.shard_videos, preset.train_vqgan
    with torch.device("meta"):
        nets = Discriminators(config.discriminator)
        x = torch.empty(1, 3, spec.frames, spec.size, spec.size)
        frame = torch.zeros(1, dtype=torch.long)
    return (2 + bool(config.loss.feature_matching) + 6) * gflop(lambda: nets(x, frame))


def throughput(
    setup: Setup,
    name: str,
    make: Make,
    feed: Feed,
    batch_size: int,
    step: int,
    gflop_a_clip: float,
    compiled: bool,
) -> None:
    """Clips a second of training steps, and the share of the GPU's arithmetic in that."""
    prepare_device(setup.device, tf32=setup.dtype != torch.float32)
    method = make(setup, setup.world(compiled))
    batch = feed(setup, batch_size)
    there = batch.to(setup.device)
    method.train_step(batch, 0)

    def train(on: MemoryBatch) -> Callable[[], object]:
        return lambda: method.train_step(on, step)

    taken = setup.seconds(train(batch), setup.training_steps)
    way = "compiled" if compiled else "eager"
    speeds = [batch_size / each for each in taken]
    notes = {"batch": batch_size, "gflop_a_clip": float(f"{gflop_a_clip:.4g}")}
    if setup.is_gpu:  # with what CUDA graphs keep, which is not counted as allocated
        notes["reserved_mib"] = round(torch.cuda.memory_reserved() / 2**20)
    speed = setup.record.add(f"{name}, {way}", speeds, "clips/s", **notes)
    if peak := setup.record.data["machine"]["peak_tflops"]:
        mfu = speed * gflop_a_clip / 1e3 / peak
        setup.record.add(f"MFU of {name}, {way}", [mfu], "of the peak", peak_tflops=peak)
    # What the loop waits for data: with batches that lie on the GPU already, it has none to copy.
    on_gpu = setup.seconds(train(there), setup.training_steps)
    waits = [max(0.0, 1 - b / a) for a, b in zip(taken, on_gpu, strict=True)]
    setup.record.add(f"data wait of {name}, {way}", waits, "of a step")
    kernels(setup, f"{name}, {way}", train(there))
    setup.empty()


def both_stages(setup: Setup, compiled: bool) -> None:
    """A part of the record for each, in the order of their worth."""
    vqgan, ldm = setup.preset.train_vqgan, setup.preset.train_ldm
    late = vqgan.steps - 1  # the discriminators have their full weight
    alone = gflop_of_stage_one(setup.preset)
    judged = alone + gflop_of_discriminators(setup.preset)
    works = {
        "stage two": (stage_two, latents, ldm.batch_size, 1, gflop_of_stage_two(setup.preset)),
        "stage one": (stage_one, clips, vqgan.batch_size, late, judged),
        "stage one without discriminators": (stage_one, clips, vqgan.batch_size, 1, alone),
    }
    way = "compiled" if compiled else "eager"
    for name, arguments in works.items():
        setup.part(f"{name}, {way}", throughput, name, *arguments, compiled)
        conclude(setup)


def conclude(setup: Setup) -> None:
    """The better way of each stage."""
    figures = setup.record.data["figures"]
    for name in ("stage two", "stage one", "MFU of stage two", "MFU of stage one"):
        ways = [figures[f"{name}, {way}"] | {"by": way} for way in ("eager", "compiled")
                if f"{name}, {way}" in figures]  # fmt: skip
        if ways:
            figures[name] = max(ways, key=lambda each: each["value"])
    setup.record.save()


def encoding(setup: Setup, batch_size: int, compiled: bool) -> None:
    """Clips a second of the encoder, from frames, as `encode_latents`; and of the decoder."""
    prepare_device(setup.device)
    way = "compiled" if compiled else "eager"
    config = setup.preset.train_vqgan.model
    vqgan = setup.world(False).place(VQGAN(config)).eval().requires_grad_(False)
    spec = setup.preset.shard_videos
    if compiled:
        setup.world(True).compile(vqgan.encoder, vqgan.decoder)
    video = clips(setup, batch_size).to(setup.device).tensors["video"]
    z = torch.randn(
        batch_size, *config.latent_shape(spec.frames, spec.size, spec.size), device=setup.device
    )

    @torch.inference_mode()
    def encode() -> object:
        with setup.world(False).autocast():
            return vqgan.encode(from_uint8(video))

    @torch.inference_mode()
    def decode() -> object:
        return vqgan.decode(z)

    def add(name: str, work: Callable[[], object]) -> None:
        speeds = [batch_size / each for each in setup.seconds(work, setup.training_steps)]
        setup.record.add(f"{name}, {batch_size} clips, {way}", speeds, "clips/s")
        kernels(setup, f"{name}, {batch_size} clips, {way}", work)

    add("encoder", encode)
    vqgan.decoder.to(setup.dtype)
    add("decoder", decode)
    setup.empty()
