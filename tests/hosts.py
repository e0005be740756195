"""Hosts with names and addresses of their own on this machine, which share a network and nothing
else: network, process, mount and host name are namespaces of each, memory and temporary files too.

It takes root, `ip` of iproute2, and util-linux, which every Linux has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SUBNET = "10.123.45"
SET_UP = """
hostname "$1"
mount --bind "$2" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs "$3"
mkdir "$3/home"
shift 3
"$@"
exit $?
"""
"""What a host does before its command: its name, the names of the others and of nobody else, memory
of its own. The shell stays the first process, by whose end the host ends: a program that changes
its user is no longer told of its parent's."""


PROGRAMS = ("ip", "mount", "nsenter", "setpriv", "unshare")


def missing() -> str | None:
    """What this process lacks to make hosts, in words; None if it may."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"hosts of their own take {', '.join(absent)}"
    name = f"probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"hosts of their own take root and network namespaces: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return None


class Host:
    """A host that runs one command, by the name that others call it."""

    def __init__(self, network: Network, name: str, namespace: str) -> None:
        self.network, self.name, self.namespace = network, name, namespace
        self.log = network.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None
    ) -> None:
        """Start the host with a command, which its file `log` hears; it may be started again."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._boot(command), env=self._environment(environment), cwd=folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float,
        folder: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Start the host with a command and wait for its end."""
        return subprocess.run(
            self._boot(command), env=self._environment(environment), cwd=folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def inside(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether another command on the running host succeeds, as a health check does."""
        assert self._process
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        booted = children.read_text().split() if children.exists() else []
        if not booted:
            return False
        done = subprocess.run(
            ["nsenter", "--target", booted[0], "--mount", "--uts", "--net", "--pid", *command],
            env=self._environment(environment), capture_output=True, timeout=60,
        )  # fmt: skip
        return done.returncode == 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def cut(self) -> None:
        """Cut its power: all of its processes end at once, and its memory is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            last = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
            assert self.running, f"{self.name} ended: {last}"
            assert time.monotonic() < deadline, f"{self.name} is not ready: {last}"
            time.sleep(0.3)

    def _boot(self, command: Sequence[str]) -> list[str]:
        return [
            # No host outlives this process.
            "setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.namespace,
            # Whoever kills this process kills all of the host.
            "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc",
            "sh", "-ec", SET_UP, "sh", self.name, str(self.network.names),
            str(self.network.memory), *command,
        ]  # fmt: skip

    def _environment(self, given: Mapping[str, str]) -> dict[str, str]:
        memory = str(self.network.memory)
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            "PATH": programs, "HOME": f"{memory}/home", "TMPDIR": memory, "RAY_TMPDIR": memory,
            "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
        } | dict(given)  # fmt: skip


class Network:
    """A switch, and hosts on it by name. Whoever leaves it ends all of them."""

    def __init__(self, *names: str) -> None:
        # Ray's sockets lie below the hosts' memory, whose path must be short. Each mounts its own.
        self._made = tempfile.TemporaryDirectory(prefix="h-", ignore_cleanup_errors=True)
        self.folder = Path(self._made.name)
        # A database that runs as another user passes here.
        self.folder.chmod(0o755)
        self.memory = self.folder / "m"
        self.memory.mkdir(mode=0o777)
        self.names = self.folder / "names"
        self.addresses = {name: f"{SUBNET}.{n}" for n, name in enumerate(names, 2)}
        lines = [f"{address} {name}" for name, address in self.addresses.items()]
        self.names.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        prefix = f"vq{os.getpid()}"
        self._switch = f"{prefix}-switch"
        self.hosts = {
            name: Host(self, name, f"{prefix}-{n}") for n, name in enumerate(self.addresses, 2)
        }

    def __enter__(self) -> Network:
        _ip("netns", "add", self._switch)
        self._in_switch("link", "add", "switch", "type", "bridge")
        self._in_switch("link", "set", "switch", "up")
        for n, (name, host) in enumerate(self.hosts.items()):
            _ip("netns", "add", host.namespace)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            _ip("-n", host.namespace, "link", "add", "eth0", "type", "veth", "peer", "name",
                f"port{n}", "netns", self._switch)  # fmt: skip
            self._in_switch("link", "set", f"port{n}", "master", "switch", "up")
            _ip("-n", host.namespace, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
            # Ray asks for the way to a public address to learn its own.
            _ip("-n", host.namespace, "route", "add", "default", "dev", "eth0")
        return self

    def __exit__(self, *_: Any) -> None:
        for host in self.hosts.values():
            host.cut()
        for name in [self._switch, *(host.namespace for host in self.hosts.values())]:
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self._made.cleanup()

    def _in_switch(self, *arguments: str) -> None:
        _ip("-n", self._switch, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
