"""Which process a noted number stands for: the system gives numbers again, at the latest after a
restart."""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path


def machine() -> str:
    """Identifies this machine since its start, and this container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {uuid.getnode()}"


def born(pid: int) -> str | None:
    """When a process was started, in the kernel's own count; None where there is none."""
    try:
        # The name in brackets may hold spaces.
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        with suppress(OSError):
            os.kill(pid, 0)
            return None if Path("/proc/self/stat").exists() else "unknown"
        return None
    return None if state[0] == "Z" else state[19]
