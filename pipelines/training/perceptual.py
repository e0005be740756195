"""The optional perceptual loss: LPIPS, or any other, from a file that the user names.

The file is TorchScript: called with two batches of frames (B, 3, H, W) in [-1, 1], it gives one
distance a pair. docs/evaluation.md describes how to make such a file of LPIPS.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vqvdm.errors import UserError

Perceptual = Callable[[Tensor, Tensor], Tensor]


def resolved(text: str) -> str:
    """`URI#sha256=HEX` of the file at `URI` or `URI#sha256=HEX`, as every worker finds it, in
    whatever folder it runs; `UserError` if it is missing or different."""
    from pipelines.io import storage

    uri, _, expected = text.partition("#sha256=")
    uri = storage.absolute(uri)
    try:
        found = storage.sha256(uri)
    except FileNotFoundError:
        raise UserError(f"--perceptual {uri}: no such file") from None
    if expected and found != expected:
        raise UserError(f"--perceptual {uri} has sha256 {found}, not {expected}: another file")
    return f"{uri}#sha256={found}"


def checksum(text: str) -> str:
    """The sha256 in a `resolved` text."""
    return text.partition("#sha256=")[2]


def load_perceptual(text: str, device: torch.device) -> Perceptual:
    """The network at `URI#sha256=HEX`, frozen; `UserError` if it is not such a network."""
    from pipelines.io import storage

    uri, _, expected = text.partition("#sha256=")
    with storage.copy_on_any_node(uri, "--perceptual") as path:
        data = Path(path).read_bytes()
        if expected and hashlib.sha256(data).hexdigest() != expected:
            raise UserError(
                f"--perceptual {uri} on {socket.gethostname()} is another file than the job was "
                f"started with: its sha256 is not {expected}"
            )
        try:
            net = torch.jit.load(path, map_location=device)
        except RuntimeError as error:
            raise UserError(f"--perceptual {uri} is no TorchScript file") from error
    net.eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)

    def distance(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
        found = net(x_BCHW.float(), y_BCHW.float())
        if found.numel() != len(x_BCHW):
            raise UserError(
                f"--perceptual {uri} gives {tuple(found.shape)} for {len(x_BCHW)} pairs of frames: "
                "expected one number a pair"
            )
        return found.mean()

    return distance
