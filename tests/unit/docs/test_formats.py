"""The page on data formats names the fields that are written, all of them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pipelines.io.markers import Marker
from pipelines.sharding.manifest import CLIP_FIELDS, SCHEMA

PAGE = (Path(__file__).parents[3] / "docs/formats.md").read_text()
WRITTEN = {
    "The account of videos": set(SCHEMA.names),
    "Clips": set(CLIP_FIELDS),
    "Markers": {field.name for field in fields(Marker)},
}


@pytest.mark.parametrize("title", WRITTEN)
def test_the_table_has_the_fields_that_are_written(title: str) -> None:
    section = re.split(r"^##+ ", PAGE.split(f"# {title}\n")[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == WRITTEN[title]
