"""The project has a licence, and every pinned dependency a row among the others'."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def normal(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def listed() -> dict[str, str]:
    """Licence by package, as `docs/third-party.md` has it."""
    rows = re.findall(
        r"^\| (\S+) +\| (.+?) +\|$", (ROOT / "docs/third-party.md").read_text(), re.MULTILINE
    )
    return {normal(name): licence for name, licence in rows if name != "Name"}


def test_the_licence_is_the_one_that_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_every_pinned_package_has_a_licence_in_the_list() -> None:
    pins = (ROOT / "constraints.txt").read_text().split()
    pinned = {normal(pin.split("==")[0]) for pin in pins}
    assert pinned == set(listed())


def test_licences_that_are_not_permissive_are_explained() -> None:
    page = (ROOT / "docs/licences.md").read_text()
    strict = {name for name, licence in listed().items() if re.search("GPL|UNKNOWN", licence)}
    assert strict and not {name for name in strict if f"`{name}`" not in page}
