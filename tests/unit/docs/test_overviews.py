"""`AGENTS.md` and `llms.txt` lead to pages that exist; the latter has its specified form."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(?:#[^)]*)?\)")
INNER = {"api.md", "third-party.md"}
"""Pages of the site that only make sense there, or list what tools found."""


@pytest.mark.parametrize("name", ["AGENTS.md", "llms.txt"])
def test_links_lead_somewhere(name: str) -> None:
    links = LINK.findall((ROOT / name).read_text())
    assert len(links) > 5 and all((ROOT / link).is_file() for link in links)


def test_llms_txt_is_of_the_form_that_its_specification_gives() -> None:
    head, *sections = re.split(r"^## ", (ROOT / "llms.txt").read_text(), flags=re.MULTILINE)
    assert re.match(r"# \S.*\n\n> \S.*\n\n", head) and "\n#" not in head
    assert sections[-1].startswith("Optional\n")
    for section in sections:
        _, _, *items = section.rstrip().split("\n")
        assert items and all(re.fullmatch(r"- \[[^]]+\]\(\S+\)(: .+)?", item) for item in items)


def test_llms_txt_names_every_page() -> None:
    links = set(LINK.findall((ROOT / "llms.txt").read_text()))
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages - links == {f"docs/{name}" for name in INNER}


def test_the_architecture_page_lists_every_module_as_its_first_line_says() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    listed = {
        package: dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", rest, flags=re.MULTILINE))
        for package, rest in re.findall(r"^### `([\w/]+)`\n(.*?)(?=^##)", page, re.M | re.S)
    }
    packages = [
        p.parent for top in ("pipelines", "vqvdm") for p in (ROOT / top).rglob("__init__.py")
    ]
    assert listed == {
        str(package.relative_to(ROOT)): modules
        for package in packages
        if (modules := {p.stem: _first_sentence(p) for p in _modules(package)})
        and package.name != "pipelines"  # The pages are listed as jobs.
    }


def _modules(package: Path) -> list[Path]:
    return [path for path in package.glob("*.py") if path.name != "__init__.py"]


def _first_sentence(path: Path) -> str:
    told = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = " ".join(told.partition("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9`)\]\"])\. (?=[A-Z`])", first)[0].rstrip(".")
