"""Quantisers: continuous latents to the nearest entry of a codebook.

Both keep one contract: `bound` turns what the encoder puts out into the *raw latent*, the
continuous tensor that is cached and diffused; `forward` quantises raw latents, so that a
decoder quantises what a sampler made just as it does what an encoder made. A pass through one
changes nothing: codes learn in `learn`, once a step and from the whole batch, wherever its parts
were encoded.

Shapes: B batch, C latent channels, T frames, H height, W width.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

NEAREST_AT_ONCE = 512
"""Positions that are compared with all codes at a time."""


class Quantized(NamedTuple):
    """Quantised latents (B, C, T, H, W), code indices (B, T, H, W) and the VQ loss, a scalar."""

    z_BCTHW: Tensor
    indices_BTHW: Tensor
    loss: Tensor


class Quantizer(Protocol):
    codebook_size: int

    def bound(self, h_BCTHW: Tensor) -> Tensor: ...
    def __call__(self, z_BCTHW: Tensor) -> Quantized: ...

    def start(self, z_NC: Tensor) -> None:
        """Place the codes among the first raw latents, unless they have been placed."""

    def learn(self, z_NC: Tensor, indices_N: Tensor) -> None:
        """Move the codes after a step, given all its raw latents and which code each took."""


class FiniteScalar(nn.Module):
    """Finite scalar quantisation (Mentzer et al., 2023): each channel rounds to its own levels.

    The codebook is implied, so nothing can collapse and the VQ loss is zero. Raw latents lie
    in [-1, 1].
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        # Imported where it is used: it takes as long to import as torch itself.
        from vector_quantize_pytorch import FSQ

        self.fsq = FSQ(list(levels), preserve_symmetry=True, bound_hard_clamp=True)
        self.codebook_size = math.prod(levels)

    def bound(self, h_BCTHW: Tensor) -> Tensor:
        return torch.tanh(h_BCTHW)

    def forward(self, z_BCTHW: Tensor) -> Quantized:
        z, indices = self.fsq(z_BCTHW.float())
        return Quantized(z, indices, z.new_zeros(()))

    def start(self, z_NC: Tensor) -> None:
        """Nothing: the codes are fixed."""

    def learn(self, z_NC: Tensor, indices_N: Tensor) -> None:
        """Nothing: the codes are fixed."""


class Codebook(nn.Module):
    """Vector quantisation with an EMA codebook (van den Oord et al., 2017, appendix A.1).

    The loss is the commitment term; codes unused for long are replaced by encoder outputs. What
    is drawn comes from PyTorch's own generator: seed it, and workers that are given the same
    latents agree.
    """

    def __init__(self, channels: int, size: int, cosine: bool = False, decay: float = 0.95) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize

        self.vq = VectorQuantize(
            channels,
            size,
            decay=decay,
            kmeans_init=True,
            threshold_ema_dead_code=1,
            accept_3d_fmap=True,
            channel_last=False,
            commitment_weight=0.25,
            use_cosine_sim=cosine,
            rotation_trick=False,
            # Workers agree because they learn from the same latents, gathered from all of them.
            sync_codebook=False,
        )
        self.codebook_size = size

    def bound(self, h_BCTHW: Tensor) -> Tensor:
        return h_BCTHW

    def forward(self, z_BCTHW: Tensor) -> Quantized:
        # Under autocast, distances rounded to half precision would choose other codes.
        with torch.autocast(z_BCTHW.device.type, enabled=False):
            if not self.training:
                return self._nearest(z_BCTHW.float())
            z, indices, loss = self.vq(z_BCTHW.float(), freeze_codebook=True)
            return Quantized(z, indices, loss.sum())

    def _nearest(self, z_BCTHW: Tensor) -> Quantized:
        """What the library finds, which takes as long over it as the decoder over the clip."""
        book = self.vq._codebook
        codes_KC = book.embed[0]
        half_K = codes_KC.square().sum(1) / 2
        z_NC = book.transform_input(as_rows(z_BCTHW))
        # Of |z - e|^2 only what differs between codes; in parts, for thousands of each are many.
        indices_N = torch.cat(
            [(part @ codes_KC.T).sub_(half_K).argmax(1) for part in z_NC.split(NEAREST_AT_ONCE)]
        )
        indices_BTHW = indices_N.view(len(z_BCTHW), *z_BCTHW.shape[2:])
        found_BCTHW = codes_KC[indices_BTHW].movedim(-1, 1)
        return Quantized(found_BCTHW, indices_BTHW, z_BCTHW.new_zeros(()))

    @torch.no_grad()
    def start(self, z_NC: Tensor) -> None:
        """k-means of the first raw latents; nothing where the codes have been placed."""
        book = self.vq._codebook
        book.init_embed_(book.transform_input(z_NC.float()).unsqueeze(0))

    @torch.no_grad()
    def learn(self, z_NC: Tensor, indices_N: Tensor) -> None:
        """The moving averages of equations 6 to 8, then dead codes are replaced."""
        book = self.vq._codebook
        z_NC = book.transform_input(z_NC.float())  # the cosine codebook goes by direction
        count_K = torch.bincount(indices_N, minlength=self.codebook_size).float()
        sum_KC = torch.zeros_like(book.embed_avg[0]).index_add_(0, indices_N, z_NC)
        book.cluster_size.lerp_(count_K.unsqueeze(0), 1 - book.decay)
        book.embed_avg.lerp_(sum_KC.unsqueeze(0), 1 - book.decay)
        book.update_ema()
        book.expire_codes_(z_NC.unsqueeze(0))


def as_rows(z_BCTHW: Tensor) -> Tensor:
    """Latents (B, C, T, H, W) as rows (N, C), in the order of flattened indices."""
    return z_BCTHW.movedim(1, -1).flatten(0, -2)


def codebook_usage(indices_BTHW: Tensor, size: int) -> tuple[float, float]:
    """Share of codes in use, in [0, 1], and perplexity of their distribution, in [1, size]."""
    counts = torch.bincount(indices_BTHW.flatten().long(), minlength=size).double()
    p = counts / counts.sum()
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return (counts > 0).double().mean().item(), entropy.exp().item()
