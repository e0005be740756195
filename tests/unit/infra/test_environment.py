"""`infra/environment.sh`: which Python the environment gets, and what is said without one."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
SCRIPT = REPOSITORY / "infra" / "environment.sh"
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo {version} ;;
*ensurepip*) exit {lacks_venv} ;;
"-m pip install"*) echo "{version} pip" >>{log} ;;
"-m venv"*)
    echo "{version} $*" >>{log}
    for last; do :; done
    mkdir -p "$last/bin"
    cp "$0" "$last/bin/python"
    ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>{log}
for last; do :; done
mkdir -p "$last/bin"
cp {python} "$last/bin/python"
"""


class Machine:
    """A clone, and a path with the Pythons that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.bin, self.log = folder / "a clone", folder / "bin", folder / "log"
        (self.clone / "infra").mkdir(parents=True)
        shutil.copy(SCRIPT, self.clone / "infra")
        self.bin.mkdir()
        for tool in ("sh", "dirname", "mkdir", "cp"):
            found = shutil.which(tool)
            assert found
            (self.bin / tool).symlink_to(found)

    def add(self, name: str, version: str = "", lacks_venv: bool = False) -> None:
        text = PYTHON.format(version=version, lacks_venv=int(lacks_venv), log=self.log)
        if name == "uv":
            self.add("fetched", "3.13")
            text = UV.format(log=self.log, python=(self.bin / "fetched").rename(self.bin / "-py"))
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def make(self, **variables: str) -> tuple[list[str], str]:
        """What was called, but for what only asks; and the last line that was printed."""
        self.log.write_text("")
        done = subprocess.run(
            [self.clone / "infra" / "environment.sh"],
            env={"PATH": f"{self.clone}/.venv/bin:{self.bin}"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (0, 2), done.stdout
        lines = done.stdout.splitlines()
        assert len(lines) == 1, done.stdout
        assert lines[0].startswith("error: ") == bool(done.returncode)
        return self.log.read_text().splitlines(), lines[0]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_newest_supported_python_is_taken(machine: Machine) -> None:
    for version in ("3.10", "3.11", "3.12", "3.14"):
        machine.add(f"python{version}", version)
    machine.add("python3", "3.14")
    calls, line = machine.make()
    assert calls == ["3.12 -m venv --clear .venv", "3.12 pip"]
    assert line.startswith("Python 3.12: installing")
    machine.add("python3.13", "3.13")
    assert machine.make()[0] == ["3.12 pip"]  # What is there stays.
    calls, _ = machine.make(PYTHON="python3.13")
    assert calls == ["3.13 -m venv --clear .venv", "3.13 pip"]
    assert machine.make(PYTHON="python3.13")[0] == ["3.13 pip"]


def test_a_python_without_a_number_will_do(machine: Machine) -> None:
    machine.add("python3.11", "3.11")
    machine.add("python3", "3.13")
    assert machine.make()[0] == ["3.13 -m venv --clear .venv", "3.13 pip"]


def test_an_older_python_that_makes_environments_comes_before_a_newer_that_does_not(
    machine: Machine,
) -> None:
    machine.add("python3.13", "3.13", lacks_venv=True)
    machine.add("python3.11", "3.11")
    assert machine.make()[0] == ["3.11 -m venv --clear .venv", "3.11 pip"]


def test_an_environment_of_a_python_that_is_not_supported_is_replaced(machine: Machine) -> None:
    machine.add("python3.11", "3.11")
    machine.make()
    old = machine.clone / ".venv" / "bin" / "python"
    old.write_text(old.read_text().replace("3.11", "3.10"))
    assert machine.make()[0] == ["3.11 -m venv --clear .venv", "3.11 pip"]


@pytest.mark.parametrize("python", ["", "3.9", "3.12"])
def test_with_nothing_but_uv(machine: Machine, python: str) -> None:
    machine.add("uv")
    if python:  # Debian's, without venv
        machine.add("python3", python, lacks_venv=True)
    calls, line = machine.make()
    wanted = "python3" if python == "3.12" else "3.13"
    assert calls == [f"uv venv --quiet --clear --seed --python {wanted} .venv", "3.13 pip"]
    assert line.startswith("Python 3.13: installing")


@pytest.mark.parametrize(
    ("pythons", "variables", "said"),
    [
        ({}, {}, r"none of Python 3\.13 3\.12 3\.11 is on the path: install one, or uv \(http.*\)"),
        ({"python3": "3.9"}, {}, r"none of Python .* is on the path \(python3 is 3\.9\): install"),
        ({"python3": "3.12 bare"}, {}, r"python3 lacks .*venv.*: apt-get install python3\.12-venv"),
        ({"python3": "3.9"}, {"PYTHON": "python3"}, r"PYTHON=python3 is Python 3\.9: one of 3\.13"),
        ({}, {"PYTHON": "python3.13"}, r"PYTHON=python3\.13 is no Python: one of 3\.13 3\.12 3"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    machine: Machine, pythons: dict[str, str], variables: dict[str, str], said: str
) -> None:
    for name, version in pythons.items():
        machine.add(name, version.removesuffix(" bare"), lacks_venv=version.endswith("bare"))
    calls, line = machine.make(**variables)
    assert not calls
    assert re.match(f"error: {said}", line)


def test_the_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    listed = re.search(r'^versions="(.*)"$', SCRIPT.read_text(), re.MULTILINE)
    assert listed
    versions = listed[1].split()
    oldest, newest = versions[-1], versions[0]
    beyond = f"3.{int(newest.removeprefix('3.')) + 1}"
    assert project["requires-python"] == f">={oldest},<{beyond}"
    stated = [c.rpartition(" ")[2] for c in project["classifiers"] if ":: Python :: 3." in c]
    assert stated == versions[::-1]
