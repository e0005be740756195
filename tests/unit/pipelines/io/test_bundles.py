"""A bundle's text encoder is copied whole, or missed in a line."""

import hashlib
import shutil
from pathlib import Path

import pytest

from pipelines.io.bundles import fetch_encoder
from vqvdm.errors import UserError


def test_a_bundle_without_its_encoder_is_told(tmp_path: Path) -> None:
    place, bundle = tmp_path / "place", tmp_path / "bundle"
    sha256 = hashlib.sha256(b"{}").hexdigest()
    told = {"text": {"files": {"config.json": sha256, "model.safetensors": sha256}}}
    encoder = bundle / "text_encoder"
    encoder.mkdir(parents=True)
    for name in told["text"]["files"]:
        (encoder / name).write_text("{}")
    fetch_encoder(str(bundle), place, told)
    assert sorted(path.name for path in place.rglob("*.*")) == ["config.json", "model.safetensors"]
    (encoder / "model.safetensors").write_text("[]")
    with pytest.raises(
        UserError, match=r"model\.safetensors is not the file that .*/bundle/config"
    ):
        fetch_encoder(str(bundle), place, told)
    (bundle / "text_encoder/config.json").unlink()
    with pytest.raises(UserError, match=r"bundle lacks text_encoder/config\.json, which reads"):
        fetch_encoder(str(bundle), place, told)
    shutil.rmtree(bundle)
    with pytest.raises(UserError, match=r"text_encoder/model\.safetensors, which read its prompts"):
        fetch_encoder(str(bundle), place, told)
    fetch_encoder(str(bundle), place, {})


def test_a_bundle_writes_no_file_elsewhere(tmp_path: Path) -> None:
    """A name that leads out of the folder, of a file that is there, beside one of its base name."""
    place, bundle = tmp_path / "a/b/place", tmp_path / "x/y/bundle"
    encoder = bundle / "text_encoder"
    encoder.mkdir(parents=True)
    place.mkdir(parents=True)
    for file in (encoder / "profile.json", tmp_path / "x/profile.json"):
        file.write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    told = {"text": {"files": {"../../../profile.json": "1"}}}
    with pytest.raises(UserError, match=r"'\.\./\.\./\.\./profile\.json' cannot be a file"):
        fetch_encoder(str(bundle), place, told)
    assert sorted(tmp_path.rglob("*")) == before
