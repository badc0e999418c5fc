"""What a connection asks for the objects that it writes: encryption, storage class, access."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import RemoteAccessError
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BIG = bytes(6 << 20)
KEYS = ("db", "db.d/pack/1", "db.d/index/1", "db.lock", "db.lock.ticket", "db2", "db2.d/pack/1", "db.d/package")
PUBLIC = {"db", "db.d/pack/1", "db.d/index/1", "db.d/package"}


class Source:
    """Bytes to upload in parts."""

    size_bytes = len(BIG)

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return BIG[offset_bytes : offset_bytes + length_bytes]


@dataclass
class Shop:
    """A bucket that takes ACLs, and somebody to look into it."""

    admin: S3Client
    bucket: str
    endpoint: str

    def connection(self, **given: Any) -> S3Connection:
        return S3Connection(ACCESS_KEY_ID, ACCESS_KEY, "db", self.bucket, self.endpoint, **given)

    def found(self, key: str) -> tuple[str | None, str | None, str, bool]:
        """Returns encryption, KMS key, storage class, and whether everybody may read it."""
        head = self.admin.head_object(Bucket=self.bucket, Key=key)
        grants = self.admin.get_object_acl(Bucket=self.bucket, Key=key)["Grants"]
        public = any("AllUsers" in grant["Grantee"].get("URI", "") for grant in grants)
        encryption, key_id = head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")
        return encryption, key_id, head.get("StorageClass", "STANDARD"), public

    def object_keys(self) -> list[str]:
        page = self.admin.list_objects_v2(Bucket=self.bucket)
        return [entry["Key"] for entry in page.get("Contents", [])]


@pytest.fixture
def shop(ministack_endpoint: str) -> Iterator[Shop]:
    admin = boto3.client(
        "s3",
        endpoint_url=ministack_endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    admin.create_bucket(Bucket=bucket, ObjectOwnership="ObjectWriter")
    admin.put_public_access_block(
        Bucket=bucket,
        PublicAccessBlockConfiguration={"BlockPublicAcls": False, "IgnorePublicAcls": False},
    )
    yield Shop(admin, bucket, ministack_endpoint)
    admin.close()


def _put(store: S3Store, key: str) -> None:
    store.put(key, b"x", if_absent=True, metadata={"commit-id": "c"})


def _put_parts(store: S3Store, key: str) -> None:
    store.put_parts(key, Source(), part_bytes=5 << 20)


def _copy(store: S3Store, key: str) -> None:
    store.put("source", b"x")
    store.copy("source", key)


@pytest.mark.parametrize("write", [_put, _put_parts, _copy])
def test_each_object_gets_what_is_meant_for_it(shop: Shop, write: Callable[[S3Store, str], None]) -> None:
    connection = shop.connection(
        sse="aws:kms", sse_kms_key_id="a-key", storage_class="STANDARD_IA", acl="public-read"
    )
    store = S3Store(connection)
    begun: list[str | None] = []
    store._sender.client.meta.events.register(
        "before-call.s3.CreateMultipartUpload",
        lambda params, **_: begun.append(params["headers"].get("x-amz-acl")),
    )
    for key in KEYS:
        write(store, key)
        storage_class = "STANDARD_IA" if key == "db.d/pack/1" else "STANDARD"
        *found, public = shop.found(key)
        assert found == ["aws:kms", "a-key", storage_class], key
        # The store under test forgets the ACL of an upload in parts.
        assert public == (key in PUBLIC and not begun), key
    store.close()
    expected = ["public-read" if key in PUBLIC else None for key in KEYS]
    assert begun == (expected if write is _put_parts else [])


@pytest.mark.parametrize("write", [_put, _put_parts, _copy])
def test_nothing_is_asked_for_that_was_not_given(shop: Shop, write: Callable[[S3Store, str], None]) -> None:
    store = S3Store(shop.connection(sse="AES256"))
    plain = S3Store(shop.connection())
    for key in KEYS:
        write(store, f"db.d/pack/{key.replace('/', '-')}")
        assert shop.found(f"db.d/pack/{key.replace('/', '-')}") == ("AES256", None, "STANDARD", False)
        write(plain, key)
        assert shop.found(key)[1:] == (None, "STANDARD", False)
    store.close()
    plain.close()


def test_a_database_is_written_with_them_from_end_to_end(shop: Shop, tmp_path: Path) -> None:
    connection = shop.connection(sse="AES256", storage_class="STANDARD_IA", acl="public-read")
    options: dict[str, Any] = {"retry": RetryPolicy.without_backoff()}
    values = {f"k{number}": bytes([number]) * 400_000 for number in range(5)}
    with ebooklet_tx.open(connection, tmp_path / "a.blt", "c", **options) as db:
        for key, value in values.items():
            db[key] = value
            db.changes().push()
        locked = shop.found("db.lock")
    assert locked == ("AES256", None, "STANDARD", False)
    packs = [key for key in shop.object_keys() if key.startswith("db.d/pack/")]
    assert len(packs) == 5
    for key in shop.object_keys():
        expected = "STANDARD_IA" if key in packs else "STANDARD"
        assert shop.found(key) == ("AES256", None, expected, key != "db.lock"), key
    # Public, so that no credentials are needed.
    url = f"{shop.endpoint}/{shop.bucket}/db"
    with ebooklet_tx.open(url, tmp_path / "b.blt", **options) as db:
        assert dict(db.items()) == values


@pytest.mark.parametrize("acl", ["bucket-owner-full-control", "bucket-owner-read", "public-read", None])
def test_the_bucket_s_owner_is_not_locked_out_of_locks_and_the_public_is(shop: Shop, acl: str | None) -> None:
    store = S3Store(shop.connection(acl=acl))
    asked: dict[str, str | None] = {}
    store._sender.client.meta.events.register(
        "before-call.s3.PutObject",
        lambda params, **_: asked.update(
            {params["url_path"].partition("/db")[2]: params["headers"].get("x-amz-acl")}
        ),
    )
    for key in ("db", "db.lock", "db.lock.000000000001.x", "db.lock.probe-1"):
        store.put(key, b"x")
    store.close()
    on_locks = acl if acl is not None and acl.startswith("bucket-owner-") else None
    assert asked == {
        "": acl,
        ".lock": on_locks,
        ".lock.000000000001.x": on_locks,
        ".lock.probe-1": on_locks,
    }


def test_a_bucket_without_acls_says_what_to_leave_out(shop: Shop) -> None:
    shop.admin.put_bucket_ownership_controls(
        Bucket=shop.bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    )
    store = S3Store(shop.connection(acl="public-read"))
    with pytest.raises(RemoteAccessError, match="leave acl out"):
        store.put("db", b"x")
    store.put("db.lock", b"x")
    store.close()
