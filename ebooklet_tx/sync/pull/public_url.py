"""That the public address of a database shows the database that is in its bucket.

The invariant: a writer is told before it writes that readers are sent to another database, and what was found
right once is not asked again: the journal keeps which address was seen to show which database.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping

from ebooklet_tx.connection import Connection, S3Connection, without_secrets
from ebooklet_tx.errors import (
    Error,
    ObjectMissingError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
    UnsupportedFormatError,
    UUIDMismatchError,
)
from ebooklet_tx.local.journal.facts import is_replacing, note_public_sides, public_sides
from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.root_object import fetch_root

MAX_WAIT_SECONDS = 10.0
MAX_ADDRESSES = 16

_CAN_NOT_TELL: tuple[type[Error], ...] = (
    ObjectMissingError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
)

_log = logging.getLogger("ebooklet_tx")


def check_public_side(local: LocalStore, root_place: str, connection: Connection) -> None:
    """Makes sure that a connection's `db_url` shows the same database as its bucket.

    One GET of the root at the `db_url`, sent once and not again, and none when the journal remembers
    that it was right. Nothing there, no access, no network or a damaged answer is no error: the database
    need not be public yet. Connections without a bucket or without a `db_url` have no second side, and
    a session that is about to replace its remote (`flag="n"`) has nothing to show yet.

    Args:
        local: The local store, after its first pull.
        root_place: What messages call the root in the bucket.
        connection: What the session was opened with.

    Raises:
        UUIDMismatchError: The `db_url` shows another database. Nothing was changed.
        UnsupportedFormatError: It shows something that is no database of this version.
    """
    if not isinstance(connection, S3Connection) or connection.bucket is None or connection.db_url is None:
        return
    address = without_secrets(connection.db_url)
    uuid = local.file.header.uuid.hex()
    if is_replacing(local.journal) or _known(local.journal).get(address) == uuid:
        return
    shown = _shown_uuid(connection, connection.db_url)
    if shown is None:
        return
    if shown != uuid:
        raise UUIDMismatchError(
            f"db_url {address} shows the database {shown}, but {root_place} holds {uuid}: "
            "readers would see another database. Correct db_url, or leave it out; if the database was just "
            "replaced, wait until a cache in between has let go of the old one"
        )
    if local.writable:
        known = _with(_known(local.journal), address, uuid)
        note_public_sides(local.journal, json.dumps(known))


def _shown_uuid(connection: S3Connection, db_url: str) -> str | None:
    """Returns the uuid of the database that the address shows, None if that can't be told."""
    from ebooklet_tx.stores.http import HTTPStore

    store = HTTPStore(db_url, key=connection.key, timeout_seconds=min(connection.read_timeout, MAX_WAIT_SECONDS))
    try:
        place = f"{connection.key!r} at {store.location}"
        with contextlib.closing(store):
            return fetch_root(store, connection.key, name=place).manifest.uuid
    except _CAN_NOT_TELL as error:
        _log.info("whether db_url shows the same database can't be told: %s", error)
        return None
    except UnsupportedFormatError as error:
        raise UnsupportedFormatError(
            f"db_url {store.location} does not show the database that it should; correct db_url, or leave it "
            f"out. There: {error}"
        ) from error


def _known(journal: Journal) -> dict[str, str]:
    """Returns the addresses that were checked, each with the uuid of the database that it showed."""
    text = public_sides(journal)
    with decoding(journal.path, "the public addresses that were checked"):
        return dict(json.loads(text)) if text else {}


def _with(known: Mapping[str, str], address: str, uuid: str) -> dict[str, str]:
    """Adds an address, the newest last; what was seen of another database is forgotten."""
    same = {old: seen for old, seen in known.items() if seen == uuid and old != address}
    return dict(list(same.items())[1 - MAX_ADDRESSES :]) | {address: uuid}
