"""The command line: presets, flags, and one line for each mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.recipes import cli
from pipelines.sharding.settings import ShardVideos
from vqvdm.errors import StoppedError, UserError

Capture = pytest.CaptureFixture[str]
SUBMITTED = '{"runtime_env": {"working_dir": "x"}}'


@pytest.fixture(autouse=True)
def not_submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


class WorkersError(Exception):
    """Carries the errors of workers, as a training framework does."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("worker 0 failed")
        self.worker_failures = failures


def shard_videos(config: ShardVideos) -> str:
    """A stand-in for a job's page."""
    return f"{config.preset} {config.frames} {config.size}"


def failing(error: BaseException, cause: Exception | None = None) -> Callable[[ShardVideos], str]:
    def page(config: ShardVideos) -> str:
        raise error from cause

    page.__name__ = "shard_videos"
    return page


def mistake(capsys: Capture, page: cli.Page, *arguments: str) -> str:
    """Run with a mistake in it; returns the line in standard error."""
    assert cli.run(page, list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.index("\n") == len(err) - 1
    return err


@pytest.mark.parametrize(
    ("arguments", "figure"),
    [("", "demo 16 64"), ("ucf101", "ucf101 16 128"), ("sky --size 32 --frames 8", "sky 8 32")],
)
def test_flags_change_the_preset(capsys: Capture, arguments: str, figure: str) -> None:
    assert cli.run(shard_videos, arguments.split()) == 0
    assert capsys.readouterr().out == f"shard_videos: {figure}\n"


def test_an_unknown_preset(capsys: Capture) -> None:
    assert "did you mean 'ucf101'?" in mistake(capsys, shard_videos, "ucf-101")
    assert "ucf101-paper" in mistake(capsys, shard_videos, "qqq")


@pytest.mark.parametrize(
    "arguments", ["--frame 3", "--frames many", "--frames", "demo sky", "--preset sky"]
)
def test_a_bad_flag(capsys: Capture, arguments: str) -> None:
    words = arguments.split()
    assert words[0] in mistake(capsys, shard_videos, *words)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UserError("pass\n  --videos"), None),
        (RuntimeError("a task failed"), UserError("pass --videos")),
        (WorkersError({0: OSError("gone"), 1: UserError("pass --videos")}), None),
    ],
)
def test_a_mistake_found_on_the_way(
    capsys: Capture, error: Exception, cause: Exception | None
) -> None:
    assert mistake(capsys, failing(error, cause)) == "error: pass --videos\n"


STOPS = [
    (KeyboardInterrupt(), "stopped on request"),
    (SystemExit(15), "stopped on request"),  # what Ray makes of SIGTERM
    (StoppedError("stopped at step 3 of 9, which is saved"), "stopped at step 3 of 9"),
]


@pytest.mark.parametrize(("error", "words"), STOPS)
def test_a_job_that_was_stopped_says_how_to_go_on(
    capsys: Capture, error: BaseException, words: str
) -> None:
    assert cli.run(failing(error), ["sky", "--videos", "/my videos"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {words}") and err.count("\n") == 1 and out == ""
    assert err.endswith("to resume: python jobs/shard_videos.py sky --videos '/my videos'\n")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "ray job submit -- jobs/shard_videos.py --size 32\n"),
        ({"working_dir": "x"}, "ray job submit --working-dir . -- jobs/shard_videos.py"),
    ],
)
def test_a_submitted_job_says_how_it_is_stopped_and_goes_on(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    told = {"runtime_env": environment, "metadata": {"job_submission_id": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(told))
    flags = ["--size", "32"] + ["--root", "s3://bucket/root"] * bool(environment)
    assert cli.run(failing(KeyboardInterrupt()), flags) == 1
    out, err = capsys.readouterr()
    assert out == "`ray job stop raysubmit_1` stops this job; Ctrl-C here does not\n"
    assert words in err


@pytest.mark.parametrize("error", [ValueError("no"), WorkersError({0: OSError("gone")})])
def test_anything_else_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        cli.run(failing(error), [])
    assert caught.value is error


def test_dry_run_prints_the_settings(capsys: Capture) -> None:
    assert cli.run(shard_videos, ["sky", "--dry-run", "--stride", "4"]) == 0
    out = capsys.readouterr().out
    settings, end = json.JSONDecoder().raw_decode(out)
    assert (settings["preset"], settings["stride"], settings["labels"]) == ("sky", 4, "none")
    assert out[end:].strip() == "shard_videos: sky 16 128"


def test_help_shows_the_presets_defaults(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["shard_videos.py", "ucf101", "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main(shard_videos)
    assert not stop.value.code
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--frames" in out and "ucf101-paper" in out and "(default: 128)" in out


def test_relative_paths_are_refused_in_a_shipped_copy(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", SUBMITTED)
    root = ["--root", str(tmp_path)]
    assert "--root runs/a" in mistake(capsys, shard_videos, "--root", "runs/a")
    assert "--videos raw" in mistake(capsys, shard_videos, *root, "--videos", "raw")
    assert cli.run(shard_videos, root) == 0
    assert cli.run(shard_videos, ["--root", "s3://bucket/a", "--videos", "~/videos"]) == 0


def test_the_code_beside_the_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    here = Path(cli.__file__).parents[2]
    assert cli._wanted_variables(here / "jobs/shard_videos.py") == {}
    assert cli._wanted_variables(tmp_path / "bin/a_tool") == {}
    (tmp_path / "pipelines").mkdir()
    job = tmp_path / "jobs/shard_videos.py"
    wanted = {"PYTHONPATH": f"{tmp_path}:/elsewhere"}
    assert cli._wanted_variables(job) == wanted
    monkeypatch.setenv("PYTHONPATH", wanted["PYTHONPATH"])
    assert cli._wanted_variables(job) == {}
