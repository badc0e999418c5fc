"""From a connection to the remote that sync works with.

The invariant: making a remote sends nothing, and a store that a caller puts in between lies below the retries.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias, cast

from ebooklet_tx.connection import Connection, HTTPConnection, S3Connection, parse_connection
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.stores.capabilities import Quoting
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.offline import OfflineStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.sync.remote import Remote

StoreWrapper: TypeAlias = Callable[[ObjectStore], ObjectStore]

_wrapper: ContextVar[StoreWrapper | None] = ContextVar("ebooklet_tx_store_wrapper", default=None)


@contextlib.contextmanager
def wrapped_stores(wrap: StoreWrapper | None) -> Iterator[None]:
    """Puts a store of the caller's below the retries of each remote that is made in the block.

    The demo and the tests count requests so, or let them fail.
    """
    before = _wrapper.set(wrap)
    try:
        yield
    finally:
        _wrapper.reset(before)


def remote_at(
    connection: Connection,
    *,
    retry: RetryPolicy | None = None,
    for_writing: bool = False,
    conditional_writes: bool | str = "auto",
) -> Remote:
    """Returns the remote at a place; nothing is sent yet.

    Args:
        connection: The place.
        retry: How failing requests are tried again; None for the connection's own.
        for_writing: Whether writes are meant.
        conditional_writes: "auto", or whether they work.
    """
    if conditional_writes not in ("auto", True, False):
        raise InvalidArgumentError(
            f"conditional_writes must be 'auto', True or False, not {conditional_writes!r}"
        )
    store = open_store(connection, policy=retry, for_writing=for_writing)
    inner = store.inner
    unknown = conditional_writes == "auto" and not getattr(inner, "is_aws", True)
    quoting = inner if hasattr(inner, "quote_etags") else None
    place = getattr(inner, "place", None)
    wrap = _wrapper.get()
    if wrap is not None:
        store.inner = wrap(store.inner)
    return Remote(
        store,
        ObjectNames(connection.key),
        store.policy,
        threads=getattr(connection, "threads", 8),
        mode=CommitMode(
            swaps=conditional_writes is not False,
            place=place,
            probed_store=cast("Quoting | None", inner if unknown else None),
            quoting=cast("Quoting | None", quoting),
            expected=None if unknown else conditional_writes is not False,
        ),
        given_policy=retry,
    )


def offline_remote(connection: Connection) -> Remote:
    """Returns the remote of a session that is opened offline: its store refuses every request."""
    return Remote(OfflineStore(connection.url), ObjectNames(connection.key), offline=True)


def noted_connection(facts: Mapping[str, Any], journal_file: Path) -> Connection | None:
    """Returns the remote that a journal's facts name; None where they name none.

    Raises:
        JournalDamagedError: They can't be decoded.
    """
    text = facts.get("connection")
    if not text:
        return None
    with decoding(journal_file, "where the remote is"):
        return parse_connection(json.loads(text))


def only_readable(connection: Connection) -> bool:
    """True of a place that is known by a public address alone."""
    return isinstance(connection, HTTPConnection) or (
        isinstance(connection, S3Connection) and connection.bucket is None
    )
