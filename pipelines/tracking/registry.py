"""MLflow's model registry: versions of bundles, their figures, and the champion among them.

The models under a root are versions of one registered model, which no other root shares. A version
takes the alias `champion` when there is none, when its Fréchet distance is lower than that of the
champion beyond the 95 % intervals of both, measured in the same way on the same clips, or when the
champion was measured on other clips than the root has now: then nothing can compare the two.
"""

from __future__ import annotations

import importlib.metadata
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.io import storage
from pipelines.io.bundles import BUNDLE, fetch_encoder
from pipelines.io.workspace import Workspace, published
from pipelines.tracking.run import Run
from vqvdm.diffusion.samplers import STEPS
from vqvdm.video_shapes import Shape, VideoShapes

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

ALIAS = "champion"
REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = ("einops", "mlflow", "numpy", "safetensors", "torch", "vector-quantize-pytorch")
FOR_TEXT = ("transformers",)
"""Further ones of a model that takes prompts."""
MEASURED_ON = "measured_on"
"""Tag: fingerprint of protocol, detectors and clips. Only equal ones compare."""
CLIPS = "clips"
"""Tag: fingerprint of the clips alone. Of versions judged earlier, the run of the evaluation has
it."""
ROOT = "root_id"
"""Tag: the id of the root that a version is of. Earlier versions tell where their bundle lay."""
LOCAL = ("sqlite:", "file:")
"""Beginnings of addresses of stores that one machine uses."""


def model_name(root: str) -> str:
    """The registered model of a root, if it is no other's: `vqvdm-` and the last part of its
    path."""
    last = root.rstrip("/").rsplit("/", 1)[-1]
    return f"vqvdm-{re.sub(r'[^A-Za-z0-9_.-]+', '-', last).strip('-') or 'root'}"


def register(run: Run, root: str, folder: str) -> str:
    """Add the bundle in `folder` as a version of the root's model; returns what was done in words.

    A store without a registry is not an error: the bundle is published under the root in any case.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(run.uri)
    with tempfile.TemporaryDirectory(prefix="vqvdm-") as temporary:
        bundle, model = Path(temporary, "bundle"), Path(temporary, "model")
        storage.download_folder(folder, bundle, (*BUNDLE, "MODEL_CARD.md"))
        config = storage.read_json(str(bundle / "config.json"))
        fetch_encoder(folder, bundle, config)
        card = (bundle / "MODEL_CARD.md").read_text()
        try:
            name = _name_of(client, run.uri, root)
            if found := _version_of(client, name, config["fingerprint"]):
                return f"models:/{name}/{found.version} is there already"
            vqgan = storage.read_json(str(bundle / "vqgan" / "config.json"))
            _save(model, bundle, config, VideoShapes.read(config, vqgan).trained)
            client.log_artifacts(run.id, str(model), "model")
            tags = {"fingerprint": config["fingerprint"], "bundle": folder}
            version = _add(client, run, name, tags | {ROOT: Workspace(root).id}, card)
        except MlflowException as error:
            line = " ".join(str(error).split())
            return f"not registered: the tracking store has no usable model registry ({line})"
    return f"models:/{name}/{version}"


def _save(model: Path, bundle: Path, config: dict[str, Any], shape: Shape) -> None:
    """Write the bundle as an MLflow model: code and safetensors, never a pickle."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    example = pd.DataFrame({"class": (config["classes"] or [""])[:1], "fps": [config["fps"][0]]})
    texts = ["class", "prompt"] if "text" in config else ["class"]
    inputs = Schema(
        [
            *(ColSpec(DataType.string, name, required=False) for name in texts),
            ColSpec(DataType.double, "fps"),
        ]
    )
    params = ParamSchema(
        [
            ParamSpec("steps", DataType.long, config.get("sampling_steps", STEPS)),
            ParamSpec("guidance", DataType.double, 2.0),
            ParamSpec("seed", DataType.long, 0),
            ParamSpec("frames", DataType.long, shape[0]),
            ParamSpec("size", DataType.long, shape[1]),
        ]
    )
    outputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1, 3))])
    pyfunc.save_model(
        model,
        python_model=str(Path(__file__).with_name("registered_model.py")),
        artifacts={"bundle": str(bundle)},
        signature=ModelSignature(inputs=inputs, outputs=outputs, params=params),
        input_example=example,
        code_paths=[str(REPOSITORY / "vqvdm")],
        pip_requirements=[
            _requirement(name) for name in (*REQUIREMENTS, *(FOR_TEXT if "text" in config else ()))
        ],
    )


def _requirement(name: str) -> str:
    """A package in the version that is here; in any, where it is not: trainings need none for
    text."""
    try:
        # Without the build's own label, as in 2.13.0+cpu, which PyPI does not know.
        return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return name


def _add(client: MlflowClient, run: Run, name: str, tags: dict[str, str], card: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="VQ-VDM: class names to videos")
    source = f"{client.get_run(run.id).info.artifact_uri}/model"
    return client.create_model_version(name, source, run.id, tags=tags, description=card).version


def _name_of(client: MlflowClient, uri: str, root: str) -> str:
    """The registered model of a root: `model_name`, and the root's id where that is another's."""
    name = model_name(root)
    return name if _is_of(client, uri, name, root) else f"{name}-{Workspace(root).id[:8]}"


