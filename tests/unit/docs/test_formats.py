"""The page on data formats names the fields that are written, all of them."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from pipelines.io.markers import Marker
from pipelines.sharding.manifest import CLIP_FIELDS, SCHEMA
from pipelines.training.methods.ldm import LDMMethod
from pipelines.training.settings import TrainLDM
from pipelines.training.world import World
from tests.trainings import CAPTIONED, DENOISER, inflated
from vqvdm.diffusion.dit import DiTConfig
from vqvdm.diffusion.known_latents import ConditioningConfig

PAGE = (Path(__file__).parents[3] / "docs/formats.md").read_text()
WRITTEN = {
    "The account of videos": set(SCHEMA.names),
    "Clips": set(CLIP_FIELDS),
    "Markers": {field.name for field in fields(Marker)},
}


def named(title: str) -> set[str]:
    """The fields in the first column of the table below a title."""
    section = re.split(r"^##+ ", PAGE.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize("title", WRITTEN)
def test_the_table_has_the_fields_that_are_written(title: str) -> None:
    assert named(title) == WRITTEN[title]


def test_the_table_of_models_has_what_bundles_hold(tmp_path: Path) -> None:
    """Of either net, with all that is optional."""
    written: set[str] = set()
    for denoiser in ("unet", "dit"):
        config = TrainLDM(
            denoiser=denoiser,
            model=DENOISER,
            dit=DiTConfig(width=16, depth=1, head_width=8),
            conditioning=ConditioningConfig(share=0.5),
        )
        LDMMethod(config, World(), CAPTIONED).export(tmp_path / denoiser)
        written |= json.loads((tmp_path / denoiser / "config.json").read_text()).keys()
    assert {"model", "denoiser", "conditioning", "text"} <= written
    assert written <= named("Models")
    assert named("Captions") == set(CAPTIONED["text"])


def test_the_table_of_models_has_what_tokenizers_hold(tmp_path: Path) -> None:
    inflated(World(), 1).export(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text()).keys()
    assert "tokenizer" in written and written <= named("Models")
