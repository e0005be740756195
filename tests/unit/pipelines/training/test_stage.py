"""A training job in a place that was used before."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.cluster.devices import Devices
from pipelines.io import storage
from pipelines.io.markers import Marker
from pipelines.training import stage as page
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.settings import TrainLDM, TrainVQGAN
from pipelines.training.stage import Stage, _refuse_other, run_stage
from pipelines.training.trainer import Data, Plan
from pipelines.training.world import World
from tests.trainings import METHODS
from vqvdm.errors import StoppedError, UserError


class Clips(Data):
    """Data of four clips, of which there are no files."""

    @property
    def samples(self) -> int:
        return 4


def stage(clips: str, **changes: Any) -> Stage:
    return Stage(
        name="train_vqgan",
        config=TrainVQGAN(**changes),
        method=lambda *_: None,  # type: ignore[arg-type, return-value]
        data=Clips("clips", [], "shard_videos", None),
        folder="root/vqgan/base",
        inputs={"clips": clips},
        lineage={},
    )


def left_by(before: Stage) -> dict[str, Any]:
    return {"recipe": before.recipe, "inputs": dict(before.inputs)} | before.identity


def left_before(before: Stage) -> dict[str, Any]:
    """As it was recorded before trainings could be prolonged."""
    return {"recipe": before.recipe, "inputs": dict(before.inputs)}


@pytest.mark.parametrize(
    "changes",
    [
        {"num_workers": 4, "accumulate": 2, "keep": 5, "device": "cuda", "cpu_workers": 3},
        {"checkpoint_every": 7, "validate_every": 9},
        {"steps": 7},
    ],
)
def test_the_same_training_is_known_whatever_may_change(changes: dict[str, Any]) -> None:
    assert stage("a", **changes).steps_of(left_by(stage("a")), 0) == 1000


@pytest.mark.parametrize("changes", [{"lr": 0.5}, {"seed": 7}, {"batch_size": 16}])
def test_other_settings_are_another_training(changes: dict[str, Any]) -> None:
    for left in (left_by, left_before):
        assert stage("a", **changes).steps_of(left(stage("a")), 1000) is None
    [(name, value)] = changes.items()
    words = rf"other settings \({name} .* → {value}\): pass --overwrite .* or another --name"
    with pytest.raises(UserError, match=words):
        _refuse_other(stage("a", **changes), left_by(stage("a")))
    with pytest.raises(UserError, match="other settings, from other input or by"):
        _refuse_other(stage("a", **changes), left_before(stage("a")))


def test_fingerprints_recorded_before_are_known() -> None:
    recorded = {"recipe": "c2ebf6ee9951beba", "inputs": {"clips": "a"}}
    assert stage("a").steps_of(recorded, 400) == 1000
    assert stage("a", steps=2000).steps_of(recorded, 1000) == 1000
    assert stage("a", steps=2000).steps_of(recorded, 400) is None  # nothing tells of how many
    assert stage("b").steps_of(recorded, 1000) is None
    ldm = replace(stage("a"), config=TrainLDM(steps=400_000))
    assert ldm.steps_of({"recipe": "54a5541ff7683d7f"}, 200_000) == 200_000


def test_input_that_changed_is_named() -> None:
    with pytest.raises(UserError, match=r"the clips have changed .*\(a, now b\): pass --overwrite"):
        _refuse_other(stage("b"), left_by(stage("a")))


def test_a_training_does_not_delete_what_it_begins_with(tmp_path: Path) -> None:
    folder = str(tmp_path / "vqgan" / "base")
    asked = replace(stage("a", init_from=folder, overwrite=True), folder=folder)
    with pytest.raises(UserError, match=r"lies in .*/base, which is to be written: pass another"):
        run_stage(asked)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("steps", [0, 7])
def test_clips_for_validation_alone_are_refused(
    dry_run: bool, steps: int, tmp_path: Path, trainings: list[list[str]]
) -> None:
    val = Marker("val-000000", "", 1, ["a", "b"], [], "", "")
    asked = replace(
        stage("a", dry_run=dry_run, steps=steps),
        data=Data("clips", [val], "shard_videos", None),
        folder=str(tmp_path),
    )
    with pytest.raises(UserError, match=r"^clips has no training clips.*lower --val-fraction"):
        run_stage(asked)
    assert trainings == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("workers", "parts", "near"), [(2, 1, 4), (3, 2, 6), (8, 1, 8)])
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(
    workers: int, parts: int, near: int
) -> None:
    with pytest.raises(UserError, match=rf"--batch-size 5 .*{workers} workers.*such as {near}"):
        TrainLDM(batch_size=5, num_workers=workers, accumulate=parts).check()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files in the folder at the start of each training, which then stops."""
    begun: list[list[str]] = []

    def note(plan: Plan) -> None:
        files = storage.walk(plan.folder)
        begun.append([file.uri.rsplit("/", 1)[1] for file in files])
        raise StoppedError("trained")

    monkeypatch.setattr(page, "choose_devices", lambda request: Devices())
    monkeypatch.setattr(page, "start_run", lambda *_: nullcontext(SimpleNamespace(uri="", id="")))
    monkeypatch.setattr(page, "fit", note)
    monkeypatch.setattr(page, "foreseen", lambda *_: "a minute")
    monkeypatch.setattr("pipelines.io.lock.SETTLE_S", 0.0)
    return begun


