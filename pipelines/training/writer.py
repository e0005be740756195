"""Checkpoints written beside the training: a step waits for a copy in memory, not for storage."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pipelines.training.checkpoints import Checkpoints
from vqvdm.transfer import to_host


class CheckpointWriter:
    """Saves checkpoints in a thread, one at a time.

    On leaving the context, the one that is being written is finished, whatever else went wrong.
    """

    def __init__(self, checkpoints: Checkpoints, device: torch.device) -> None:
        """`device` is where the states lie."""
        self._checkpoints, self._device = checkpoints, device
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy a state and let the thread save it, after the one before. Raises what went wrong
        with that one."""
        self.wait()
        copy, copied = _copy(state), None
        if self._device.type == "cuda":
            # The next step changes the weights on the device after they have been copied there.
            copied = torch.cuda.Event()
            copied.record()
        self._writing = self._thread.submit(self._write, step, copy, copied)

    def _write(self, step: int, state: Any, copied: torch.cuda.Event | None) -> None:
        if copied:
            copied.synchronize()
        self._checkpoints.save(step, state)

    def check(self) -> None:
        """Raise what went wrong with a checkpoint, if that is known; waits for nothing."""
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written; raises what went wrong with it."""
        if self._writing:
            writing, self._writing = self._writing, None
            writing.result()

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint, after the one that is being written."""
        self.wait()
        return self._checkpoints.newest_step()


def _copy(value: Any) -> Any:
    """A state in the host's memory, of its own."""
    if isinstance(value, Tensor):
        return to_host(value)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copy, value))
    return value
