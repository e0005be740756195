"""Runs in a real MLflow store: their state, lineage, settings and files."""

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow.entities import Run as Record
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    REQUEST_LIMIT_EXCEEDED,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.tracking import MlflowClient

from pipelines.evaluation.settings import Evaluate
from pipelines.sampling.settings import Sample
from pipelines.settings import Job
from pipelines.tracking import sender
from pipelines.tracking.run import Run
from pipelines.tracking.server import is_away, tracking_uri, without_password
from pipelines.tracking.start import run_on_demand, start_run
from pipelines.training.settings import TrainVQGAN
from vqvdm.errors import StoppedError, UserError
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


def root_name(job: Sample) -> str:
    return Path(job.root).name


def record(run: Run) -> Record:
    return MlflowClient(tracking_uri()).get_run(run.id)


def status(run: Run) -> str:
    return record(run).info.status


def done(stage: str, config: Any, output: str = "", **inputs: str) -> Run:
    with start_run(stage, config, inputs) as run:
        if output:
            run.output(output)
    return run


def fail(job: Sample, error: BaseException) -> Run:
    with pytest.raises(type(error)), start_run("sample", job) as run:
        raise error
    return run


def test_a_run_is_running_then_finished(job: Sample) -> None:
    with start_run("sample", job) as run:
        assert status(run) == "RUNNING"
    found = record(run)
    assert (found.info.status, found.info.run_name) == (
        "FINISHED",
        f"{root_name(job)}: sample mine",
    )
    tags = {"stage": "sample", "preset": "demo", "root": job.root}
    assert found.data.tags.items() >= tags.items()


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RuntimeError("broken"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(15), "KILLED"),  # what Ray makes of SIGTERM
        (StoppedError("stopped at step 3"), "KILLED"),
    ],
)
def test_a_run_ends_as_its_job_does(job: Sample, error: BaseException, state: str) -> None:
    assert status(fail(job, error)) == state


def test_a_stopped_run_is_resumed_by_the_same_job(job: Sample) -> None:
    stopped = fail(job, KeyboardInterrupt())
    assert done("sample", job).id == stopped.id
    assert status(stopped) == "FINISHED"


def test_a_failed_run_is_resumed_by_the_same_job(job: Sample) -> None:
    failed = fail(job, RuntimeError("broken"))
    with start_run("sample", job) as again:
        assert again.id == failed.id
        assert status(again) == "RUNNING"
    assert status(again) == "FINISHED"
    assert done("sample", job).id != failed.id  # a finished run is not resumed


def test_a_killed_run_is_resumed_at_another_scale(job: Sample) -> None:
    killed = start_run("sample", job, {"ldm": "abc"})
    run = killed.__enter__()  # and never exited
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


def test_a_run_goes_on_after_its_root_moved(job: Sample, tmp_path: Path) -> None:
    failed = fail(job, RuntimeError("broken"))
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    again = done("sample", replace(job, root=str(moved)))
    assert again.id == failed.id
    assert record(again).data.tags["root"] == str(moved)


def test_two_roots_of_the_same_name_have_runs_of_their_own(job: Sample, tmp_path: Path) -> None:
    """As in two containers, of which each has its own /data/root."""
    first = fail(job, RuntimeError("broken"))
    tmp_path.rename(tmp_path.with_name(tmp_path.name + "-elsewhere"))
    assert done("sample", job).id != first.id


