"""A GPU whose memory runs out, in one line for the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vqvdm.errors import UserError

ASKED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
HAD = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")


@contextmanager
def enough_memory(cure: str) -> Iterator[None]:
    """Within the context, memory that runs out is a `UserError`, which ends with the cure: another
    attempt would run out of it too."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(f"{_in_words(str(error))}: {cure}") from error


def _in_words(text: str) -> str:
    """What PyTorch says in a paragraph, with the model of the card."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "the GPU"
    had, asked = HAD.search(text), ASKED.search(text)
    memory = f"has {had[1]} of memory, {had[2]} of it free" if had else "has too little memory"
    return f"{card} {memory}" + (f", and {asked[1]} more were asked for" if asked else "")
