"""The stores that the contract is tried on, and what each of them can."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import ConditionUnsupportedError, Error, PreconditionFailedError, TransientStoreError
from ebooklet_tx.stores.capabilities import Conditional, probe
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.memory import MemoryStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from scripts.bench.stub_process import StubControl, stub_server
from tests.quick_clients import SharedClients
from tests.s3_proxy import Mode
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, folder_handler, http_server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_endpoints: set[str] = set()
_clients = SharedClients()

BUCKET_VARIABLE = "EBOOKLET_TX_TEST_S3_BUCKET"

ROOT = "db"
"""The database's key: all keys of the contract are `db` or begin with `db.`, as HTTP needs it."""


@dataclass(frozen=True)
class Subject:
    """A store under test.

    Attributes:
        store: The store itself.
        writer: A store to the same objects that can write; the store itself where it can.
        keeps_metadata: Whether metadata comes back.
        own_etags: Whether the store's ETags are others than the writer's.
        losing: What a conditional put raises whose condition does not hold.
        open_again: Makes another, independent store to the same objects.
    """

    store: ObjectStore
    writer: ObjectStore
    open_again: Callable[[], ObjectStore]
    keeps_metadata: bool = True
    own_etags: bool = False
    losing: type[Error] = PreconditionFailedError


def s3_connection(endpoint: str, bucket: str, *, key: str = ACCESS_KEY) -> S3Connection:
    """Returns the connection of a database in a bucket of a local server."""
    return S3Connection(ACCESS_KEY_ID, key, ROOT, bucket, endpoint, read_timeout=30)


@functools.cache
def _admin(endpoint: str) -> S3Client:
    # Making a client takes longer than most tests.
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )


@pytest.fixture(scope="session", autouse=True)
def _close_admins() -> Iterator[None]:
    yield
    for endpoint in _endpoints:
        _admin(endpoint).close()
    _admin.cache_clear()
    _clients.close()


def new_bucket(endpoint: str) -> str:
    """Makes an empty bucket and returns its name."""
    _endpoints.add(endpoint)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    _admin(endpoint).create_bucket(Bucket=name)
    return name


def _proxied_subject(kind: str, request: pytest.FixtureRequest) -> Subject:
    """A store that differs, made of ministack by a proxy."""
    mode = PROXIED[kind]
    bucket = new_bucket(request.getfixturevalue("ministack_endpoint"))
    connection = s3_connection(request.getfixturevalue("proxy_in")(mode).endpoint, bucket)

    def make() -> ObjectStore:
        with _clients.taken():
            store = S3Store(connection)
        store.quote_etags = mode is not Mode.UNQUOTED
        return store

    store = make()
    return Subject(store, store, make, losing=LOSING.get(mode, PreconditionFailedError))


def _s3_subject(endpoint: str, *, retrying: bool = False) -> Subject:
    connection = s3_connection(endpoint, new_bucket(endpoint))

    def make() -> ObjectStore:
        with _clients.taken():
            store = S3Store(connection)
        return RetryingStore(store, RetryPolicy.without_backoff()) if retrying else store

    store = make()
    return Subject(store, store, make)


def _endpoint_subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """The server that was named, with a bucket that holds nothing of ours."""
    answer: Conditional = request.getfixturevalue("endpoint_answer")
    with named_bucket(request.config.getoption("--s3-endpoint")) as connection:

        def make() -> ObjectStore:
            store = S3Store(connection)
            store.quote_etags = answer is not Conditional.UNQUOTED
            return store

        store = make()
        yield Subject(store, store, make)
        store.close()


@contextlib.contextmanager
def named_bucket(endpoint: str) -> Iterator[S3Connection]:
    """Gives an empty bucket of a server that was named: the one that the environment names, or a new one."""
    admin = boto3.client("s3", endpoint_url=endpoint, region_name=os.environ.get("AWS_REGION", "us-east-1"))
    given = os.environ.get(BUCKET_VARIABLE)
    bucket = given or f"ebooklet-tx-{uuid.uuid4().hex[:12]}"
    with contextlib.closing(admin):
        if given is None:
            admin.create_bucket(Bucket=bucket)
        elif admin.list_objects_v2(Bucket=bucket, MaxKeys=1).get("Contents"):
            pytest.exit(f"the bucket {bucket!r} of {BUCKET_VARIABLE} is not empty; nothing in it was changed")
        try:
            yield S3Connection(db_key=ROOT, bucket=bucket, endpoint_url=endpoint, read_timeout=30)
        finally:
            _empty(admin, bucket)
            if given is None:
                admin.delete_bucket(Bucket=bucket)