def train(stage: Stage) -> None:
    with pytest.raises(StoppedError, match="trained"):
        run_stage(stage)


Left = Callable[[Stage], dict[str, Any]]


def publish(stage: Stage, weights: bytes = b"weights", left: Left = left_by) -> None:
    storage.publish_bytes(weights, f"{stage.folder}/model.safetensors")
    fingerprint = storage.sha256(f"{stage.folder}/model.safetensors")[:16]
    config = left(stage) | {"fingerprint": fingerprint}
    storage.publish_json(config, f"{stage.folder}/config.json")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_done_is_verified_and_a_damaged_one_made_again(
    overwrite: bool, tmp_path: Path, trainings: list[list[str]]
) -> None:
    done = replace(stage("a", overwrite=overwrite), folder=str(tmp_path))
    publish(done)
    assert "is there already, verified" in run_stage(done)
    (tmp_path / "model.safetensors").write_bytes(b"other")
    if not overwrite:
        with pytest.raises(UserError, match="--overwrite to make it again"):
            run_stage(done)
        assert trainings == []
    else:
        for name in ("notes.txt", "checkpoints/step-00000007.json", "old/config.json"):
            storage.publish_bytes(b"{}", f"{tmp_path}/{name}")
        train(done)
        # What no training makes is kept.
        assert sorted(trainings[0]) == ["config.json", "lock.json", "notes.txt"]
        assert not (tmp_path / "config.json").exists() and (tmp_path / "old/config.json").exists()


@pytest.mark.parametrize("name", METHODS)
def test_overwriting_deletes_all_that_a_training_published(
    name: str, tmp_path: Path, trainings: list[list[str]]
) -> None:
    """Also what another kind of training would not write again, such as adapters."""
    METHODS[name](World(), 1).export(tmp_path)
    done = replace(stage("a"), folder=str(tmp_path))
    publish(done)
    train(replace(stage("b", overwrite=True), folder=str(tmp_path)))
    assert trainings == [["lock.json"]]


@pytest.mark.parametrize("lacking", ["choose_devices", "start_run"])
def test_nothing_is_deleted_before_it_is_known_that_there_is_something_to_train_on(
    lacking: str, tmp_path: Path, trainings: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*_: object) -> None:
        raise UserError(f"no {lacking}")

    done = replace(stage("a"), folder=str(tmp_path))
    publish(done)
    saved(done, 1000)
    before = {file.uri: storage.sha256(file.uri) for file in storage.walk(str(tmp_path))}
    monkeypatch.setattr(page, lacking, lacks)
    other = replace(stage("a", lr=0.5, overwrite=True), folder=str(tmp_path))
    with pytest.raises(UserError, match=f"no {lacking}"):
        run_stage(other)
    assert {file.uri: storage.sha256(file.uri) for file in storage.walk(str(tmp_path))} == before


