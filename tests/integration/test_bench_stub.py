"""The stub of S3 that the benchmark measures on: it counts what is sent, and the bars are held to its counts.

That it stores as S3 does is tried by the contract of all stores, in which it is one more place.
"""

from __future__ import annotations

import http.client
import io
import subprocess
import sys
import uuid
import zlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from ebooklet_tx.connection import S3Connection
from scripts.bench.bars import verdicts
from scripts.bench.runner import OURS, Measured, Row
from scripts.bench.stub import kind_of
from scripts.bench.stub_process import TREE, Counts, StubControl, stub_server
from scripts.bench.table import markdown
from tests.campaigns import CI
from tests.doors import open_database
from tests.places import _new_bucket
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID
from tests.store_wrappers import CountingStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

METHODS = {"get": "GET", "get_range": "GET", "head": "HEAD", "put": "PUT", "list": "LIST", "delete": "DELETE"}


@pytest.fixture(scope="module")
def stub() -> Iterator[StubControl]:
    """A stub of this module's own: what it counts is only what is asked of it here."""
    with stub_server(memory_mib=8) as control:
        yield control


@pytest.fixture(scope="module")
def client(stub: StubControl) -> Iterator[S3Client]:
    made = boto3.client(
        "s3",
        endpoint_url=stub.endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    yield made
    made.close()


@pytest.fixture
def bucket(stub: StubControl) -> str:
    """An empty bucket, and counts that begin anew."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    stub.create_bucket(name)
    return name


class Pushing:
    """Makes a database, then opens it again and changes a key; keeps the wrapper's counts of each session."""

    def __init__(self, connection: S3Connection, folder: Path) -> None:
        self.connection = connection
        self.path = folder / "db.blt"
        self.counters: list[CountingStore] = []

    def session(self, value_bytes: int, count: int) -> CountingStore:
        def wrap(store: Any) -> CountingStore:
            self.counters.append(CountingStore(store))
            return self.counters[-1]

        with open_database(self.connection, self.path, "c", wrap_store=wrap) as db:
            for number in range(count):
                db[f"key-{number:04}"] = number.to_bytes(4, "big") * (value_bytes // 4)
            db.changes().push()
        return self.counters[-1]


def by_kind(counted: CountingStore) -> Counter[str]:
    return Counter(f"{METHODS[kind]} {kind_of(key)}" for kind, key in counted.log)


def test_a_push_is_counted_as_by_a_wrapper_and_as_on_another_server(
    stub: StubControl, bucket: str, ministack_endpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "other").mkdir()
    here = Pushing(S3Connection(ACCESS_KEY_ID, ACCESS_KEY, "db", bucket, stub.endpoint), tmp_path / "stub")
    there = Pushing(_new_bucket(ministack_endpoint), tmp_path / "other")
    for value_bytes, count in ((400, 300), (400, 1), (2000, 60)):
        before = stub.counts()
        wrapped = here.session(value_bytes, count)
        other = there.session(value_bytes, count)
        counted = stub.counts().since(before)
        requests = {kind: counted.of(kind) for kind in counted.by_kind}
        if len(here.counters) == 1:
            # The store itself asks, below the wrapper, whether the first refusal is about the ETag's quotes.
            requests["HEAD probe"] -= 1
        assert requests == by_kind(wrapped) == by_kind(other)
        assert requests["PUT root"] == 1
        assert counted.bytes_up == wrapped.bytes_up
        if len(here.counters) > 1:
            # Nothing is missing from the second time on: an error's text counts here, not in the wrapper.
            down = sum(down for kind, (_, _, down) in counted.by_kind.items() if kind.startswith("GET"))
            assert down == wrapped.bytes_down > 0
        # Names and times are other ones on each server, and compress to a few bytes more or less.
        assert counted.bytes_up == pytest.approx(other.bytes_up, rel=0.02, abs=100)


def test_kinds_tell_a_databases_objects_apart() -> None:
    keys = ["db", "db.lock", "db.lock.17", "db.lock.probe-1", "db.d/pack/a", "db.d/index/a", "db.d/snapshot/a"]
    assert [kind_of(key) for key in keys] == ["root", "lock", "lock", "probe", "pack", "index", "snapshot"]
    assert [kind_of(key) for key in ("", "db/7", "db2")] == ["bucket", "member", "root"]


def test_counts_tell_bodies_and_kinds(stub: StubControl, bucket: str, client: S3Client) -> None:
    client.put_object(Bucket=bucket, Key="db", Body=b"12345")
    client.put_object(Bucket=bucket, Key="db.d/pack/1", Body=b"x" * 3000)
    client.get_object(Bucket=bucket, Key="db.d/pack/1", Range="bytes=100-299")["Body"].read()
    etag = client.head_object(Bucket=bucket, Key="db")["ETag"]
    with pytest.raises(ClientError, match="304"):
        client.get_object(Bucket=bucket, Key="db", IfNoneMatch=etag)
    counts = stub.counts()
    assert counts.by_kind == {
        "PUT root": (1, 5, 0),
        "PUT pack": (1, 3000, 0),
        "GET pack": (1, 0, 200),
        "HEAD root": (1, 0, 0),
        "GET root": (1, 0, 0),
    }
    assert (counts.requests, counts.writes, counts.bytes_up, counts.bytes_down) == (5, 2, 3005, 200)
    assert stub.counts().since(counts).by_kind == {}
    stub.reset()
    assert stub.counts().requests == 0


def test_a_state_is_gone_back_to(stub: StubControl, bucket: str, client: S3Client) -> None:
    client.put_object(Bucket=bucket, Key="db", Body=b"first")
    stub.save("one")
    client.put_object(Bucket=bucket, Key="db", Body=b"second")
    client.put_object(Bucket=bucket, Key="db2", Body=b"more")
    stub.restore("one")
    assert stub.objects(bucket) == {"db": 5}
    assert client.get_object(Bucket=bucket, Key="db")["Body"].read() == b"first"
    stub.forget("one")
    with pytest.raises(RuntimeError, match="'one'"):
        stub.restore("one")


def test_a_held_request_is_neither_applied_nor_answered(stub: StubControl, bucket: str, client: S3Client) -> None:
    stub.hold("PUT root", at=2)
    client.put_object(Bucket=bucket, Key="db", Body=b"first")
    connection = http.client.HTTPConnection(stub.endpoint.removeprefix("http://"))
    connection.request("PUT", f"/{bucket}/db", body=b"second")
    stub.wait_until_held()
    stub.release()
    client.put_object(Bucket=bucket, Key="other", Body=b"goes on")
    connection.close()
    assert stub.objects(bucket) == {"db": 5, "other": 7}


def test_latency_is_added_to_each_request(stub: StubControl, bucket: str) -> None:
    connection = http.client.HTTPConnection(stub.endpoint.removeprefix("http://"))
    stub.set_latency(3_600_000)
    try:
        connection.request("GET", f"/{bucket}?list-type=2")
        # Control is never delayed, and has seen the request that is still waiting for its answer.
        while stub.counts().requests == 0:
            pass
        connection.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.getresponse()
    finally:
        stub.set_latency(0)
        connection.close()


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2", "list_object_versions"])
def test_listings_go_on_and_fold_folders(
    stub: StubControl, bucket: str, client: S3Client, operation: Any
) -> None:
    del stub
    keys = ["a b", "a/1", "a/2", "b&c", "d", "p%41", "q?z=1"]
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    pages: Any = client.get_paginator(operation)
    name = "Versions" if operation == "list_object_versions" else "Contents"

    def listed(**options: Any) -> tuple[list[str], list[str]]:
        found = list(pages.paginate(Bucket=bucket, PaginationConfig={"PageSize": 2}, **options))
        return (
            [entry["Key"] for page in found for entry in page.get(name, ())],
            [entry["Prefix"] for page in found for entry in page.get("CommonPrefixes", ())],
        )

    assert listed() == (keys, [])
    assert listed(Prefix="a/") == (["a/1", "a/2"], [])
    assert listed(Delimiter="/") == (["a b", "b&c", "d", "p%41", "q?z=1"], ["a/"])


def test_many_are_deleted_at_once(stub: StubControl, bucket: str, client: S3Client) -> None:
    for key in ("a", "b", "c<d"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}, {"Key": "c<d"}, {"Key": "missing"}]})
    assert stub.objects(bucket) == {"b": 1}


