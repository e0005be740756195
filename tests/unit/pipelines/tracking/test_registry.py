"""Versions in a real MLflow registry: served without a pickle, and one of them the champion."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import get_model_info
from mlflow.pyfunc import scoring_server
from mlflow.tracking import MlflowClient
from starlette.testclient import TestClient

from pipelines.io.workspace import Workspace
from pipelines.sampling.settings import Sample
from pipelines.tracking import registry
from pipelines.tracking.registry import distance_of, judge, model_name, register
from pipelines.tracking.run import Run
from pipelines.tracking.start import start_run
from tests.tiny import write_bundle
from vqvdm import VideoGenerator
from vqvdm.checkpoint import load_config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [write_bundle(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture
def run(store: str, tmp_path: Path) -> Iterator[Run]:
    with start_run("train_ldm", Sample(root=str(tmp_path))) as run:
        yield run


def fingerprint(bundle: Path) -> str:
    return str(load_config(bundle)["fingerprint"])


def outcome(
    fvd: float | None,
    measured_on: str = "protocol",
    half: float | None = 0.1,
    clips: str = "clips",
) -> dict[str, Any]:
    metrics = {"psnr": 20.0, "floor/fvd_builtin": 0.1, "infinity/fvd_builtin": 0.0}
    if fvd is not None:
        metrics |= {"fvd_builtin": fvd}
    if half is not None:
        metrics |= {"fvd_builtin_ci95": half}
    return {"metrics": metrics, "measured_on": measured_on, "clips": clips}


def champion(run: Run, root: str) -> str | None:
    aliases = MlflowClient(run.uri).get_registered_model(model_name(root)).aliases
    return str(aliases["champion"]) if "champion" in aliases else None


@pytest.mark.long
def test_a_version_holds_all_it_needs(run: Run, bundles: list[Path], tmp_path: Path) -> None:
    root = str(tmp_path)
    said = register(run, root, str(bundles[0]))
    name = model_name(root)
    assert said == f"models:/{name}/1"
    assert register(run, root, str(bundles[0])) == f"models:/{name}/1 is there already"
    version = MlflowClient(run.uri).get_model_version(name, "1")
    assert version.tags["fingerprint"] == fingerprint(bundles[0])
    assert version.run_id == run.id
    assert "A tiny model" in version.description
    folder = next(
        Path(run.uri.removeprefix("sqlite:///")).parent.rglob(f"{run.id}/artifacts/model")
    )
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files}.isdisjoint({".pkl", ".pickle", ".pth", ".pt"})
    assert any(path.name == "model.safetensors" for path in files)


@pytest.mark.long
def test_the_model_predicts_what_the_bundle_does(
    run: Run, bundles: list[Path], tmp_path: Path
) -> None:
    root = str(tmp_path)
    register(run, root, str(bundles[1]))
    judge(run, root, fingerprint(bundles[1]), outcome(1.0))
    model = pyfunc.load_model(f"models:/{model_name(root)}@champion")
    asked = pd.DataFrame({"class": ["seven", "zero", "seven"], "fps": [8.0, 16.0, 8.0]})
    videos = model.predict(asked, params={"steps": 2, "seed": 5})
    assert (videos.shape, videos.dtype) == ((3, 16, 32, 32, 3), np.uint8)
    generator = VideoGenerator.load(bundles[1])
    expected = generator.sample(["seven"], fps=8.0, steps=2, seed=[(5, 2)])
    assert np.array_equal(videos[2], expected[0])
    info = get_model_info(f"models:/{model_name(root)}@champion")
    assert info.signature.inputs.input_names() == ["class", "fps"]
    params = {each.name: each.default for each in info.signature.params}
    assert params.keys() == {"steps", "guidance", "seed", "frames", "size"}
    assert (params["frames"], params["size"]) == (16, 32)
    small = model.predict(asked, params={"steps": 1, "frames": 8, "size": 16})
    assert small.shape == (3, 8, 16, 16, 3)
    assert model.input_example.to_dict("list") == {"class": ["zero"], "fps": [8.0]}
    assert model.predict(model.input_example, params={"steps": 1}).shape == (1, 16, 32, 32, 3)
    with pytest.raises(MlflowException):  # the signature is enforced
        model.predict(pd.DataFrame({"speed": [1.0]}))


ROW = {"class": "zero", "fps": 8.0}
REFUSED: list[tuple[list[Any], dict[str, Any], str]] = [
    ([ROW] * 1_000_000, {}, "1000000 videos in one request: send 1 to 64"),
    ([{"class": "nine", "fps": 8.0}], {}, "unknown class 'nine': Classes: zero, seven"),
    ([{"class": 5, "fps": 8.0}], {}, "unknown class '5'"),
    ([{"class": "zero", "fps": "eight"}], {}, "could not convert string to float: 'eight'"),
    ([{"class": "zero", "fps": None}], {}, "fps is nan: it must be between 0.1 and 1000"),
    ([{"class": "zero", "fps": -8}], {}, "fps is -8.0: it must be"),
    ([ROW, {"class": "zero", "fps": 1e300}], {}, "fps is 1e+300: it must be"),
    ([{"class": "zero"}], {}, "missing inputs ['fps']"),
    ([], {}, "missing inputs ['fps']"),
    ([ROW], {"steps": -1}, "steps is -1: it must be between 1 and 1000"),
    ([ROW], {"steps": 1_000_000}, "steps is 1000000: it must be"),
    ([ROW], {"steps": 10**400}, "steps is 10000000000000000000: it must be"),
    ([ROW], {"steps": "many"}, "for value `many`"),
    ([ROW], {"steps": 1.5}, "for value `1.5`"),
    ([ROW], {"frames": 0}, "frames is 0: it must be between 1 and"),
    ([ROW], {"size": 10**9}, "size is 1000000000: it must be"),
    ([ROW], {"size": 24}, "size is 24: this model makes multiples of 16; give 16 or 32"),
    ([ROW], {"frames": 32}, "frames is 32: this model uses absolute frame positions"),
    ([ROW] * 33, {"size": 48}, "33 videos of 16 frames and size 48 in one request: send fewer"),
    ([ROW], {"size": 144}, "1 videos of 16 frames and size 144 in one request: send fewer"),
    ([ROW], {"guidance": -1.0}, "guidance is -1.0: it must be between 0 and 100"),
    ([ROW], {"guidance": 1e300}, "guidance is 1e+300: it must be"),
    ([ROW], {"guidance": float("nan")}, "guidance is nan: it must be"),
]


@pytest.mark.long
def test_a_server_refuses_the_absurd_and_says_why(
    run: Run, bundles: list[Path], tmp_path: Path
) -> None:
    register(run, str(tmp_path), str(bundles[0]))
    model = pyfunc.load_model(f"models:/{model_name(str(tmp_path))}/1")
    server = TestClient(scoring_server.init(model))

    def ask(rows: list[Any], params: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        body = json.dumps({"dataframe_records": rows, "params": params})
        kind = {"Content-Type": "application/json"}
        answer = server.post("/invocations", content=body, headers=kind)
        return answer.status_code, answer.json()

    for rows, params, why in REFUSED:
        status, answer = ask(rows, params)
        assert status == 400, (params, answer)
        assert why in answer["message"]
        assert "stack_trace" not in answer
        if "it must be" in why or "class" in why or "in one request" in why:
            assert "\n" not in answer["message"] and "Failed to predict" not in answer["message"]
    # Any class is meant where none is given.
    made = [ask([row], {"steps": 1}) for row in ({"fps": 8.0}, {"fps": 8.0, "class": None})]
    assert [status for status, _ in made] == [200, 200]
    assert made[0] == made[1]


@pytest.mark.long
def test_a_server_takes_prompts_of_a_model_that_was_trained_with_captions(
    run: Run, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    bundle = write_bundle(tmp_path / "told", captioned=True)
    register(run, str(tmp_path), str(bundle))
    uri = f"models:/{model_name(str(tmp_path))}/1"
    assert get_model_info(uri).signature.inputs.input_names() == ["class", "prompt", "fps"]
    model = pyfunc.load_model(uri)
    asked = pd.DataFrame(
        {
            "class": ["seven", None, "seven", "seven"],
            "prompt": ["a red ball", "a red ball", None, "a blue ball"],
            "fps": [8.0] * 4,
        }
    )
    videos = model.predict(asked, params={"steps": 2, "seed": 5})
    generator = VideoGenerator.load(bundle)
    said = {"prompts": ["a red ball"], "fps": 8.0, "steps": 2}
    assert np.array_equal(videos[:1], generator.sample(["seven"], seed=[(5, 0)], **said))
    assert np.array_equal(videos[1:2], generator.sample(seed=[(5, 1)], **said))
    server = TestClient(scoring_server.init(model))
    for prompt, status, why in (
        ("a " * 6000, 400, "prompt of 12000 characters: send at most 10000"),
        ("", 200, ""),
    ):
        body = {"dataframe_records": [{"prompt": prompt, "fps": 8.0}], "params": {"steps": 1}}
        answer = server.post("/invocations", json=body)
        assert answer.status_code == status
        if why:
            assert answer.json()["message"] == why


def test_only_a_better_model_takes_over(run: Run, bundles: list[Path], tmp_path: Path) -> None:
    root = str(tmp_path)
    for bundle in bundles:
        register(run, root, str(bundle))

    def after(number: int, *what: Any) -> tuple[str | None, str]:
        said = judge(run, root, fingerprint(bundles[number]), outcome(*what))
        return champion(run, root), said

    assert after(0, None)[0] is None  # nothing measured, no champion
    assert after(0, 5.0) == ("1", f"champion: {model_name(root)}/1 is the first, fvd_builtin 5")
    assert after(1, 6.0)[0] == "1"
    alias, said = after(1, 4.0, "another protocol")
    assert alias == "1" and "not measured in the same way" in said
    for near, half in ((4.9, 0.1), (4.5, 0.45)):
        alias, said = after(2, near, "protocol", half)
        assert alias == "1" and "the intervals overlap" in said
    alias, said = after(2, 4.5)
    assert alias == "3"
    assert said.endswith("/3 takes over, fvd_builtin 4.5 ± 0.1 against 5 ± 0.1")
    tags = MlflowClient(run.uri).get_model_version(model_name(root), "3").tags
    assert tags["metric.fvd_builtin"] == "4.5" and tags["metric.floor.fvd_builtin"] == "0.1"
    assert tags["evaluation_run"] == run.id


def test_without_an_interval_nobody_takes_over(
    run: Run, bundles: list[Path], tmp_path: Path
) -> None:
    root = str(tmp_path)
    for bundle in bundles[:2]:
        register(run, root, str(bundle))
    judge(run, root, fingerprint(bundles[0]), outcome(5.0))
    said = judge(run, root, fingerprint(bundles[1]), outcome(1.0, half=None))
    assert champion(run, root) == "1" and "without an interval of both" in said


def test_an_unregistered_model_is_not_judged(run: Run, tmp_path: Path) -> None:
    assert "in no registry" in judge(run, str(tmp_path / "other"), "unknown", outcome(1.0))


def test_a_model_is_known_by_its_old_name_after_its_root_moved(run: Run, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    bundle = write_bundle(old / "ldm", seed=9)
    register(run, str(old), str(bundle))
    old.rename(new)
    said = judge(run, str(new), fingerprint(new / "ldm"), outcome(3.0))
    assert said == "champion: vqvdm-old/1 is the first, fvd_builtin 3"
    model = pyfunc.load_model("models:/vqvdm-old@champion")
    asked = pd.DataFrame({"class": ["seven"], "fps": [8.0]})
    assert model.predict(asked, params={"steps": 1}).shape == (1, 16, 32, 32, 3)


def versions(run: Run, name: str) -> dict[str, dict[str, str]]:
    found = MlflowClient(run.uri).search_model_versions(f"name = '{name}'")
    return {str(each.version): each.tags for each in found}


def as_before(run: Run, name: str, root: str) -> None:
    """Leave a registered model's first version as it was before versions knew their root."""
    client = MlflowClient(run.uri)
    for tag in ("root_id", "clips"):
        client.delete_model_version_tag(name, "1", tag)
    client.set_model_version_tag(name, "1", "bundle", f"{root}/ldm/base")


