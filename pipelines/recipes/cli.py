"""The command line of every job: `jobs/NAME.py [PRESET]`, then flags.

Exit status: 0 done; 2 the user's mistake, reported in one line; 1 stopped on
request, or anything else.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from pipelines.cluster.join import find_user_error
from pipelines.io.connection import is_local
from pipelines.recipes import own
from pipelines.recipes.presets import PRESETS, settings
from pipelines.settings import Job
from vqvdm.errors import IncompleteError, StoppedError, UserError, is_stop

Page = Callable[[Any], str]
"""A job's page: takes its settings, returns its main figure in words."""


CODE = Path(__file__).resolve().parents[1]
"""The folder of the pipelines that run."""
RAY_ADVICE = "\nFailed to apply UDF transform"
"""The beginning of the text that Ray Data appends to the error message of a task."""


def main(page: Page) -> None:
    """Run a job's page with the settings that the command line gives, and exit."""
    if changes := _wanted_variables(Path(sys.argv[0])):
        arguments = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, os.environ | changes)
    for stream in (sys.stdout, sys.stderr):
        # File names need not be text; they are printed all the same.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(page, sys.argv[1:]))


def _wanted_variables(job: Path) -> dict[str, str]:
    """Variables with which Python has to start again, if any."""
    changes = {}
    if sys.getfilesystemencoding() != "utf-8":  # In a C locale names of files cannot be read.
        changes["PYTHONUTF8"] = "1"
    beside = job.resolve().parents[1] / "pipelines"
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if beside.is_dir() and not beside.samefile(CODE) and str(beside.parent) not in paths:
        # Another copy of the repository is installed here: the one beside the job runs.
        changes["PYTHONPATH"] = os.pathsep.join(filter(None, [str(beside.parent), *paths]))
    return changes


def run(page: Page, arguments: list[str]) -> int:
    """As `main`, with given arguments; returns the exit status."""
    name = page.__name__
    try:
        return _run(page, name, arguments)
    except BaseException as error:
        if not is_stop(error):
            raise
        words = str(error) if isinstance(error, StoppedError) else "stopped on request"
        again = f"run the same command again to resume: {command(name, arguments)}"
        print(f"error: {words}: {again}", file=sys.stderr, flush=True)
        return 1


def _run(page: Page, name: str, arguments: list[str]) -> int:
    try:
        config = parse(name, arguments)
        refuse_lost_paths(config)
        if (id := _submission()) and not config.dry_run:
            print(f"`ray job stop {id}` stops this job; Ctrl-C here does not", flush=True)
        if config.dry_run:
            print(json.dumps({"preset": config.preset} | asdict(config), indent=1))
        figure = page(config)
        print(f"{name}: {figure}", flush=True)
        return 0
    except IncompleteError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except Exception as error:
        mistake = find_user_error(error)
        if mistake is None:
            raise
        words = str(mistake).split(RAY_ADVICE)[0].split()
        print(f"error: {' '.join(words)}", file=sys.stderr, flush=True)
        return 2


def command(job: str, arguments: list[str]) -> str:
    """The command line that started a job, as a shell takes it."""
    words = shlex.join([f"jobs/{job}.py", *arguments])
    if _submission() is None:
        return f"python {words}"
    shipped = " --working-dir ." if _in_shipped_copy() else ""
    return f"ray job submit{shipped} -- {words}"


def _submission() -> str | None:
    """The id by which `ray job` knows this job; None where it was not submitted."""
    return _job_config().get("metadata", {}).get("job_submission_id")


def parse(job: str, arguments: list[str]) -> Any:
    """The settings of a job: those of the preset, changed by flags."""
    preset = "demo"
    if arguments and not arguments[0].startswith("-"):
        preset, *arguments = arguments
    config = _parse(job, preset, arguments)
    if preset == own.OWN:
        preset, why = own.suited(config)
        print(f"{own.OWN}: the recipe {preset!r} for {why}", flush=True)
        if preset != own.OWN:
            # The place does not depend on the recipe.
            arguments = ["--root", config.root, *arguments]
            config = _parse(job, preset, arguments)
    object.__setattr__(config, "preset", preset)
    return config


def _parse(job: str, preset: str, arguments: list[str]) -> Any:
    default = settings(preset, job)
    return _quietly(
        lambda: tyro.cli(
            type(default),
            default=default,
            args=arguments,
            prog=f"jobs/{job}.py [{'|'.join(PRESETS)}]",
            description=f"{inspect.getdoc(type(default))}\n\nSettings shown: preset {preset}.",
        )
    )


def _quietly(cli: Callable[[], Job]) -> Job:
    """Turn the parser's boxed error message into one line."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return cli()
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯]", " ", stderr.getvalue())
        raise UserError(" ".join(text.split()) or "bad arguments: see --help") from None


def refuse_lost_paths(config: Job) -> None:
    """Refuse relative paths if they would lie in Ray's temporary copy and be lost."""
    if not _in_shipped_copy():
        return
    for flag in ("root", "videos", "init-from"):
        path = getattr(config, flag.replace("-", "_"), None)
        if path and is_local(path) and not os.path.isabs(os.path.expanduser(path)):
            raise UserError(
                f"--{flag} {path} is relative, and this job runs in a temporary copy of the code "
                f"where it would be lost: pass an absolute path or a URI such as s3://bucket/path"
            )


def _in_shipped_copy() -> bool:
    runtime_env = _job_config().get("runtime_env", {})
    return "working_dir" in runtime_env or "/working_dir_files/" in os.getcwd()


def _job_config() -> dict[str, Any]:
    """What `ray job submit` tells a job of itself."""
    return json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