def test_a_large_body_outlives_the_memory_that_was_allowed(bucket: str, client: S3Client) -> None:
    bodies = {f"db.d/pack/{number}": bytes([number]) * (3 << 20) for number in range(6)}
    for key, body in bodies.items():
        client.upload_fileobj(io.BytesIO(body), bucket, key)
    for key, body in bodies.items():
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == body
    part = client.get_object(Bucket=bucket, Key="db.d/pack/5", Range="bytes=-7")["Body"].read()
    assert part == b"\5" * 7


@pytest.mark.parametrize("chunked_by_http", [False, True])
@pytest.mark.parametrize("right", [True, False])
def test_aws_chunks_are_taken_out_and_held_to_their_checksum(
    stub: StubControl, bucket: str, *, chunked_by_http: bool, right: bool
) -> None:
    payload = b"one chunk and another\r\n" * 500
    checksum = b64encode(zlib.crc32(payload if right else b"else").to_bytes(4, "big")).decode()
    sent = b"%x\r\n%b\r\n" % (7000, payload[:7000]) + b"%x\r\n%b\r\n" % (len(payload) - 7000, payload[7000:])
    sent += f"0\r\nx-amz-checksum-crc32:{checksum}\r\n\r\n".encode()
    connection = http.client.HTTPConnection(stub.endpoint.removeprefix("http://"))
    connection.request(
        "PUT",
        f"/{bucket}/db",
        body=iter([sent[:5], sent[5:]]) if chunked_by_http else sent,
        headers={
            "Content-Encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(payload)),
            "x-amz-trailer": "x-amz-checksum-crc32",
        },
        encode_chunked=chunked_by_http,
    )
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == (200 if right else 400)
    assert stub.objects(bucket) == ({"db": len(payload)} if right else {})


