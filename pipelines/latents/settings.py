"""Settings of `encode_latents`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.settings import Augment, PoolJob
from vqvdm.errors import UserError
from vqvdm.inference import Precision
from vqvdm.ranges import Count, NotNegative


@dataclass(frozen=True)
class EncodeLatents(PoolJob):
    """Encode every clip with a trained VQGAN and cache the latents."""

    vqgan: str = "base"
    """Name of the VQGAN."""
    batch_size: Count = 16
    """Clips encoded at once."""
    precision: Precision = "auto"
    """Arithmetic of the encoder."""
    augment: Augment = "none"
    """`mirror` encodes the mirror image of every clip for training too: twice the latents. Not for
    videos in which left and right matter, such as writing."""
    text_encoder: str | None = None
    """Folder or URI of a text encoder, as save_pretrained of `transformers` writes a model and its
    tokenizer: captions are encoded too, and models trained on that take prompts."""
    caption_column: str = "caption"
    """Column of the input that holds captions, with --text-encoder."""
    verify: bool = False
    """Read all latents that are there and compare their checksums; by default only of those whose
    size or time differs from their marker's. Whatever reads a shard compares its checksum."""
    audit: bool = False
    """Encode nothing new: check the cached latents, and encode a sample again to compare."""
    audit_clips: Count = 64
    """Clips that --audit encodes again, spread evenly over the shards."""
    audit_tolerance: NotNegative = 0.05
    """Largest difference that --audit accepts, in standard deviations of a latent channel: far
    above the differences between hardware, far below those between latents."""

    LATER: ClassVar[Mapping[str, Any]] = {"augment": "none", "caption_column": "caption"}

    NOT_RECIPE: ClassVar[frozenset[str]] = PoolJob.NOT_RECIPE | {
        "verify",
        "audit",
        "audit_clips",
        "audit_tolerance",
        "text_encoder",  # Its fingerprint is among the inputs.
    }

    def check(self) -> None:
        super().check()
        if self.audit and (self.text_encoder or self.caption_column != "caption"):
            raise UserError(
                "--audit encodes no captions, and takes latents as they are: leave --text-encoder "
                "and --caption-column out"
            )
        if self.caption_column != "caption" and not self.text_encoder:
            raise UserError(
                f"--caption-column {self.caption_column} is for --text-encoder: pass its folder too"
            )
