"""A real S3 server behind the proxy that plays faults, and a process that speaks to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.retries.standard import ExponentialBackoff
from s3fs import S3FileSystem

from pipelines.io import object_store
from tests.e2e.conftest import S3Server
from tests.s3_proxy import S3Proxy

ATTEMPTS = 3
"""How often botocore makes a request here; s3fs multiplies it."""


@contextmanager
def faulty_store(folder: Path, certificate: Path | None = None) -> Iterator[S3Proxy]:
    """The proxy of a server with a bucket `bucket` in a folder."""
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    server = S3Server(folder, secret=None)
    server.start()
    try:
        with S3Proxy(server.endpoint, certificate) as proxy:
            yield proxy
    finally:
        server.kill()


def connect_to(proxy: S3Proxy, patch: pytest.MonkeyPatch) -> None:
    """Send this process's requests to a proxy, and have it wait little between attempts."""
    patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    patch.setenv("AWS_MAX_ATTEMPTS", str(ATTEMPTS))
    patch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    patch.setattr(object_store, "PAUSE_S", 0.01)
    # Connections are kept from one test to the next, with the sizes of blocks that they had.
    S3FileSystem.clear_instance_cache()