def test_a_bar_that_is_missed_is_told() -> None:
    def row(variant: str, writes: int, bytes_up: int) -> Row:
        counts = Counts({"PUT root": (writes, bytes_up, 0)})
        return Row("push", OURS, 1000, variant, Measured(0.1, 0.1, 0, counts), {"changed_bytes": 112})

    found = verdicts([row("k=1", 2, 65_000), row("k=10", 3, 70_000)])
    assert [one.met for one in found] == [True, True, False, False]
    assert all(one.counts for one in found)
    table = markdown([row("k=10", 3, 70_000)], found, ["pull: it broke\ntrace"])
    assert "| push k=10, N=1,000: write requests | 3 | <= 2 | **no** |" in table
    assert "- pull: it broke" in table


@pytest.mark.parametrize(
    ("adapters", "phases"),
    [("ours", "warm-open,recovery"), pytest.param("ours,bare", "push,warm-open,recovery", marks=CI)],
    ids=["quick", "ci"],
)
def test_the_benchmark_runs_and_its_counts_hold(tmp_path: Path, adapters: str, phases: str) -> None:
    command = [sys.executable, str(TREE / "scripts" / "bench.py"), "--adapters", adapters, "--sizes", "300"]
    command += ["--phases", phases, "--repeats", "1", "--check"]
    command += ["--table", str(tmp_path / "table.md"), "--json", str(tmp_path / "raw.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    assert "| warm open, N=300: requests | 1 | <= 1 | yes |" in table
    assert "| recovery | 300 | k=300 | ours |" in table
