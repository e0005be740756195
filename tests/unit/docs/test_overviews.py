"""`AGENTS.md` and `llms.txt` lead to pages that exist; the latter has its specified form."""

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
