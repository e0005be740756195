"""What may be distilled, and what is said of the rest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines import distill_ldm as page
from pipelines.distill_ldm import distill_ldm
from pipelines.io import storage
from pipelines.latents.published import Latents
from pipelines.training.initial import READS_CAPTIONS
from pipelines.training.methods.distil import Teacher
from pipelines.training.settings import DistillLDM
from pipelines.training.stage import Stage
from pipelines.training.world import World
from tests.tiny import write_bundle
from vqvdm.errors import UserError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DistillLDM:
    """Settings for a root with a teacher, and the latents that it was trained on."""
    write_bundle(tmp_path / "ldm/base")
    index = {
        "shape": [3, 4, 4, 4], "mean": [0.0] * 3, "std": [0.5] * 3,
        "classes": ["zero", "seven"], "fps": [8.0, 16.0],
        "fingerprint": "1a7e47", "spec_hash": "5bec", "clips": "c11b5",
    }  # fmt: skip
    found = Latents(str(tmp_path / "latents/base"), index, [])
    monkeypatch.setattr(page, "open_latents", lambda space, name: found)
    return DistillLDM(root=str(tmp_path), batch_size=4)


def change(config: DistillLDM, **changes: Any) -> None:
    """Change entries of the teacher's config.json."""
    file = Path(config.root, "ldm/base/config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def caption(monkeypatch: pytest.MonkeyPatch, text: dict[str, Any]) -> None:
    """Have the index of the latents tell of captions."""
    opened = page.open_latents
    monkeypatch.setattr(
        page,
        "open_latents",
        lambda *at: replace(found := opened(*at), index=found.index | {"text": text}),
    )


def test_a_teacher_that_is_missing(config: DistillLDM) -> None:
    with pytest.raises(UserError, match=r"ldm/other/config\.json is missing: .*run jobs/train_ldm"):
        distill_ldm(replace(config, ldm="other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"name": "epsilon"}}, "objective 'epsilon': only `flow` can be distilled"),
        ({"objective": {"name": "v"}}, "objective 'v': only `flow` can be distilled"),
        ({"objective": {"name": "average_velocity"}}, "is a student itself: pass --ldm NAME"),
        ({"inputs": {"clips": "c11b5"}}, "was trained on pixels"),
        ({"inputs": {"latents": "other"}}, r"other latents than .*\(other, now 1a7e47\)"),
        ({"fingerprint": "0" * 16}, r"model\.safetensors is missing or does not match"),
    ],
)
def test_a_teacher_that_cannot_be_distilled(
    config: DistillLDM, changes: dict[str, Any], message: str
) -> None:
    change(config, **changes)
    with pytest.raises(UserError, match=message):
        distill_ldm(config)


def test_missing_weights_of_the_teacher(config: DistillLDM) -> None:
    Path(config.root, "ldm/base/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing or .*train_ldm"):
        distill_ldm(config)


def test_a_student_knows_its_teacher(
    config: DistillLDM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stages: list[Stage] = []
    monkeypatch.setattr(page, "run_stage", lambda stage: stages.append(stage) or "done")
    assert distill_ldm(config) == "done"
    (stage,) = stages
    teacher = json.loads(Path(config.root, "ldm/base/config.json").read_text())["fingerprint"]
    assert stage.folder == str(tmp_path / "ldm/fast")
    assert stage.inputs == {"ldm": teacher, "latents": "1a7e47"}
    assert stage.lineage["teacher"] == {"name": "base", "fingerprint": teacher}
    assert stage.parts == {"vqgan": str(tmp_path / "ldm/base/vqgan")}
    assert stage.reads == (str(tmp_path / "ldm/base"),)
    method = stage.method(config, World())
    method.export(tmp_path / "out")
    exported = json.loads((tmp_path / "out/config.json").read_text())
    assert exported["classes"] == ["zero", "seven"]
    assert exported["objective"]["name"] == "average_velocity"


def test_a_student_is_told_what_its_teacher_was_told(
    config: DistillLDM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    shutil.rmtree(tmp_path / "ldm")
    write_bundle(tmp_path / "ldm/base", known_frames=True, captioned=True)
    taught = json.loads((tmp_path / "ldm/base/config.json").read_text())
    caption(monkeypatch, taught["text"] | {"clips": 6})
    stages: list[Stage] = []
    monkeypatch.setattr(page, "run_stage", lambda stage: stages.append(stage) or "done")
    assert distill_ldm(config) == "done"
    stages[0].method(config, World()).export(tmp_path / "out")
    exported = json.loads((tmp_path / "out/config.json").read_text())
    assert exported["text"] == taught["text"]
    assert exported["conditioning"] == taught["conditioning"] == {"share": 0.5, "noise": 0.1}
    inputs = Teacher(str(tmp_path / "out"), exported).net().inputs
    assert inputs.text_width == 32 and inputs.known_frames
    # It begins as its teacher.
    weights = load_file(tmp_path / "ldm/base/model.safetensors")
    begun = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(begun[name], weight) for name, weight in weights.items())


def test_a_student_goes_on_with_what_reads_captions_of_the_same_encoder_only(
    config: DistillLDM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = {"config.json": "0"}
    before = {"objective": {"name": "average_velocity"}, "classes": [], "fingerprint": "5ee"}
    storage.publish_json(before | {"text": {"files": files}}, f"{tmp_path}/ldm/quick/config.json")
    stages: list[Stage] = []
    monkeypatch.setattr(page, "run_stage", lambda stage: stages.append(stage) or "done")
    for told, leaves in ((files, ()), ({"config.json": "1"}, (READS_CAPTIONS,))):
        caption(monkeypatch, {"files": told})
        distill_ldm(replace(config, init_from=f"{tmp_path}/ldm/quick"))
        initial = stages.pop().method.keywords["initial"]  # type: ignore[attr-defined]
        assert initial.leaves == leaves


def test_other_teachers_give_other_students(config: DistillLDM, tmp_path: Path) -> None:
    nets = []
    for seed in (0, 1):
        write_bundle(tmp_path / "ldm/base", seed=seed)
        bundle = json.loads((tmp_path / "ldm/base/config.json").read_text())
        nets.append(Teacher(str(tmp_path / "ldm/base"), bundle).net())
    assert not (nets[0].first.weight == nets[1].first.weight).all()