def _is_of(client: MlflowClient, uri: str, name: str, root: str) -> bool:
    """Whether a registered model is of a root: that of its first version, wherever it lay then.
    One without versions is anybody's."""
    id, root = Workspace(root).id, root.rstrip("/")
    # Two machines may use the same path; a URI, or a store on one machine, tells them apart.
    unique = "://" in root or uri.startswith(LOCAL)

    def is_here(tags: Mapping[str, str]) -> bool:
        known = tags.get(ROOT)
        if known == id or (_home(tags) == root and (known is None or unique)):
            return True
        if known is not None:
            return False
        folder = Workspace(root).ldm(tags["bundle"].rsplit("/", 1)[-1])
        return (published(folder, "config.json") or {}).get("fingerprint") == tags["fingerprint"]

    def of_one(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
        if ROOT in a and ROOT in b:
            return a[ROOT] == b[ROOT]
        return _home(a) == _home(b)

    versions = sorted(
        client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version)
    )
    ours = [each.tags for each in versions if "bundle" in each.tags]
    return not ours or any(of_one(tags, ours[0]) and is_here(tags) for tags in ours)


def _home(tags: Mapping[str, str]) -> str:
    """The root that a version's bundle lay in: it is ROOT/ldm/NAME."""
    return tags["bundle"].rsplit("/", 2)[0]


def _version_of(client: MlflowClient, name: str, fingerprint: str) -> ModelVersion | None:
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("fingerprint") == fingerprint:
            return version
    return None


def _moved(client: MlflowClient, fingerprint: str) -> ModelVersion | None:
    """The version of a bundle whose root had another name when it was registered."""
    found = client.search_model_versions(f"tags.fingerprint = '{fingerprint}'", max_results=1)
    return found[0] if found else None


def distance_of(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The figure that decides: FVD by any detector."""
    for name, value in sorted(metrics.items()):
        if re.fullmatch(r"fvd(_(?!.*ci95$).+)?", name):
            return name, value
    return None


def judge(run: Run, root: str, fingerprint: str, result: Mapping[str, Any]) -> str:
    """Attach the figures to the model's version; make it champion if it is better.

    Returns the decision and its reason in words.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(run.uri)
    try:
        name = _name_of(client, run.uri, root)
        version = _version_of(client, name, fingerprint) or _moved(client, fingerprint)
        if version is None:
            return "champion: this model is in no registry"
        if version.name != name and not _is_of(client, run.uri, version.name, root):
            return (
                f"champion: this model is not judged, as {version.name}/{version.version} it is "
                f"among those of another root; what is trained from now on is registered as {name}"
            )
        name = version.name
        for metric, value in result["metrics"].items():
            # Some stores allow no slash in the tags of versions.
            client.set_model_version_tag(
                name, version.version, f"metric.{metric.replace('/', '.')}", f"{value:.6g}"
            )
        client.set_model_version_tag(name, version.version, MEASURED_ON, result["measured_on"])
        client.set_model_version_tag(name, version.version, CLIPS, result["clips"])
        client.set_model_version_tag(name, version.version, "evaluation_run", run.id)
        return _decide(client, name, version, result)
    except MlflowException as error:
        return f"champion: the model registry refused ({' '.join(str(error).split())})"


def _decide(
    client: MlflowClient, name: str, version: ModelVersion, result: Mapping[str, Any]
) -> str:
    measured = distance_of(result["metrics"])
    label = f"{name}/{version.version}"
    if measured is None:
        return f"champion: {label} is not judged, since no FVD was measured"
    metric, value = measured
    champion = client.get_registered_model(name).aliases.get(ALIAS)
    if champion is not None and str(champion) == str(version.version):
        return f"champion: {label} stays so, {metric} {value:.4g}"
    if champion is None:
        client.set_registered_model_alias(name, ALIAS, version.version)
        return f"champion: {label} is the first, {metric} {value:.4g}"
    tags = client.get_model_version(name, champion).tags
    if _clips_of(client, tags) not in (None, result["clips"]):
        client.set_registered_model_alias(name, ALIAS, version.version)
        return (
            f"champion: {label} takes over, {metric} {value:.4g}: {name}/{champion} was measured "
            "on other clips than are there now, so nothing compares the two"
        )
    best = tags.get(f"metric.{metric}")
    if best is None or tags.get(MEASURED_ON) != result["measured_on"]:
        return (
            f"champion: {name}/{champion} stays, since it was not measured in the same way on the "
            f"same clips as {label}; evaluate it with these settings too, or this one with those "
            f"of the run {tags.get('evaluation_run', 'that judged it')}"
        )
    half, best_half = result["metrics"].get(f"{metric}_ci95"), tags.get(f"metric.{metric}_ci95")
    figures = f"{metric} {_shown(best, best_half)} against {_shown(value, half)}"
    if value >= float(best):
        return f"champion: {name}/{champion} stays, {figures}"
    if half is None or best_half is None:
        return (
            f"champion: {name}/{champion} stays, {figures}: without an interval of both, nothing "
            "tells whether they differ; evaluate both with 40 clips or more"
        )
    if value + half >= float(best) - float(best_half):
        return (
            f"champion: {name}/{champion} stays, {figures}: the intervals overlap; more "
            "--num-samples or --repeats for both make them narrower"
        )
    client.set_registered_model_alias(name, ALIAS, version.version)
    return f"champion: {label} takes over, {metric} {_shown(value, half)} against " + _shown(
        best, best_half
    )


def _clips_of(client: MlflowClient, tags: Mapping[str, str]) -> str | None:
    """The clips that a version was measured on; None where that is not known any more."""
    from mlflow.exceptions import MlflowException

    if CLIPS in tags or "evaluation_run" not in tags:
        return tags.get(CLIPS)
    try:
        return client.get_run(tags["evaluation_run"]).data.tags.get("input.clips")
    except MlflowException:
        return None


def _shown(value: float | str, half: float | str | None) -> str:
    return f"{float(value):.4g}" + ("" if half is None else f" ± {float(half):.2g}")
