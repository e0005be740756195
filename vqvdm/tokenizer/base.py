"""What every tokenizer has: its configuration, and the way of clips through its nets.

Shapes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor, nn

from vqvdm.errors import UserError
from vqvdm.layers import Chain, Size3
from vqvdm.tokenizer.quantize import Quantized, Quantizer


class TokenizerConfig:
    """Shape of a tokenizer: the base of frozen dataclasses."""

    @property
    def latent_channels(self) -> int:
        raise NotImplementedError

    @property
    def compression(self) -> Size3:
        """Pixels per latent position along (t, h, w)."""
        raise NotImplementedError

    def check(self) -> None:
        """`UserError` unless the fields describe a net."""
        raise NotImplementedError

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latent of a clip; `UserError` if the clip's size does not divide."""
        strides = self.compression
        for name, size, stride in zip(
            ("frames", "height", "width"), (frames, height, width), strides, strict=True
        ):
            if size < stride or size % stride:
                near = max(stride, size // stride * stride)
                raise UserError(
                    f"{size} {name} do not divide by {stride}; "
                    f"use {near} or {near + stride}, for example"
                )
        t, h, w = strides
        return self.latent_channels, frames // t, height // h, width // w


class LastLayer(Protocol):
    """The last layer of a decoder, at whose weight the losses are balanced."""

    def __call__(self, x_BCTHW: Tensor) -> Tensor: ...

    def weight_gradient(self, x_BCTHW: Tensor, gradient_BCTHW: Tensor) -> Tensor:
        """The gradient of the weight, (out, in), from an input and the gradient of its output.

        In float32, whatever the layer computes in.
        """


class Tokenizer(nn.Module):
    """Encoder, quantiser and decoder. Training needs these three, and `last_layer`."""

    config: TokenizerConfig
    encoder: Chain
    """Pixels to what the quantiser bounds."""
    quantizer: Quantizer
    decoder: Chain
    """Quantised latents to pixels."""

    @property
    def last_layer(self) -> LastLayer:
        """The decoder's last layer."""
        return cast(LastLayer, self.decoder[-1])

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to raw latents: continuous, before quantisation."""
        self.config.latent_shape(*x_BCTHW.shape[2:])
        return self.quantizer.bound(self._pass(self.encoder, x_BCTHW).float())

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Raw latents to pixels in about [-1, 1]; quantises first, as in training."""
        # The quantiser stays in float32, whatever the decoder computes in.
        dtype = next(self.decoder.parameters()).dtype
        return self._pass(self.decoder, self.quantizer(z_BCTHW).z_BCTHW.to(dtype))

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Quantized]:
        """Pixels to their reconstruction and the quantised latents."""
        quantized = self.quantizer(self.encode(x_BCTHW))
        return self._pass(self.decoder, quantized.z_BCTHW), quantized

    def _pass(self, net: nn.Module, batch: Tensor) -> Tensor:
        """A batch through one of the nets."""
        return net(batch)