def _empty(admin: S3Client, bucket: str) -> None:
    for page in admin.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            admin.delete_object(Bucket=bucket, Key=found["Key"])
    # Some servers know of no uploads, or list those that have ended.
    with contextlib.suppress(ClientError):
        for upload in admin.list_multipart_uploads(Bucket=bucket).get("Uploads", ()):
            admin.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])


@pytest.fixture(scope="session")
def endpoint_answer(request: pytest.FixtureRequest) -> Conditional:
    """How the server that was named treats conditional writes, found out as a session of ours does."""
    with named_bucket(request.config.getoption("--s3-endpoint")) as connection:
        store = S3Store(connection)
        try:
            return probe(store, f"{ROOT}.lock", store)
        finally:
            store.close()


def _directory_subject(folder: Path) -> Subject:
    store = DirectoryStore(folder)
    return Subject(store, store, lambda: DirectoryStore(folder), keeps_metadata=False)


PROXIED = {
    "proxy-refuses": Mode.REFUSES,
    "proxy-unquoted": Mode.UNQUOTED,
    "proxy-fails-losers": Mode.FAILS_ALL_LOSERS,
}
LOSING: dict[Mode, type[Error]] = {
    Mode.REFUSES: ConditionUnsupportedError,
    Mode.FAILS_ALL_LOSERS: TransientStoreError,
}
WRITABLE = ("directory", "memory", "ministack", "ministack-retrying", "rclone")
CONDITIONAL = (
    "directory",
    "memory",
    "ministack",
    "ministack-retrying",
    "stub",
    "proxy-unquoted",
    "proxy-fails-losers",
)
ENDPOINT = "endpoint"
SEAWEEDFS = pytest.param("seaweedfs", marks=pytest.mark.slow)
"""Takes five seconds to start; a slice of the contract runs on it by default, in test_seaweedfs.py."""

# Without conditions the proxied stores are ministack, which is tried anyway.
_SLOW_PROXIES = tuple(pytest.param(kind, marks=pytest.mark.slow) for kind in PROXIED)
_KINDS: dict[str, tuple[Any, ...]] = {
    "subject": (*WRITABLE, "stub", SEAWEEDFS, *_SLOW_PROXIES),
    "readable": (*WRITABLE, "stub", SEAWEEDFS, *_SLOW_PROXIES, "http", "http-plain"),
    "conditional": (*CONDITIONAL, SEAWEEDFS),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each test its stores: those of this suite, or the one server that was named."""
    given = metafunc.config.getoption("--s3-endpoint")
    for name, kinds in _KINDS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, (ENDPOINT,) if given else kinds, indirect=True)


def _subject(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Subject]:
    if kind == "directory":
        yield _directory_subject(folder)
    elif kind == "memory":
        kept = MemoryStore()
        yield Subject(kept, kept, lambda: kept)
    elif kind in PROXIED:
        subject = _proxied_subject(kind, request)
        yield subject
        subject.store.close()
    elif kind.startswith("ministack"):
        endpoint = request.getfixturevalue("ministack_endpoint")
        subject = _s3_subject(endpoint, retrying=kind == "ministack-retrying")
        yield subject
        subject.store.close()
    elif kind == "stub":
        stub: StubControl = request.getfixturevalue("bench_stub")
        subject = _s3_subject(stub.endpoint)
        yield subject
        subject.store.close()
    elif kind in ("rclone", "seaweedfs"):
        subject = _s3_subject(request.getfixturevalue(f"{kind}_endpoint"))
        yield subject
        subject.store.close()
    elif kind == ENDPOINT:
        yield from _endpoint_subject(request)
    else:
        with http_server(folder_handler(folder, capable=kind == "http")) as url:
            store = HTTPStore(f"{url}/{ROOT}", timeout_seconds=30)
            yield Subject(
                store,
                DirectoryStore(folder),
                lambda: HTTPStore(f"{url}/{ROOT}"),
                keeps_metadata=False,
                own_etags=True,
            )


@pytest.fixture(scope="session")
def bench_stub() -> Iterator[StubControl]:
    """The stub of S3 that the benchmark measures on."""
    with stub_server() as control:
        yield control


@pytest.fixture
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each store that can write."""
    yield from _subject(request.param, request, tmp_path / "remote")


@pytest.fixture
def readable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each store, those that only read included."""
    yield from _subject(request.param, request, tmp_path / "remote")


@pytest.fixture
def conditional(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    """Each store that honours conditional puts."""
    if request.param == ENDPOINT:
        answer: Conditional = request.getfixturevalue("endpoint_answer")
        if not answer.works:
            pytest.skip(f"conditional writes are {answer.value} by this server")
    yield from _subject(request.param, request, tmp_path / "remote")
