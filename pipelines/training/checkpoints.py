"""Checkpoints to resume from: one file each, with a marker written last.

The newest one that matches its marker is used; a damaged one is named and passed over.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pipelines.io import storage
from vqvdm.checkpoint import load_state, save_state


class Checkpoints:
    """The checkpoints of one training, under NAME/checkpoints."""

    def __init__(self, folder: str, recipe: str, keep: int) -> None:
        self.folder, self.recipe, self.keep = storage.join(folder, "checkpoints"), recipe, keep

    def _names(self) -> list[str]:
        """Names of finished checkpoints, oldest first."""
        files = [os.path.basename(file.uri) for file in storage.walk(self.folder)]
        return sorted(name.removesuffix(".json") for name in files if name.endswith(".json"))

    def save(self, step: int, state: Any) -> None:
        """Publish a state, then drop the oldest ones."""
        name = f"step-{step:08d}"
        with tempfile.TemporaryDirectory(prefix="vqvdm-") as folder:
            path = Path(folder, "state.safetensors")
            save_state(path, state)
            marker = {"step": step, "recipe": self.recipe, "sha256": storage.sha256(str(path))}
            storage.publish_file(path, storage.join(self.folder, f"{name}.safetensors"))
        storage.publish_json(marker, storage.join(self.folder, f"{name}.json"))
        for old in self._names()[: -self.keep]:
            # The marker goes first: without it the rest does not count.
            for suffix in ("json", "safetensors"):
                storage.delete(storage.join(self.folder, f"{old}.{suffix}"))

    def found_recipe(self) -> str | None:
        """Fingerprint of the recipe of the training that left checkpoints here."""
        markers = [self._marker(name) for name in reversed(self._names())]
        return next((marker["recipe"] for marker in markers if marker), None)

    def _marker(self, name: str) -> dict[str, Any] | None:
        try:
            return storage.read_json(storage.join(self.folder, f"{name}.json"))
        except (json.JSONDecodeError, FileNotFoundError):
            return None

    def newest(self) -> Any | None:
        """The newest state that is intact, or None."""
        for name in reversed(self._names()):
            marker = self._marker(name)
            uri = storage.join(self.folder, f"{name}.safetensors")
            try:
                with storage.local_copy(uri) as path:
                    if marker and storage.sha256(path) == marker["sha256"]:
                        return load_state(Path(path))
            except FileNotFoundError:
                pass
            print(f"{uri} is damaged: passed over", flush=True)
        return None
