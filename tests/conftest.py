"""Servers that tests share: one of each kind per worker, started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import ministack_server, rclone_server


@pytest.fixture(scope="session")
def ministack_endpoint() -> Iterator[str]:
    """The URL of an S3 store with conditional writes, that accepts any credentials."""
    with ministack_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 store that ignores conditions, and checks credentials."""
    with rclone_server(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint
