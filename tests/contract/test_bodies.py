"""Bodies that don't arrive: each write carries a checksum, so that no store keeps a part for the whole."""

from __future__ import annotations

import base64
import hashlib
import socket
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from tests.contract.conftest import new_bucket, s3_connection
from tests.s3_proxy import Fault, Mode, Rule, S3Proxy

POLICY = RetryPolicy.without_backoff()
BIG = bytes(range(256)) * (11 << 12)


class Source:
    """Bytes to upload in parts."""

    size_bytes = len(BIG)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return BIG[offset_bytes : offset_bytes + length_bytes]


class Stream:
    """The body of a made-up answer."""

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield b"<R><UploadId>u</UploadId><ETag>e</ETag></R>"


@pytest.fixture
def sent() -> list[Any]:
    """The requests with bodies that a store was about to send."""
    return []


def listening(store: S3Store, sent: list[Any]) -> S3Store:
    """Makes a store's requests go nowhere, and keeps those that write."""

    def instead(request: Any, **_: Any) -> AWSResponse:
        if request.method == "PUT":
            sent.append((request.headers, request.body))
        return AWSResponse(request.url, 200, {"ETag": '"e"', "Content-Length": "1"}, Stream())

    store._sender.client.meta.events.register("before-send.s3", instead)
    return store


def test_each_body_has_its_digest_on_a_store_that_is_not_aws(sent: list[Any]) -> None:
    store = listening(S3Store(S3Connection("id", "key", "db", "bucket", "http://127.0.0.1:9")), sent)
    store.put("db", b"root", if_match="e")
    store.put("db.lock", b"")
    store.put_parts("db.d/pack/1", Source(), part_bytes=5 << 20)
    store.close()
    bodies = [b"root", b"", BIG[: 5 << 20], BIG[5 << 20 : 10 << 20], BIG[10 << 20 :]]
    assert len(sent) == len(bodies)
    for (headers, _), body in zip(sent, bodies, strict=True):
        wanted = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest())
        assert headers["Content-MD5"] in (wanted, wanted.decode())
        assert not [name for name in headers if name.lower().startswith("x-amz-checksum")]


def test_aws_has_the_checksum_of_its_own_client(sent: list[Any]) -> None:
    connection = S3Connection("id", "key", "db", "bucket", region="us-east-1")
    store = listening(S3Store(connection), sent)
    store.put("db", b"root")
    store.put_parts("db.d/pack/1", Source(), part_bytes=5 << 20)
    store.close()
    assert len(sent) == 4
    for headers, _ in sent:
        names = {name.lower() for name in headers}
        assert names & {"x-amz-checksum-crc32", "x-amz-checksum-crc64nvme", "x-amz-trailer"}


@pytest.mark.parametrize("kind", ["PUT root", "PUT pack", "PUT lock"])
def test_a_body_that_never_arrives_leaves_what_was_there(
    kind: str,
    proxy_in: Callable[[Mode], S3Proxy],
    ministack_endpoint: str,
    tmp_path: Path,
) -> None:
    proxy = proxy_in(Mode.PLAIN)
    connection = s3_connection(proxy.endpoint, new_bucket(ministack_endpoint))
    values = {f"k{number}": bytes([number]) * 50_000 for number in range(2)}
    with ebooklet_tx.open(connection, tmp_path / "a.blt", "c", retry=POLICY) as db:
        db.update(values)
        db.changes().push()
    proxy.arm(Rule(kind, Fault.CUT_BODY, times=2))
    with ebooklet_tx.open(connection, tmp_path / "a.blt", "w", retry=POLICY) as db:
        db["more"] = b"m" * 50_000
        db.changes().push()
        assert proxy.fired() == 2
    proxy.reset()
    with ebooklet_tx.open(connection, tmp_path / "b.blt", retry=POLICY) as reader:
        assert dict(reader.items()) == values | {"more": b"m" * 50_000}


def cut_off(store: S3Store, key: str, body: bytes, *, without: str = "") -> None:
    """Sends the headers of a put as the store signs them, and hangs up before the body."""
    taken: list[Any] = []

    def instead(request: Any, **_: Any) -> AWSResponse:
        taken.append(request)
        return AWSResponse(request.url, 200, {"ETag": '"e"'}, Stream())

    events = store._sender.client.meta.events
    if without:
        events.register("before-sign.s3.PutObject", lambda request, **_: request.headers.__delitem__(without))
    events.register("before-send.s3.PutObject", instead)
    store.put(key, body)
    events.unregister("before-send.s3.PutObject", instead)
    (request,) = taken
    parts = urllib.parse.urlsplit(request.url)
    lines = [f"PUT {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    for name, value in request.headers.items():
        lines.append(f"{name}: {value.decode() if isinstance(value, bytes) else value}")
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        connection.shutdown(socket.SHUT_WR)
        # Until the server has done with it.
        while connection.recv(4096):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("without", ["", "Content-MD5"])
def test_a_real_store_keeps_the_root_when_the_body_of_the_next_is_cut_off(
    seaweedfs_endpoint: str, without: str
) -> None:
    connection = s3_connection(seaweedfs_endpoint, new_bucket(seaweedfs_endpoint))
    store, cutting = S3Store(connection), S3Store(connection)
    store.put("db", b"the root")
    cut_off(cutting, "db", b"the next root", without=without)
    blob = store.get("db")
    assert blob is not None
    # Without the checksum this store keeps nothing at all, and says that it is the object.
    assert blob.data == (b"" if without else b"the root")
    store.close()
    cutting.close()
