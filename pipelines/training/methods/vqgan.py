"""Stage one: how the tokenizer is trained, a VQGAN or one out of an image autoencoder.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from pipelines.training.methods.base import Batch, InitialWeights, begin_with, mean_over_parts
from pipelines.training.methods.critic import Critic, Pair
from pipelines.training.optimise import Optimiser, scheduled_lr, step_together
from pipelines.training.perceptual import load_perceptual
from pipelines.training.settings import TrainVQGAN
from pipelines.training.world import Draws, World
from pipelines.video import Frames
from vqvdm.checkpoint import save_model
from vqvdm.ema import EMA
from vqvdm.generator import from_uint8, to_uint8
from vqvdm.metrics.pixels import psnr
from vqvdm.seeds import mix
from vqvdm.tokenizer.base import Tokenizer
from vqvdm.tokenizer.discriminator import one_frame
from vqvdm.tokenizer.kinds import BLOCKS, build, described
from vqvdm.tokenizer.losses import adaptive_weight, adversarial_weight, reconstruction_loss
from vqvdm.tokenizer.quantize import Quantized, as_rows, codebook_usage

SETTLED = 0.9
"""Share of the training after which no code is replaced: those that are published are means of
latents, not latents drawn at random."""


class _Part(NamedTuple):
    """A part of a batch: clips, and the frame of each that image networks see."""

    x_BCTHW: Tensor
    shown_B: Tensor


class _Output(NamedTuple):
    """What the tokenizer makes of clips."""

    y_BCTHW: Tensor
    """Reconstructions."""
    h_BCTHW: Tensor
    """The input of the decoder's last layer."""
    z_BCTHW: Tensor
    """Raw latents."""
    quantized: Quantized


class _Gradients(NamedTuple):
    """The losses of reconstructions, and their gradients at these."""

    losses: dict[str, Tensor]
    reconstruction_BCTHW: Tensor
    """Gradient of the reconstruction loss, the perceptual loss included, where there is one."""
    adversarial_BCTHW: Tensor | None = None
    last_2OC: Tensor | None = None
    """Both gradients at the weight of the decoder's last layer."""


class _Passed(NamedTuple):
    """What the codebook and the discriminators learn from."""

    pair: Pair
    z_BCTHW: Tensor
    indices_BTHW: Tensor


class _Through(nn.Module):
    """Pixels to reconstructions, with what lies on the way: what DDP is wrapped around.

    The decoder's last layer is apart, so that its input is at hand when the rest is compiled.
    """

    def __init__(self, vqgan: Tokenizer) -> None:
        super().__init__()
        self.vqgan, self.to_last = vqgan, vqgan.decoder[:-1]

    def forward(self, x_BCTHW: Tensor) -> _Output:
        z = self.vqgan.encode(x_BCTHW)
        quantized = self.vqgan.quantizer(z)
        h = self.to_last(quantized.z_BCTHW)
        return _Output(self.vqgan.last_layer(h).float(), h, z, quantized)


def _mirrored(x_BCTHW: Tensor, which_B: Tensor) -> Tensor:
    """The clips, of some the mirror image."""
    return torch.where(rearrange(which_B, "b -> b 1 1 1 1"), x_BCTHW.flip(-1), x_BCTHW)