def test_roots_of_one_name_share_no_model(run: Run, bundles: list[Path], tmp_path: Path) -> None:
    """Alice's champion once stood in the way of Bob's better one, of other videos."""
    alice, bob = (str(tmp_path / who / "shared-name") for who in ("alice", "bob"))
    assert register(run, alice, str(bundles[0])) == "models:/vqvdm-shared-name/1"
    said = judge(run, alice, fingerprint(bundles[0]), outcome(900.0, clips="of Alice"))
    assert said == "champion: vqvdm-shared-name/1 is the first, fvd_builtin 900"
    name = f"vqvdm-shared-name-{Workspace(bob).id[:8]}"
    assert register(run, bob, str(bundles[1])) == f"models:/{name}/1"
    said = judge(run, bob, fingerprint(bundles[1]), outcome(10.0, clips="of Bob"))
    assert said == f"champion: {name}/1 is the first, fvd_builtin 10"
    # Each goes on where it began.
    assert register(run, alice, str(bundles[2])) == "models:/vqvdm-shared-name/2"
    assert register(run, bob, str(bundles[2])) == f"models:/{name}/2"
    assert champion(run, alice) == "1"


def test_a_registry_from_before_goes_on(run: Run, bundles: list[Path], tmp_path: Path) -> None:
    alice, bob = (str(tmp_path / who / "from-before") for who in ("alice", "bob"))
    name = "vqvdm-from-before"
    register(run, alice, str(bundles[0]))
    as_before(run, name, alice)
    # Both roots were registered as one, and the second has its own from now on.
    client = MlflowClient(run.uri)
    tags = {"fingerprint": fingerprint(bundles[1]), "bundle": f"{bob}/ldm/base"}
    client.create_model_version(name, "file:///nowhere", run.id, tags=tags)
    assert register(run, alice, str(bundles[2])) == f"models:/{name}/3"
    own = f"{name}-{Workspace(bob).id[:8]}"
    said = judge(run, bob, fingerprint(bundles[1]), outcome(1.0))
    assert said.startswith(f"champion: this model is not judged, as {name}/2 it is among those of")
    assert champion(run, alice) is None and said.endswith(f"is registered as {own}")
    assert register(run, bob, str(bundles[0])) == f"models:/{own}/1"


