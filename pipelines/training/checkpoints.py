"""Checkpoints to resume from: one file each, with a marker written last.

The newest one that matches its marker is used; a damaged one is reported and skipped. The driver
chooses it, and every worker loads the same bytes.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipelines.io import lock, storage, workspace
from pipelines.io.scratch import scratch
from vqvdm.checkpoint import load_state, save_state
from vqvdm.errors import UserError


@dataclass(frozen=True)
class Reference:
    """Names one checkpoint, and its bytes."""

    step: int
    sha256: str


class Checkpoints:
    """The checkpoints of one training, under NAME/checkpoints."""

    def __init__(
        self,
        place: str,
        recipe: str,
        keep: int,
        inputs: Mapping[str, str] | None = None,
        owner: str | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        """`place` is NAME; `inputs` are the fingerprints of the training data; `owner` is the id
        of the holder of its lock; `identity` is what markers tell of the training besides."""
        self.place, self.folder = place, storage.join(place, "checkpoints")
        self.recipe, self.keep = recipe, keep
        self.inputs, self.owner = dict(inputs or {}), owner
        self.identity = dict(identity or {})

    def _uri(self, name: str, kind: str) -> str:
        return storage.join(self.folder, f"{name}.{kind}")

    def _names(self, kind: str = "json") -> list[str]:
        """Names of finished checkpoints, oldest first."""
        files = [os.path.basename(file.uri) for file in storage.walk(self.folder)]
        names = [name.removesuffix(f".{kind}") for name in files if name.endswith(f".{kind}")]
        return sorted(name for name in names if name.startswith("step-"))

    def save(self, step: int, state: Any) -> None:
        """Publish a state, check that it arrived, then drop the oldest ones.

        `UserError` if it cannot be written, or another job took over; earlier checkpoints stay
        as they are.
        """
        try:
            self._publish(f"step-{step:08d}", step, state)
        except (OSError, SafetensorError) as error:
            last = self.newest_step()
            there = f"the checkpoint of step {last} is intact" if last else "none was there yet"
            raise UserError(
                f"cannot write the checkpoint of step {step} to {self.folder}: {error} ({there}; "
                "make room or repair the disk, then run the same command again)"
            ) from error

    def _publish(self, name: str, step: int, state: Any) -> None:
        uri = self._uri(name, "safetensors")
        with scratch() as folder:
            path = Path(folder, "state.safetensors")
            save_state(path, state)
            wanted = storage.sha256(str(path))
            storage.publish_file(path, uri)
        if storage.sha256(uri) != wanted:
            raise OSError(f"{uri} holds other bytes than were written")
        if self.owner and not lock.still_held(self.place, self.owner):
            raise UserError(f"another job has taken over {self.place}: this one stops")
        marker = {"step": step, "recipe": self.recipe, "inputs": self.inputs, "sha256": wanted}
        marker |= self.identity
        storage.publish_json(marker, self._uri(name, "json"))
        for old in self._names()[: -self.keep]:
            # The marker is deleted first: without it the other file does not count.
            for kind in ("json", "safetensors"):
                storage.delete(self._uri(old, kind))

    def sweep(self) -> None:
        """Remove what a killed writer left. No other process may be writing at the time."""
        for name in sorted(set(self._names("safetensors")) - set(self._names())):
            uri = self._uri(name, "safetensors")
            print(f"{uri} has no marker, as it was not finished: removed", flush=True)
            storage.delete(uri)
        storage.discard_unfinished(self.folder)

    def newest_intact(self) -> Reference | None:
        """The newest checkpoint whose bytes are those of its marker.

        Newer ones are damaged: they are named, and removed, or they would count among those that
        are kept. No other process may be writing at the time.
        """
        for name in reversed(self._names()):
            marker, uri = self._marker(name), self._uri(name, "safetensors")
            if marker and storage.sha256_or_none(uri) == marker["sha256"]:
                return Reference(marker["step"], marker["sha256"])
            print(f"{uri} is damaged: removed", flush=True)
            for kind in ("json", "safetensors"):
                with suppress(FileNotFoundError):
                    storage.delete(self._uri(name, kind))
        return None

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint by its name, unverified."""
        names = self._names()
        return int(names[-1].removeprefix("step-")) if names else None

    def found(self) -> dict[str, Any] | None:
        """The newest readable marker, which describes the training that left checkpoints here."""
        markers = (self._marker(name) for name in reversed(self._names()))
        return next((marker for marker in markers if marker), None)

    def _marker(self, name: str) -> dict[str, Any] | None:
        """A marker that is complete."""
        found = workspace.published(self.folder, f"{name}.json")
        wanted = {"step", "recipe", "sha256"}
        return found if isinstance(found, dict) and wanted <= found.keys() else None

    def load(self, found: Reference) -> Any:
        """The state of a checkpoint; `UserError` if there is another one, or none, in its place."""
        uri = self._uri(f"step-{found.step:08d}", "safetensors")
        try:
            with storage.local_copy(uri) as path:
                if storage.sha256(path) == found.sha256:
                    return load_state(Path(path))
        except FileNotFoundError:
            pass
        raise UserError(
            f"{uri} on {socket.gethostname()} is not the checkpoint that the job resumes from: "
            "the root is not shared between the nodes (pass an s3:// URI or a folder that all of "
            "them mount), or another job has changed it"
        )

    def newest(self, verbose: bool = True) -> Any | None:
        """The newest state that is intact, or None; prints the damaged ones if `verbose`."""
        for name in reversed(self._names()):
            marker, uri = self._marker(name), self._uri(name, "safetensors")
            try:
                with storage.local_copy(uri) as path:
                    if marker and storage.sha256(path) == marker["sha256"]:
                        return load_state(Path(path))
            except FileNotFoundError:
                pass
            if verbose:
                print(f"{uri} is damaged: skipped", flush=True)
        return None


class AgreedCheckpoints(Checkpoints):
    """The checkpoints of a worker, which resumes where all of them do."""

    agreed: Reference | None = None

    def newest(self, verbose: bool = True) -> Any | None:
        """The state that the driver told to resume from; `UserError` if it is not found here."""
        return self.load(self.agreed) if self.agreed else None


class KeyLog:
    """Which samples every step consumed: NAME/keys/step-….jsonl, a line a step.

    A file is written just before the checkpoint of its last step, and counts with it.
    """

    def __init__(self, place: str) -> None:
        self.folder = storage.join(place, "keys")
        self._lines: list[str] = []

    def note(self, step: int, keys: list[str]) -> None:
        """Record the keys of a step, in the order of the global batch."""
        self._lines.append(json.dumps({"step": step, "keys": keys}) + "\n")

    def publish(self, step: int) -> None:
        uri = storage.join(self.folder, f"step-{step:08d}.jsonl")
        storage.publish_bytes("".join(self._lines).encode(), uri)
        self._lines = []

    def forget_after(self, step: int) -> None:
        """Delete the keys of steps after the checkpoint that is resumed from."""
        for file in storage.walk(self.folder):
            if int(Path(file.uri).stem.removeprefix("step-")) > step:
                storage.delete(file.uri)


def consumed(place: str) -> list[list[str]]:
    """Keys of every step that a `KeyLog` recorded, in order."""
    files = storage.walk(storage.join(place, "keys"))
    lines = [line for file in files for line in storage.read_bytes(file.uri).splitlines()]
    found = [json.loads(line) for line in lines]
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return [row["keys"] for row in found]
