"""A root that holds only the descriptions of clips and of a model, which suffice to plan by."""

from __future__ import annotations

from typing import Any

from pipelines.io import storage
from vqvdm.diffusion.denoiser import described
from vqvdm.diffusion.unet import UNetConfig

INDEX: dict[str, Any] = {
    "classes": ["a", "b"],
    "fingerprint": "clips",
    "shards": [],
    "spec": {"frames": 16, "size": 64, "rates": [8.0], "classes": ["a", "b"], "stride": 16},
}
BUNDLE: dict[str, Any] = {
    "classes": ["a", "b"],
    "fps": [8.0],
    "fingerprint": "model",
    "objective": {"name": "flow"},
    "latents": {"shape": [3, 4, 8, 8]},
    **described(UNetConfig()),
}


def describe_model(root: str) -> str:
    """Publish the descriptions under a root; returns it."""
    storage.publish_json(INDEX, f"{root}/clips/index.json")
    storage.publish_json(BUNDLE, f"{root}/ldm/base/config.json")
    vqgan = {"model": {"blocks": [[2, 4, 4], [2, 2, 2]]}}
    storage.publish_json(vqgan, f"{root}/ldm/base/vqgan/config.json")
    for name in ("model.safetensors", "vqgan/model.safetensors"):
        storage.publish_bytes(b"weights", f"{root}/ldm/base/{name}")
    return root
