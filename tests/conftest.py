"""Servers that tests share: one of each kind per worker, started when first asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.s3_proxy import Mode, S3Proxy, s3_proxy
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


@pytest.fixture(scope="session")
def proxy_in(ministack_endpoint: str) -> Iterator[Callable[[Mode], S3Proxy]]:
    """Gives the one proxy of a mode in front of ministack."""
    with contextlib.ExitStack() as stack:
        proxies: dict[Mode, S3Proxy] = {}

        def get(mode: Mode) -> S3Proxy:
            if mode not in proxies:
                proxies[mode] = stack.enter_context(s3_proxy(ministack_endpoint, mode))
            proxies[mode].reset()
            proxies[mode].mode = mode
            return proxies[mode]

        yield get