def test_a_root_that_moved_goes_on(run: Run, bundles: list[Path], tmp_path: Path) -> None:
    """Whether its versions know its id, or only where they lay."""
    for before in (False, True):
        old, new = (tmp_path / f"{before}{n}" / f"moved-{before}" for n in (1, 2))
        name = model_name(str(old))
        shutil.copytree(bundles[0], old / "ldm/base")
        register(run, str(old), str(old / "ldm/base"))
        if before:
            as_before(run, name, str(old))
        new.parent.mkdir()
        old.rename(new)
        assert register(run, str(new), str(bundles[1])) == f"models:/{name}/2"
        # A new root where the old one was is another; on this machine it takes its place.
        assert register(run, str(old), str(bundles[2])) == f"models:/{name}/3"


def test_one_path_on_two_machines_is_two_roots(
    run: Run, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "everywhere"
    register(run, str(root), str(bundles[0]))
    (root / "root.json").unlink()
    name = f"vqvdm-everywhere-{Workspace(str(root)).id[:8]}"
    # As if a server were asked, which several machines use.
    monkeypatch.setattr(registry, "LOCAL", ("file:",))
    assert register(run, str(root), str(bundles[1])) == f"models:/{name}/1"
    assert [len(versions(run, each)) for each in ("vqvdm-everywhere", name)] == [1, 1]


@pytest.mark.parametrize("before", [False, True])
def test_a_champion_of_clips_that_are_gone_gives_way(
    store: str, bundles: list[Path], tmp_path: Path, before: bool
) -> None:
    """It could be measured on the new clips no more, as it learned others: it stayed for ever."""
    root = str(tmp_path / f"grown-{before}")
    name = model_name(root)
    with start_run("evaluate", Sample(root=root), {"clips": "old"}) as run:
        register(run, root, str(bundles[0]))
        judge(run, root, fingerprint(bundles[0]), outcome(1.0, "a", clips="old"))
        assert versions(run, name)["1"]["clips"] == "old"
        if before:
            as_before(run, name, root)
        register(run, root, str(bundles[1]))
        # The same clips, measured otherwise: nothing changes hands.
        said = judge(run, root, fingerprint(bundles[1]), outcome(0.1, "b", clips="old"))
        assert champion(run, root) == "1"
        assert said.endswith(f"settings too, or this one with those of the run {run.id}")
        said = judge(run, root, fingerprint(bundles[1]), outcome(9.0, "c", clips="new"))
        assert champion(run, root) == "2"
        assert said == (
            f"champion: {name}/2 takes over, fvd_builtin 9: {name}/1 was measured on other clips "
            "than are there now, so nothing compares the two"
        )
        register(run, root, str(bundles[2]))
        said = judge(run, root, fingerprint(bundles[2]), outcome(5.0, "c", clips="new"))
        assert champion(run, root) == "3" and "takes over, fvd_builtin 5 ± 0.1 against 9" in said


def test_a_champion_of_unknown_clips_stays(run: Run, bundles: list[Path], tmp_path: Path) -> None:
    root = str(tmp_path / "unknown")
    client, name = MlflowClient(run.uri), model_name(root)
    for bundle in bundles[:2]:
        register(run, root, str(bundle))
    judge(run, root, fingerprint(bundles[0]), outcome(1.0, "a", clips="old"))
    as_before(run, name, root)
    client.set_model_version_tag(name, "1", "evaluation_run", "0" * 32)
    said = judge(run, root, fingerprint(bundles[1]), outcome(0.1, "b"))
    assert champion(run, root) == "1" and "was not measured in the same way" in said


def test_a_store_without_a_registry_is_reported(
    run: Run, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("Model registry functionality is unavailable")

    monkeypatch.setattr(MlflowClient, "search_model_versions", refuse)
    said = register(run, str(tmp_path), str(bundles[0]))
    assert said.startswith("not registered: the tracking store has no usable model registry")
    assert "refused" in judge(run, str(tmp_path), "f", outcome(1.0))


def test_names_of_models_come_from_roots() -> None:
    assert model_name("s3://bucket/my runs/ucf 101/") == "vqvdm-ucf-101"
    assert model_name("/runs/demo") == "vqvdm-demo"


def test_the_deciding_figure_is_fvd_and_no_floor_or_interval() -> None:
    assert distance_of(outcome(2.0)["metrics"]) == ("fvd_builtin", 2.0)
    assert distance_of({"fvd_ci95": 1.0, "rfvd": 1.0, "floor/fvd": 1.0}) is None
    assert distance_of({"fvd": 3.0, "fvd_ci95": 0.1}) == ("fvd", 3.0)


@pytest.mark.parametrize("here", ["2.13.0+cpu", "2.13.0+cu130", "2.13.0"])
def test_a_served_model_asks_for_versions_that_pypi_has(
    here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.importlib.metadata, "version", lambda name: here)
    assert registry._requirement("torch") == "torch==2.13.0"