class VQGANMethod:
    """Reconstruction + VQ + discriminator losses, in alternating steps."""

    def __init__(
        self, config: TrainVQGAN, world: World, initial: InitialWeights | None = None
    ) -> None:
        """`initial` are the weights to begin with, if not random ones."""
        self.config, self.world, self.initial = config, world, initial
        torch.manual_seed(config.seed)
        self.vqgan = world.place(build(config.net))
        self.critic = Critic(config, world)
        self.perceptual = config.perceptual and load_perceptual(config.perceptual, world.device)
        self.ema = EMA(self.vqgan, config.ema_decay)
        self._through = _Through(self.vqgan)
        world.checkpoint_activations(self.vqgan, BLOCKS)
        world.compile(self.vqgan.encoder, self._through.to_last)
        self._through_ddp = world.wrap(self._through)
        adamw = torch.optim.AdamW(
            self.vqgan.parameters(),
            config.lr,
            (0.9, 0.99),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.optimiser = Optimiser(adamw, world, config.grad_clip)

    def start(self) -> str | None:
        return begin_with(self.initial, self.vqgan, self.ema.average)

    def _pixels(self, batch: Batch) -> Tensor:
        return from_uint8(batch.to(self.world.device).tensors["video"])

    def _parts(self, batch: Batch, step: int) -> list[_Part]:
        """The parts of a batch as pixels, and a frame of each clip drawn at random."""
        parts = []
        for index, part in enumerate(split := batch.split(self.config.accumulate)):
            x = self._pixels(part)
            draws = Draws(self.world, self.config.seed, step, index, len(split))
            shown = (draws.uniform(len(x)) * x.shape[2]).long()
            if self.config.augment == "mirror":
                x = _mirrored(x, draws.uniform(len(x)) < 0.5)
            parts.append(_Part(x, shown))
        return parts

    def train_step(self, batch: Batch, step: int) -> Mapping[str, Tensor]:
        # Dead codes are replaced at random: a seed a step makes a resumed training the same.
        torch.manual_seed(mix(self.config.seed, step))
        parts = self._parts(batch, step)
        if step == 0:
            self._place_codes(parts)
        weight = adversarial_weight(step, self.config.steps, self.config.loss)
        of_parts: list[_Gradients] = []
        balance = None
        if weight and len(parts) > 1:
            # One balance for the whole batch: its parts go through the tokenizer once more.
            of_parts = [
                self._gradients(part, self._forward(self._through, part), True) for part in parts
            ]
            balance = self._balance(of_parts)
        passed, metrics = [], []
        for index, part in enumerate(parts):
            with self.world.collecting(self._through_ddp, last=index == len(parts) - 1):
                one = self._forward(self._through_ddp, part)
                gradients = (
                    of_parts[index] if of_parts else self._gradients(part, one, bool(weight))
                )
                if weight and balance is None:
                    balance = self._balance([gradients])
                metrics.append(self._backward(one, gradients, weight, balance, len(parts)))
            pair = Pair(part.x_BCTHW, one.y_BCTHW.detach(), part.shown_B)
            passed.append(_Passed(pair, one.z_BCTHW.detach(), one.quantized.indices_BTHW))
        whole = mean_over_parts(metrics)
        lr = scheduled_lr(step, self.config)
        rates = [(self.optimiser, lr)]
        if weight:
            judged = self.critic.backward([one.pair for one in passed])
            rates.append((self.critic.optimiser, self.critic.lr(lr)))
        took = step_together(*rates)
        self._learn_codes(passed, took, settle=step >= SETTLED * self.config.steps)
        self.ema.update(self.vqgan, step)
        if weight:
            whole |= judged
            self.critic.remember(judged, took)
        whole |= self.optimiser.metrics()
        return whole | {"adversarial_weight": torch.full((), weight, device=self.world.device)}

    def _forward(self, net: nn.Module, part: _Part) -> _Output:
        with self.world.autocast():
            return net(part.x_BCTHW)

    def _gradients(self, part: _Part, output: _Output, judged: bool) -> _Gradients:
        """Gradients at the reconstructions, so that each net that judges them is passed once."""
        x, shown = part
        y = output.y_BCTHW.detach().requires_grad_()
        reconstruction, losses = reconstruction_loss(x, y, self.config.loss), {}
        if self.perceptual:
            perceptual = self.perceptual(one_frame(x, shown), one_frame(y, shown))
            reconstruction = reconstruction + self.config.loss.perceptual * perceptual
            losses["perceptual"] = perceptual.detach()
        losses["reconstruction"] = reconstruction.detach()
        gradient = self.optimiser.gradient(reconstruction, y)
        if not judged:
            return _Gradients(losses, gradient)
        adversarial = self.critic.adversarial_loss(Pair(x, y, shown))
        losses["adversarial"] = adversarial.detach()
        both = (gradient, self.optimiser.gradient(adversarial, y))
        h, last = output.h_BCTHW.detach(), self.vqgan.last_layer
        return _Gradients(losses, *both, torch.stack([last.weight_gradient(h, g) for g in both]))

    def _balance(self, of_parts: Sequence[_Gradients]) -> Tensor:
        """The adaptive weight, from gradients averaged over parts and workers: one for all."""
        parts = [gradients.last_2OC for gradients in of_parts if gradients.last_2OC is not None]
        return adaptive_weight(*self.world.average(torch.stack(parts).mean(0)))

    def _backward(
        self,
        output: _Output,
        gradients: _Gradients,
        weight: float,
        balance: Tensor | None,
        parts: int,
    ) -> dict[str, Tensor]:
        """Add the gradient of one of several parts; its losses."""
        found = gradients.losses | {"vq": output.quantized.loss.detach()}
        gradient, loss = gradients.reconstruction_BCTHW, found["reconstruction"]
        if balance is not None:
            assert gradients.adversarial_BCTHW is not None
            gradient = gradient + weight * balance * gradients.adversarial_BCTHW
            loss = loss + weight * balance * found["adversarial"]
            found["adversarial_balance"] = balance
        # The gradient of this sum at the reconstructions is the one that was found there.
        at_y = (gradient * output.y_BCTHW).sum()
        self.optimiser.backward((at_y + self.config.loss.vq * output.quantized.loss) / parts)
        return found | {"loss": loss + self.config.loss.vq * found["vq"]}

    @torch.no_grad()
    def _place_codes(self, parts: Sequence[_Part]) -> None:
        """Start the codes among the latents of the first batch, those of all workers."""
        # Compiling another graph for a single pass would take longer than the pass.
        with self.world.autocast(), torch.compiler.set_stance("force_eager"):
            z = torch.cat([self.vqgan.encode(part.x_BCTHW) for part in parts])
        self.vqgan.quantizer.start(as_rows(self.world.gather(z)))

    def _learn_codes(self, passed: Sequence[_Passed], took: Tensor, settle: bool) -> None:
        """Codes move by the whole batch, the same on all workers; not if the step was skipped."""
        quantizer = self.vqgan.quantizer
        before = [buffer.clone() for buffer in quantizer.buffers()]
        z = self.world.gather(torch.cat([one.z_BCTHW for one in passed]))
        indices = self.world.gather(torch.cat([one.indices_BTHW for one in passed]))
        quantizer.learn(as_rows(z), indices.flatten(), settle)
        for buffer, old in zip(quantizer.buffers(), before, strict=True):
            buffer.copy_(torch.where(took, buffer, old))

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        quality, indices = [], []
        for batch in batches:
            x = self._pixels(batch)
            with self.world.autocast():
                y, quantized = self.ema.average(x)
            quality.append(psnr(x, y.float().clamp(-1, 1)))
            indices.append(quantized.indices_BTHW.flatten())
        found = {"val/psnr": torch.cat(quality).mean().item()}
        if size := self.ema.average.quantizer.codebook_size:
            usage, perplexity = codebook_usage(torch.cat(indices), size)
            found |= {"codebook/usage": usage, "codebook/perplexity": perplexity}
        return found

    @torch.no_grad()
    def preview(self, batch: Batch) -> Frames | None:
        """Real clips beside their reconstructions."""
        x = self._pixels(batch)
        with self.world.autocast():
            y, _ = self.ema.average(x)
        pairs = torch.cat([x, y.float()], dim=-1)
        return rearrange(to_uint8(pairs), "b t h w c -> t (b h) w c").numpy()

    def state(self) -> dict[str, Any]:
        return {
            "vqgan": self.vqgan.state_dict(),
            "ema": self.ema.average.state_dict(),
            "optimiser": self.optimiser.state(),
        } | self.critic.state()

    def load(self, state: dict[str, Any]) -> None:
        self.vqgan.load_state_dict(state["vqgan"])
        self.ema.average.load_state_dict(state["ema"])
        self.optimiser.load(state["optimiser"])
        self.critic.load(state)

    def export(self, folder: Path) -> None:
        save_model(folder, self.ema.average, described(self.config.net))