def test_the_run_that_is_named_is_taken(job: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(tracking_uri())
    # Without a location of its own, MLflow keeps artifacts in the working directory.
    location = Path(job.root).as_uri()
    experiment = client.create_experiment(f"of {root_name(job)}", artifact_location=location)
    mine = client.create_run(experiment, run_name="mine").info.run_id
    client.log_param(mine, "seed", "of my own")
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    assert done("sample", job, output="abc").id == mine
    found = client.get_run(mine)
    assert (found.info.run_name, found.info.status) == ("mine", "FINISHED")
    assert (found.data.params["seed"], found.data.params["output"]) == ("of my own", "mine")
    assert found.data.tags["stage"] == "sample"
    assert done("sample", job).id == mine
    with pytest.raises(UserError, match="is the run of another job"):
        done("evaluate", job)
    client.delete_run(mine)
    with pytest.raises(UserError, match="was deleted"):
        done("sample", job)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(UserError, match="is not in the tracking store"):
        done("sample", job)


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
    assert found.info.run_name == f"{tmp_path.name}: train_vqgan base"
    assert record(done("plain", Job(root=str(tmp_path)))).info.run_name == f"{tmp_path.name}: plain"


def test_artifacts_lie_beside_the_database(store: Path, job: Sample) -> None:
    with start_run("sample", job) as run:
        run.bytes(b"GIF", "samples/grid.gif")
        run.json({"b": 1}, "listing.json")
    (grid,) = store.glob(f"mlartifacts/{run.id}/artifacts/samples/grid.gif")
    assert grid.read_bytes() == b"GIF"
    assert json.loads((grid.parent.parent / "listing.json").read_text()) == {"b": 1}
    assert json.loads((grid.parent.parent / "config.json").read_text())["root"] == job.root


def test_a_worker_continues_the_run(job: Sample) -> None:
    with start_run("sample", job) as run:
        worker = Run(run.uri, run.id)
        worker.metrics({"train/loss": 2.0, "val/psnr": 30.0}, step=1)
        worker.metrics({"train/loss": 1.0}, step=2)
        worker.close()
        assert status(run) == "RUNNING"
    assert record(run).data.metrics == {"train/loss": 1.0, "val/psnr": 30.0}
    history = MlflowClient(run.uri).get_metric_history(run.id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0)]