def saved(stage: Stage, step: int, left: Left = left_by) -> None:
    about = stage.identity if left is left_by else {}
    checkpoints = Checkpoints(stage.folder, stage.recipe, 2, stage.inputs, identity=about)
    checkpoints.save(step, {"step": step})


@pytest.mark.parametrize("left", [left_by, left_before])
@pytest.mark.parametrize("done", [True, False])
def test_more_steps_go_on(
    left: Left, done: bool, tmp_path: Path, trainings: list[list[str]]
) -> None:
    before = replace(stage("a"), folder=str(tmp_path))
    saved(before, 1000 if done else 600, left)
    if done:
        publish(before, left=left)
        assert "is there already, verified" in run_stage(before)
    longer = replace(before, config=replace(before.config, steps=2000, checkpoint_every=50))
    if left is left_before:
        # How often was saved is part of the fingerprint then, and the steps are if it is done.
        steps = 2000 if done else 1000
        longer = replace(longer, config=replace(before.config, steps=steps))
    train(longer)
    kept = ["config.json", "model.safetensors"] if done else []
    step = 1000 if done else 600
    checkpoint = [f"step-{step:08d}.json", f"step-{step:08d}.safetensors"]
    assert sorted(trainings[0]) == sorted([*kept, *checkpoint, "lock.json"])


def test_fewer_steps_than_were_trained_are_refused(
    tmp_path: Path, trainings: list[list[str]]
) -> None:
    before = replace(stage("a"), folder=str(tmp_path))
    saved(before, 600)
    fewer = replace(before, config=replace(before.config, steps=500))
    with pytest.raises(UserError, match=r"--steps 500 is less than the 600 .*--overwrite"):
        run_stage(fewer)
    publish(before)
    with pytest.raises(UserError, match=r"--steps 500 is less than the 1000"):
        run_stage(fewer)
    assert run_stage(replace(before, config=replace(before.config, dry_run=True)))
    assert trainings == []


def test_a_training_without_checkpoints_cannot_go_on(
    tmp_path: Path, trainings: list[list[str]]
) -> None:
    before = replace(stage("a"), folder=str(tmp_path))
    publish(before)
    longer = replace(before, config=replace(before.config, steps=2000))
    with pytest.raises(UserError, match=r"trained 1000 steps, and has no checkpoint .*--overwrite"):
        run_stage(longer)
    assert trainings == []


@pytest.mark.parametrize("steps", [1000, 7])
def test_overwriting_resumes_what_the_same_command_left(
    steps: int, tmp_path: Path, trainings: list[list[str]]
) -> None:
    killed = replace(stage("a"), folder=str(tmp_path))
    saved(killed, 3)
    train(replace(stage("a", overwrite=True, steps=steps), folder=str(tmp_path)))
    kept = "step-00000003.safetensors" in trainings[0]
    assert kept == (steps == killed.config.steps)


def test_a_perceptual_network_is_known_by_its_sum_wherever_it_lay() -> None:
    """Earlier versions recorded its path."""

    def trained(text: str, sum: str = "a") -> Stage:
        return replace(stage("a", perceptual=text), inputs={"clips": "a", "perceptual": sum})

    now = trained("/moved/net.pt#sha256=a")
    for before in (trained("/first/net.pt#sha256=a"), trained("net.pt")):
        assert now.steps_of(left_by(before), 0) == 1000
    assert now.steps_of(left_by(trained("net.pt", sum="b")), 0) is None
    assert now.steps_of(left_by(stage("a")), 0) is None
    assert stage("a").steps_of(left_by(now), 0) is None
