"""What evaluation refuses before anything is computed; tests/e2e runs the whole."""

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluate import evaluate
from pipelines.evaluation.features import FORMAT
from pipelines.evaluation.inputs import find_inputs
from pipelines.evaluation.settings import METRICS, Evaluate
from pipelines.io import checksums, storage
from pipelines.io.bundles import BUNDLE as BUNDLE_FILES
from tests.described_model import BUNDLE, INDEX, describe_model
from vqvdm.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> str:
    return describe_model(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metrics": "psrn,motion"}, "'psrn': choose from psnr"),
        ({"num_samples": 0}, "--num-samples must be at least 1"),
        ({"repeats": 0}, "--repeats"),
        ({"fps": "8;16"}, "--fps 8;16: give all, or rates above 0"),
        ({"real_split": "test"}, "choose train, val or all"),
        ({"real_draw": "frames"}, "choose videos or clips"),
        ({"metrics": "lpips"}, "pass --lpips URI"),
        ({"metrics": "is"}, "pass --classifier c3d"),
        ({"detector": "i3d"}, "i3d_torchscript.pt is missing"),
        ({"metrics": "is", "classifier": "c3d"}, "c3d_ucf101.pt is missing"),
        ({"detector": "own"}, "run jobs/train_detector.py --name own"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_mistakes_are_reported_first(root: str, settings: Any, words: str, dry_run: bool) -> None:
    with pytest.raises(UserError, match=words):
        evaluate(Evaluate(root=root, dry_run=dry_run, **settings))


def test_a_dry_run_writes_nothing(root: str) -> None:
    before = storage.walk(root)
    plan = evaluate(Evaluate(root=root, dry_run=True, protocol="published"))
    assert "10 × 2048 samples" in plan and "published" in plan
    assert storage.walk(root) == before


def caption(root: str, *captions: str | None) -> None:
    """Describe a model that takes captions, and videos with some."""
    text = {"column": "says", "files": {"config.json": "0"}, "width": 5}
    storage.publish_json(BUNDLE | {"text": text}, f"{root}/ldm/base/config.json")
    columns = {"id": [str(n) for n in range(len(captions))]}
    table = pa.table(columns | ({"says": pa.array(captions, pa.string())} if captions else {}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.publish_bytes(buffer.getvalue(), f"{root}/videos.parquet")


def test_it_is_said_whether_samples_are_told_captions(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Evaluate(root=root, dry_run=True)
    assert "captions" not in evaluate(config) + capsys.readouterr().out
    caption(root)
    for each in (config, replace(config, sweep="guidance")):
        assert "captions" not in evaluate(each)
        assert "told their classes alone: no video has a text in the column 'says', from which" in (
            capsys.readouterr().out
        )
    pytest.importorskip("transformers")
    caption(root, "a red ball", None)
    words = rf"{root}/ldm/base lacks text_encoder/config\.json, .*: copy the whole folder again"
    with pytest.raises(UserError, match=words):
        evaluate(config)
    storage.publish_bytes(b"{}", f"{root}/ldm/base/text_encoder/config.json")
    assert "(held-out, told the captions of real clips)" in evaluate(config)
    assert "note" not in capsys.readouterr().out
    # Figures of samples without captions are others.
    inputs = find_inputs(config)
    assert inputs.recipe != replace(inputs, captions=None).recipe


def test_captions_are_not_told_without_what_reads_them(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caption(root, "a red ball")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"package transformers, .*: pip install"):
        evaluate(Evaluate(root=root, dry_run=True))


@pytest.mark.parametrize("dry_run", [False, True])
def test_other_settings_are_refused_even_in_a_dry_run(root: str, dry_run: bool) -> None:
    storage.publish_json({"recipe": "of another run"}, f"{root}/eval/base/metrics.json")
    with pytest.raises(UserError, match="--overwrite"):
        evaluate(Evaluate(root=root, dry_run=dry_run))


def test_sizes_must_match(root: str) -> None:
    spec = INDEX["spec"] | {"size": 128}
    storage.publish_json(INDEX | {"spec": spec}, f"{root}/clips/index.json")
    with pytest.raises(UserError, match="videos of 16×64×64, the clips are of 16×128×128"):
        evaluate(Evaluate(root=root))


def test_classes_must_match(root: str) -> None:
    storage.publish_json(INDEX | {"classes": ["a", "c"]}, f"{root}/clips/index.json")
    words = r"other classes than the clips \(only the model's: b; only the clips': c\): train it"
    with pytest.raises(UserError, match=words):
        evaluate(Evaluate(root=root))


def test_clips_that_changed_since_the_training_are_told(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new split lets a model be judged by clips that it has learnt."""
    config, uri = Evaluate(root=root, dry_run=True), f"{root}/ldm/base/config.json"
    bundle = storage.read_json(uri)
    for each in (config, replace(config, sweep="guidance")):
        for clips, told in ((INDEX["fingerprint"], False), ("of another split", True)):
            storage.publish_json(bundle | {"about": {"clips": clips}}, uri)
            evaluate(each)
            assert ("was trained on other clips" in capsys.readouterr().out) == told


@pytest.mark.parametrize("net", ["Both", "Wrong"])
def test_a_detector_without_probabilities_does_for_the_rest(root: str, net: str) -> None:
    detectors = importlib.import_module("tests.unit.vqvdm.metrics.test_detectors")
    module = detectors.Both() if net == "Both" else detectors.Wrong("means")
    path = detectors.saved(Path(root, "mine.pt"), module)
    found = find_inputs(Evaluate(root=root, detector=str(path)))
    assert found.detector and found.detector.name == "mine"
    assert found.classifier == (found.detector if net == "Both" else None)
    if net == "Wrong":
        with pytest.raises(UserError, match="is needs class probabilities"):
            find_inputs(Evaluate(root=root, detector=str(path), metrics="is"))


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_every_file_of_a_bundle_decides(root: str, name: str) -> None:
    before, uri = find_inputs(Evaluate(root=root)), f"{root}/ldm/base/{name}"
    storage.publish_bytes(storage.read_bytes(uri) + b" ", uri)
    after = find_inputs(Evaluate(root=root))
    assert after.model != before.model and after.recipe != before.recipe
    assert (after.tokenizer != before.tokenizer) == name.startswith("vqgan/")


def test_figures_at_some_rates_are_not_those_of_before(root: str) -> None:
    """Figures at --fps were once of real clips of all rates: they are not found as done."""
    inputs = find_inputs(Evaluate(root=root, fps="8"))
    parts: list[Any] = [inputs.detector and inputs.detector.sha256, None, None]
    made_from = [inputs.model, inputs.index["fingerprint"]]
    before = checksums.fingerprint([FORMAT, inputs.config.recipe(), parts, made_from])
    assert inputs.recipe != before
    config = replace(inputs.config, fps="all")
    before = checksums.fingerprint([FORMAT, config.recipe(), parts, made_from])
    assert replace(inputs, config=config).recipe == before


def test_a_bundle_without_its_decoder_is_named(root: str) -> None:
    Path(root, "ldm/base/vqgan/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"vqgan/model\.safetensors is missing: run jobs/train_ldm"):
        evaluate(Evaluate(root=root, dry_run=True))


def test_settings_change_a_protocol() -> None:
    config = Evaluate(protocol="published", num_samples=64, real_split="val")
    chosen = config.chosen
    assert (chosen.num_samples, chosen.real_split, chosen.repeats) == (64, "val", 10)
    assert config.wanted == METRICS