def test_the_address_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    assert tracking_uri() == "http://example.org"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri().startswith("sqlite:////")
    assert tracking_uri().endswith("/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert tracking_uri() == f"sqlite:///{os.getcwd()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://profile")
    assert tracking_uri() == "databricks://profile"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    assert tracking_uri() == "databricks"


@pytest.fixture
def server(store: Path, job: Sample, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception]]:
    """Errors that the tracking server fails with, while the list is not empty."""
    away: list[Exception] = []
    log_batch = MlflowClient.log_batch

    def maybe(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        if away:
            raise away[0]
        log_batch(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", maybe)
    yield away


AWAY = [
    MlflowException("API request to http://… failed with exception", INTERNAL_ERROR),
    ConnectionError("refused"),
]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("error", AWAY)
def test_a_server_that_did_not_answer_gets_the_rest_later(
    server: list[Exception],
    error: Exception,
    job: Sample,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "RETRY_S", 0.3)
    said = ""

    def has_said(words: str) -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return words in said

    with start_run("sample", job) as run:
        run.metrics({"train/loss": 3.0}, step=1)
        eventually(lambda: not run._figures._waiting)
        server.append(error)
        for step in (2, 3):
            run.metrics({"train/loss": 1.0}, step)
        run.tag("note", "kept in order")
        eventually(lambda: has_said("does not answer"))
        time.sleep(0.8)  # It is asked again, and says nothing new.
        assert not has_said("answers again") and said.count("\n") == 1
        server.clear()
        run.metrics({"train/loss": 0.5}, step=4)
        eventually(lambda: has_said("answers again"))
    history = MlflowClient(run.uri).get_metric_history(run.id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 1.0), (3, 1.0), (4, 0.5)]
    assert record(run).data.tags["note"] == "kept in order"
    assert status(run) == "FINISHED"


def test_what_a_server_never_got_is_named(
    server: list[Exception], job: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_run("sample", job) as run:
        eventually(lambda: not run._figures._waiting)
        server.append(AWAY[0])
        for step in range(3):
            run.metrics({"train/loss": 1.0}, step)
    assert "never got: 3 x metrics, 1 x the end" in capsys.readouterr().out


def test_a_server_that_never_answers_holds_up_no_step(
    job: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = threading.Event()
    log_batch = MlflowClient.log_batch

    def slow(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        assert answering.wait(60)
        log_batch(self, *args, **kwargs)

    with start_run("sample", job) as run:
        eventually(lambda: not run._figures._waiting)
        monkeypatch.setattr(MlflowClient, "log_batch", slow)
        since = time.monotonic()
        for step in range(100):
            run.metrics({"train/loss": 1.0}, step)
        assert time.monotonic() - since < 1
        answering.set()
    assert len(MlflowClient(run.uri).get_metric_history(run.id, "train/loss")) == 100


def test_a_refusal_is_told_once_and_stops_no_job(
    server: list[Exception], job: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    with start_run("sample", job) as run:
        eventually(lambda: not run._figures._waiting)
        server.append(MlflowException("no such", RESOURCE_DOES_NOT_EXIST))
        for step in range(3):
            run.metrics({"train/loss": 1.0}, step)
        run.tag("note", "goes on")
    said = capsys.readouterr().out
    assert said.count("refuses metrics: the job goes on without it (") == said.count("\n") == 1
    assert record(run).data.tags["note"] == "goes on" and status(run) == "FINISHED"


def answer_of(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} Error", response=response)


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (ConnectionError("refused"), True),
        (requests.ConnectTimeout("after 10 s"), True),
        (answer_of(502), True),
        (answer_of(429), True),
        (MlflowException("failed with exception", INTERNAL_ERROR), True),
        (MlflowException("slow down", REQUEST_LIMIT_EXCEEDED), True),
        (answer_of(413), False),
        (answer_of(403), False),
        (PermissionError(13, "Permission denied", "/mlflow"), False),
        (MlflowException("no such", RESOURCE_DOES_NOT_EXIST), False),
    ],
)
def test_only_a_server_that_does_not_answer_is_away(error: Exception, away: bool) -> None:
    assert is_away(error) == away


def test_a_store_of_artifacts_that_fails_holds_up_no_figures(
    job: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise answer_of(500)

    monkeypatch.setattr(MlflowClient, "log_artifact", fail)
    with start_run("sample", job) as run:
        for number in range(5):
            run.json({}, "a.json")
            run.metrics({"train/loss": 1.0}, number)
        eventually(lambda: not run._figures._waiting)
    said = capsys.readouterr().out
    assert said.count("store of artifacts of the tracking server") == said.count("\n") == 2
    assert "never got: 1 x config.json, 5 x a.json" in said
    assert len(MlflowClient(run.uri).get_metric_history(run.id, "train/loss")) == 5
    assert status(run) == "FINISHED"


@pytest.mark.parametrize("hiccups", [0, 1])
def test_a_long_upload_is_waited_for(
    job: Sample, monkeypatch: pytest.MonkeyPatch, hiccups: int
) -> None:
    monkeypatch.setattr(sender, "CLOSE_S", 0.1)
    monkeypatch.setattr(sender, "HURRY_S", 0.1)
    failures = [ConnectionError("reset")] * hiccups
    uploaded: list[str] = []

    def upload() -> None:
        if failures:
            raise failures.pop()
        time.sleep(1)
        uploaded.append("it")

    with start_run("sample", job) as run:
        run.upload("a model", upload)
        assert uploaded == ["it"]


def test_whatever_still_waits_at_the_end_is_sent(
    job: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_artifact = MlflowClient.log_artifact

    def slow(self: MlflowClient, *args: Any) -> None:
        time.sleep(0.2)
        log_artifact(self, *args)

    monkeypatch.setattr(sender, "CLOSE_S", 0.6)
    monkeypatch.setattr(MlflowClient, "log_artifact", slow)
    with start_run("sample", job) as run:
        for number in range(8):
            run.json({}, f"{number}.json")
    assert len(MlflowClient(run.uri).list_artifacts(run.id)) == 9


def test_a_hiccup_at_the_end_loses_nothing(
    server: list[Exception], job: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_terminated = MlflowClient.set_terminated
    failures = [MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)]

    def maybe(self: MlflowClient, *args: Any) -> None:
        if failures:
            raise failures.pop()
        set_terminated(self, *args)

    monkeypatch.setattr(MlflowClient, "set_terminated", maybe)
    assert status(done("sample", job)) == "FINISHED"


def test_names_that_are_no_text_are_logged_escaped(job: Sample) -> None:
    run = done("sample", replace(job, root=f"{job.root}/\udcff"))
    assert record(run).data.tags["root"] == rf"{job.root}/\udcff"


def test_no_server_at_the_start_is_reported_in_one_line(
    job: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 does not answer: start it"):
        start_run("sample", job).__enter__()


def test_inputs_are_datasets_with_their_digest(job: Sample) -> None:
    found = record(done("train_ldm", job, latents="0123456789abcdef"))
    (dataset,) = [each.dataset for each in found.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("latents", "0123456789abcdef")
    assert json.loads(dataset.source) == {"uri": f"{job.root}/latents"}


def test_the_use_of_the_machine_is_logged(job: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with start_run("sample", job) as run:
        with Run(run.uri, run.id).system_metrics():
            time.sleep(1.5)
        first = record(run).data.metrics
        assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(
            first
        )


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:…@host:5432/db"),
        ("https://me:a:b@host", "https://me:…@host"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
    ],
)
def test_a_password_is_not_printed(uri: str, shown: str) -> None:
    assert without_password(uri) == shown


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:///tmp/mlruns"])
def test_a_folder_of_runs_is_refused_in_one_line(
    job: Sample, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=r"is a folder.* pass sqlite:////.*mlruns/mlflow\.db"):
        start_run("sample", job).__enter__()


def test_what_is_no_address_is_refused_before_the_work(
    job: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    with pytest.raises(UserError, match=r"no address: pass http://localhost:5000$"):
        run_on_demand("sample", job).__enter__()


def test_where_no_runs_can_be_kept_is_told(
    job: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(UserError, match=r"runs cannot be kept in .*/file \("):
        start_run("sample", job).__enter__()


def test_the_experiment_is_the_one_that_is_named(
    job: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    client = MlflowClient(tracking_uri())
    run = done("sample", job)
    experiment = client.get_experiment(record(run).info.experiment_id)
    assert experiment.name == "mine"
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(UserError, match=rf"'mine' was deleted.*-x {experiment.experiment_id}`"):
        start_run("sample", job).__enter__()


@pytest.mark.long
def test_a_database_of_another_version_is_named(
    job: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done("sample", job)
    database = tmp_path / "other.db"
    with sqlite3.connect(tmp_path / "mlflow.db") as old, sqlite3.connect(database) as copy:
        old.backup(copy)
        copy.execute("update alembic_version set version_num = '451aebb31d03'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    with pytest.raises(UserError, match=r"of another version of MLflow.*mlflow db upgrade sqlite"):
        start_run("sample", job).__enter__()


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_is_told_in_one_line(
    job: Sample, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(UserError, match="refuses access: check MLFLOW_TRACKING_USERNAME"):
            start_run("sample", job).__enter__()
        server.shutdown()


def test_pictures_of_steps_are_one_series(job: Sample) -> None:
    with start_run("sample", job) as run:
        for step in (1, 2):
            run.image(np.full((8, 8, 3), step, np.uint8), "preview", step)
    names = [item.path for item in MlflowClient(run.uri).list_artifacts(run.id, "images")]
    found = {int(match[1]) for name in names if (match := re.search(r"preview.step.(\d+)", name))}
    assert found == {1, 2}


def test_jobs_that_publish_under_two_names_have_two_runs(store: Path, tmp_path: Path) -> None:
    """Though their recipes are the same, and both are at work."""
    train = TrainVQGAN(root=str(tmp_path))
    sampled = Sample(root=str(tmp_path))
    for stage, one, other in (
        ("train_vqgan", train, replace(train, name="other")),
        ("sample", sampled, replace(sampled, output="other")),
        ("evaluate", Evaluate(root=str(tmp_path)), Evaluate(root=str(tmp_path), sweep="steps")),
    ):
        assert one.recipe() == other.recipe()
        with start_run(stage, one) as first, start_run(stage, other) as second:
            assert first.id != second.id
            with start_run(stage, one) as again:
                assert again.id == first.id
