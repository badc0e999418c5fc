"""Places of a database for tests with real processes: one line for each kind of store."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from ebooklet_tx.connection import Connection, DirectoryConnection, S3Connection
from tests.s3_proxy import Mode
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID


@dataclass(frozen=True)
class Place:
    """Where a database is, in a form that can be sent to another process.

    Attributes:
        connection: What to open.
        weak: Whether the store's conditional writes don't work, so that a warning is to be expected.
    """

    connection: Connection
    weak: bool = False


def _directory(request: pytest.FixtureRequest, folder: Path) -> Place:
    (folder / "remote").mkdir()
    return Place(DirectoryConnection(folder / "remote", "db"))


def _ministack(request: pytest.FixtureRequest, folder: Path) -> Place:
    return Place(_new_bucket(request.getfixturevalue("ministack_endpoint")))


def _rclone(request: pytest.FixtureRequest, folder: Path) -> Place:
    return Place(_new_bucket(request.getfixturevalue("rclone_endpoint")), weak=True)


def _behind(mode: Mode, *, weak: bool = False) -> Callable[[pytest.FixtureRequest, Path], Place]:
    def make(request: pytest.FixtureRequest, folder: Path) -> Place:
        return Place(_new_bucket(request.getfixturevalue("proxy_in")(mode).endpoint), weak=weak)

    return make


MAKERS: dict[str, Callable[[pytest.FixtureRequest, Path], Place]] = {
    "directory": _directory,
    "ministack": _ministack,
    "rclone": _rclone,
    "refusing": _behind(Mode.REFUSES, weak=True),
    "unquoted": _behind(Mode.UNQUOTED),
    "plain": _behind(Mode.PLAIN),
    "ignoring": _behind(Mode.IGNORES, weak=True),
    "failing": _behind(Mode.FAILS_SOME_LOSERS),
}
"""What makes a new place of each kind."""


def new_place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    """Makes an empty place of a kind that `MAKERS` names."""
    return MAKERS[kind](request, folder)


def _new_bucket(endpoint: str) -> S3Connection:
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    try:
        client.create_bucket(Bucket=bucket)
    finally:
        client.close()
    return S3Connection(ACCESS_KEY_ID, ACCESS_KEY, "db", bucket, endpoint, read_timeout=30)
