"""What the documents tell a reader to type exists, and is taken as it stands.

A block of commands that needs more than this machine says so in its title.
"""

import importlib.util
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.models.cli import commands as mlflow_models

from pipelines.recipes import cli
from pipelines.recipes.presets import PRESETS

ROOT = Path(__file__).parents[3]
OTHERS = ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md", "infra/README.md")
DOCUMENTS = [*(ROOT / name for name in OTHERS), *sorted((ROOT / "docs").glob("[a-z]*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
BLOCK = re.compile(r"^```(\w*)(?: title=\"(.*?)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
JOB = re.compile(r"(?:(ray job submit .*?)|(?:\S*python) )?(jobs/\w+\.py.*)")
NEEDS = {
    "docker": "needs Docker",
    "terraform": "needs an AWS account",
    "ray": "needs an AWS account",
    "helm": "needs a Kubernetes cluster",
    "kubectl": "needs a Kubernetes cluster",
    "mlflow": "needs a registered model",
    "curl": "needs a registered model",
}
"""Programs that do nothing on a machine alone, and what a block with them says."""
OTHER_FLAGS = {
    "docker": "--build-arg --profile",
    "buildah": "--isolation",
    "ffmpeg": "--enable-gpl --enable-version3",
    "mlflow": "--app-name --host",
    "python -m benchmarks.driver": "--again",
    "python -m benchmarks.gpu": "--out",
    "python": "--version",
    "ray": "--deadline-remaining-seconds --node-id --node-ip-address --reason --reason-message "
    "--runtime-env --working-dir",
    "uv": "--no-sync",
    "every job": "--help",
}
"""Flags in prose that are not those of jobs."""


def lines(block: str) -> Iterator[str]:
    """The commands of a block: continued lines in one, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            yield line


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """Title and content of each block of commands."""
    for language, title, content in BLOCK.findall(document.read_text()):
        assert language != "sh", "one name for all of them: bash"
        if language == "bash":
            yield title, content


def check_job(before: str, job: str) -> None:
    """Its settings are taken."""
    # Otherwise Ray takes the options for its own.
    assert before.rstrip().endswith(" --") or not before
    name, *arguments = shlex.split(job, comments=True)
    config = cli.parse(Path(name).stem, [word for word in arguments if word != "…"])
    # Seen from the folder above, a folder called vqvdm would be taken for the package.
    assert Path(config.root).name != "vqvdm"
    config.check()


def check_installation(words: list[str]) -> None:
    """Versions, files and extras are those that there are."""
    for word in words:
        if version := re.fullmatch(r"(?:python)?(3\.\d+)", word):
            classifier = f"Programming Language :: Python :: {version[1]}"
            assert classifier in PROJECT["classifiers"], word
        if extras := re.fullmatch(r"\.\[(.*)\]", word):
            assert set(extras[1].split(",")) <= PROJECT["optional-dependencies"].keys(), word
        assert not word.endswith(".txt") or (ROOT / word).exists(), word


def check(line: str, title: str) -> None:
    """A command that exists; `AssertionError` for one that is unknown, or lacks its title."""
    if job := JOB.search(line):
        check_job(job[1] or "", job[2])
        if line.startswith(job[0]):
            return
    program, *words = shlex.split(line, comments=True)
    name = Path(program).name
    if needs := NEEDS.get(name):
        assert title == needs, line
        for place in (*re.findall(r"(?:-k|-f|-chdir=) ?(infra/\S+)", line), *words):
            assert not place.startswith("infra/") or (ROOT / place).exists(), line
        if name == "mlflow":
            assert words[0] == "models"
            mlflow_models.commands[words[1]].make_context(words[1], words[2:])
        elif name == "curl":
            assert json.loads(words[words.index("-d") + 1])["dataframe_records"]
    elif name == "make":
        assert words[0] in TARGETS, line
    elif words[:1] == ["-m"] and words[1] != "venv":
        assert importlib.util.find_spec(words[1]), line
    elif name in ("pip", "uv") or words[:2] == ["-m", "venv"]:
        check_installation([program, *words])
    elif "/" in program and "=" not in program:
        assert os.access(ROOT / program, os.X_OK), line
    else:
        shell = name in ("source", "export", "cp") or re.match(r"\w+=\$\(", line)
        assert shell, f"{line}: of what kind is this command?"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_exists_and_says_what_it_needs(document: Path) -> None:
    for title, block in blocks(document):
        assert not title or title in {*NEEDS.values(), "needs the data set and a GPU"}
        for line in lines(block):
            for part in re.split(r" && ", line):
                check(part, title)


def test_the_readme_has_commands() -> None:
    found = [line for _, block in blocks(DOCUMENTS[0]) for line in lines(block)]
    assert sum("jobs/" in line for line in found) == 6
    assert {line.split()[1] for line in found if line.startswith("make")} >= {"demo", "test", "up"}


def test_an_unknown_command_is_told() -> None:
    for line in ("make nothing", "python -m benchmarks.nothing", "sudo reboot", "tests/nothing.sh"):
        with pytest.raises(AssertionError):
            check(line, "")
    with pytest.raises(AssertionError):
        check("kubectl get pods", "")
    with pytest.raises(AssertionError):
        check("uv venv --python 3.9", "")


def prose(document: Path) -> str:
    return BLOCK.sub("", document.read_text())


def flags(settings: Any, prefix: str = "--") -> Iterator[str]:
    for field in fields(settings):
        name, value = field.name.replace("_", "-"), getattr(settings, field.name)
        yield prefix + name
        if is_dataclass(value):
            yield from flags(value, f"{prefix}{name}.")


def test_flags_in_the_text_exist() -> None:
    known = set(" ".join(OTHER_FLAGS.values()).split())
    for preset in (make() for make in PRESETS.values()):
        for job in fields(preset):
            known.update(flags(getattr(preset, job.name)))
    for document in DOCUMENTS:
        spans = re.findall(r"`([^`\n]+)`", prose(document))
        named = re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*\w", " ".join(spans))
        assert set(named) <= known, document.name


def test_targets_modules_and_files_in_the_text_exist() -> None:
    for document in DOCUMENTS:
        for span in re.findall(r"`([^`\n]+)`", prose(document)):
            if target := re.fullmatch(r"make ([a-z-]+)( [A-Z_]+=\S+)*", span):
                assert target[1] in TARGETS, (document.name, span)
            if module := re.match(r"python -m (benchmarks[\w.]*)", span):
                name = module[1].removesuffix(".NAME")
                assert importlib.util.find_spec(name), (document.name, span)
            for file in re.findall(r"(?:jobs|pipelines|vqvdm|tests|infra)/[\w/]+\.\w+", span):
                # Tests are named as seen from tests/unit, which mirrors the source.
                places = (ROOT / file, ROOT / "tests/unit" / file)
                assert "NAME" in file or any(place.exists() for place in places), file
