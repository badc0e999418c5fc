"""Makes the object store that a connection names.

Every store retries by one policy. A kind of store is imported for a connection that leads to one: boto3 above all
takes longer than all else that opening does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from ebooklet_tx.connection import Connection, DirectoryConnection, HTTPConnection, S3Connection
from ebooklet_tx.connection.memory import MemoryConnection
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy

_S3_BASE_SECONDS = 0.5

_everywhere: RetryPolicy | None = None
"""What stands in for the policies of all connections; None outside of tests."""


@contextlib.contextmanager
def policy_everywhere(policy: RetryPolicy) -> Iterator[None]:
    """Lets every store that is opened in the block, by any thread, retry so, unless its caller gives a policy."""
    global _everywhere
    before = _everywhere
    _everywhere = policy
    try:
        yield
    finally:
        _everywhere = before


def open_store(
    connection: Connection, *, policy: RetryPolicy | None = None, for_writing: bool = False
) -> RetryingStore:
    """Returns the store that a connection names; nothing is sent yet.

    An `S3Connection` that names a bucket leads to that bucket, with one exception: if it has a `db_url` as well
    and no credentials of its own, it is read through the `db_url`. `for_writing` leads to the bucket with the
    credentials of boto3's own chain.

    Args:
        connection: Where the store is.
        policy: How to retry; None for one made of the connection's `retries`.
        for_writing: Whether the caller will write.

    Raises:
        RemoteAccessError: No S3 client can be made of the profile and settings.
    """
    return RetryingStore(_plain_store(connection, for_writing), policy or _everywhere or _policy_for(connection))


def _plain_store(connection: Connection, for_writing: bool) -> ObjectStore:
    if isinstance(connection, DirectoryConnection):
        from ebooklet_tx.stores.directory import DirectoryStore

        return DirectoryStore(connection.folder)
    if isinstance(connection, HTTPConnection):
        from ebooklet_tx.stores.http import HTTPStore

        return HTTPStore(connection.db_url)
    if isinstance(connection, MemoryConnection):
        from ebooklet_tx.stores.memory import store_named

        return store_named(connection.name)
    publicly = connection.db_url is not None and not connection.has_credentials
    if connection.db_url is not None and (connection.bucket is None or (publicly and not for_writing)):
        from ebooklet_tx.stores.http import HTTPStore

        return HTTPStore(connection.db_url, key=connection.key, timeout_seconds=connection.read_timeout)
    from ebooklet_tx.stores.s3 import S3Store

    return S3Store(connection)


def _policy_for(connection: Connection) -> RetryPolicy:
    if isinstance(connection, S3Connection):
        policy = RetryPolicy(base_seconds=_S3_BASE_SECONDS)
        return policy if connection.retries is None else replace(policy, attempts=connection.retries + 1)
    return RetryPolicy()
