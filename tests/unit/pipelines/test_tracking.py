"""Runs in a real MLflow store: their state, lineage, settings and files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as Record
from mlflow.tracking import MlflowClient

from pipelines import tracking
from pipelines.config.schema import Job, Sample, TrainVQGAN
from vqvdm.tokenizer.losses import LossConfig
from vqvdm.tokenizer.vqgan import VQGANConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One database for all tests, which takes seconds to set up; each test has its own root."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/new/mlflow.db")
        yield folder / "new"


@pytest.fixture
def job(store: Path, tmp_path: Path) -> Sample:
    return Sample(root=str(tmp_path), output="mine")


def record(run: tracking.Run) -> Record:
    return MlflowClient(tracking.tracking_uri()).get_run(run.id)


def status(run: tracking.Run) -> str:
    return record(run).info.status


def done(stage: str, config: Any, output: str = "", **inputs: str) -> tracking.Run:
    with tracking.run(stage, config, inputs) as run:
        if output:
            run.output(output)
    return run


def fail(job: Sample, error: BaseException) -> tracking.Run:
    with pytest.raises(type(error)), tracking.run("sample", job) as run:
        raise error
    return run


def test_a_run_is_running_then_finished(job: Sample) -> None:
    with tracking.run("sample", job) as run:
        assert status(run) == "RUNNING"
    found = record(run)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "sample-mine")
    tags = {"stage": "sample", "preset": "demo", "root": job.root}
    assert found.data.tags.items() >= tags.items()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_run_fails_with_its_job(job: Sample, error: BaseException) -> None:
    assert status(fail(job, error)) == "FAILED"


def test_a_failed_run_is_taken_up_by_the_same_job(job: Sample) -> None:
    failed = fail(job, RuntimeError("broken"))
    with tracking.run("sample", job) as again:
        assert again.id == failed.id
        assert status(again) == "RUNNING"
    assert status(again) == "FINISHED"
    assert done("sample", job).id != failed.id  # what is finished is not taken up


def test_a_killed_run_is_taken_up_at_another_scale(job: Sample) -> None:
    killed = tracking.run("sample", job, {"ldm": "abc"})
    run = killed.__enter__()  # and never left
    other = Sample(root=job.root, output=job.output, num_workers=7)
    assert done("sample", other, ldm="abc").id == run.id
    assert record(run).data.params["num_workers"] == "null"


def test_another_job_starts_a_run_of_its_own(job: Sample) -> None:
    failed = fail(job, RuntimeError("broken"))
    others = [
        done("sample", Sample(root=job.root, output=job.output, steps=3)),
        done("sample", Sample(root=job.root + "2", output=job.output)),
        done("sample", job, ldm="other"),
        done("evaluate", job),
    ]
    assert len({failed.id, *(run.id for run in others)}) == 5
    assert status(failed) == "FAILED"


def test_the_maker_of_an_input_is_found_by_content(job: Sample, tmp_path: Path) -> None:
    maker = done("train_ldm", job, output=f"made in {tmp_path.name}")
    done("train_ldm", Sample(root=job.root, steps=9), output="something else")
    user = done("sample", job, ldm=f"made in {tmp_path.name}", clips="from nowhere")
    tags = record(user).data.tags
    assert tags["input.ldm"] == f"made in {tmp_path.name}"
    assert tags["input.ldm.run"] == maker.id
    assert tags["input.clips"] == "from nowhere"
    assert "input.clips.run" not in tags


def test_settings_are_flattened(store: Path, tmp_path: Path) -> None:
    model = VQGANConfig(blocks=((2, 4, 4),), widths=(8,), depths=(1,), quantizer="vq")
    config = TrainVQGAN(root=str(tmp_path), lr=0.5, model=model, loss=LossConfig(l1=1.0))
    found = record(done("train_vqgan", config))
    wanted = {
        "lr": "0.5", "name": "base", "num_workers": "null", "overwrite": "false",
        "model.blocks": "[[2, 4, 4]]", "model.quantizer": "vq", "loss.l1": "1.0",
    }  # fmt: skip
    assert found.data.params.items() >= wanted.items()
    assert found.info.run_name == "train_vqgan-base"
    assert record(done("plain", Job(root=str(tmp_path)))).info.run_name == "plain"


def test_artifacts_lie_beside_the_database(store: Path, job: Sample) -> None:
    with tracking.run("sample", job) as run:
        run.bytes(b"GIF", "samples/grid.gif")
        run.json({"b": 1}, "listing.json")
    (grid,) = store.glob(f"mlartifacts/{run.id}/artifacts/samples/grid.gif")
    assert grid.read_bytes() == b"GIF"
    assert json.loads((grid.parent.parent / "listing.json").read_text()) == {"b": 1}
    assert json.loads((grid.parent.parent / "config.json").read_text())["root"] == job.root


def test_a_worker_goes_on_in_the_run(job: Sample) -> None:
    with tracking.run("sample", job) as run:
        worker = tracking.attach(run.uri, run.id)
        worker.metrics({"train/loss": 2.0, "val/psnr": 30.0}, step=1)
        worker.metrics({"train/loss": 1.0}, step=2)
        assert status(run) == "RUNNING"
    assert record(run).data.metrics == {"train/loss": 1.0, "val/psnr": 30.0}
    history = MlflowClient(run.uri).get_metric_history(run.id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0)]


def test_the_address_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    assert tracking.tracking_uri() == "http://example.org"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.tracking_uri().startswith("sqlite:////")
    assert tracking.tracking_uri().endswith("/mlflow.db")
