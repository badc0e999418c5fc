"""Groups: a database whose values say where other databases are.

Owns no state beyond a database's. The invariant: a member existed in its remote when it was added, and no entry
holds a credential.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ebooklet_tx.connection import DirectoryConnection, HTTPConnection, S3Connection, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import InvalidArgumentError, RemoteMissingError
from ebooklet_tx.keys import check_key
from ebooklet_tx.timestamps import timestamp_us

ENTRY_VERSION = 1
GROUP_SERIALIZER = "orjson"

_CONNECTIONS = (S3Connection, DirectoryConnection, HTTPConnection)


class RemoteConnGroup(Database):
    """An open group: a mapping of keys to dicts that say where a database is and what it holds.

    An entry has `entry_version` (1), `type` and `timestamp` (microseconds) of the member, `remote_meta` (the
    member's metadata when it was added), `user_meta` (what the caller gave) and `remote_conn` (the place,
    without credentials). It can be given to `open` as it is. Entries without `entry_version`, as ebooklet
    before 0.9 wrote them, hold the member's metadata as `user_meta`.
    """

    def add(self, remote_conn: Any, key: str | None = None, user_meta: Any = None) -> None:
        """Adds a database that exists in its remote, or brings its entry up to date.

        Args:
            remote_conn: The member's place, as `open` takes it. Its credentials are used and not kept.
            key: The entry's key; None for the member's uuid as 32 hex digits. An entry of the same member
                under its uuid gives way to one under a key that is given.
            user_meta: Anything that is JSON; kept in the entry as it is.

        Raises:
            RemoteMissingError: There is no database at the place; nothing was changed.
            InvalidValueError: `user_meta` is not JSON.
            ReadOnlyError: The group is open for reading.
        """
        self._add([(key, remote_conn, user_meta)])

    def _add(self, members: Iterable[tuple[str | None, Any, Any]]) -> None:
        """Asks every member first, then makes their entries together."""
        self._writing()
        entries = [_entry_of(*member) for member in members]
        encoded = [(key, uuid, self._serializer.dumps(key, entry)) for key, uuid, entry in entries]
        session = self._writing()
        with session.mutex:
            for key, uuid, value in encoded:
                if key != uuid and self._timestamp_of(uuid) is not None:
                    session.local.overlay.put(uuid, None, timestamp_us(None))
                self._put([(key, value, timestamp_us(None))])

    def set(self, key: str, value: Any, timestamp: Any = None, encode_value: bool = True) -> None:
        """Adds the database at a connection under a key, as `add` does; anything else is refused.

        Raises:
            InvalidArgumentError: The value is no connection: entries are made by `add` alone.
        """
        self._add([(key, _connection_of(key, value), None)])

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Adds the databases at several connections; when one of them can't be added, none is."""
        pairs = dict(other, **more)
        self._add([(key, _connection_of(key, value), None) for key, value in pairs.items()])


def _connection_of(key: str, value: Any) -> Any:
    if not isinstance(value, _CONNECTIONS):
        raise InvalidArgumentError(
            f"the entry {key!r} of a group is made from a connection, not a {type(value).__name__}; use "
            "add(remote_conn, key=..., user_meta=...)"
        )
    return value


def _entry_of(key: str | None, remote_conn: Any, user_meta: Any) -> tuple[str, str, dict[str, Any]]:
    """Returns key, member's uuid and entry, after asking the member's remote."""
    if key is not None:
        check_key(key)
    connection = parse_connection(remote_conn)
    with connection.open("r") as member:
        uuid = member.get_uuid()
        if uuid is None:
            raise RemoteMissingError(
                f"there is no database at {connection.url}; push it before it is added to a group"
            )
        entry = {
            "entry_version": ENTRY_VERSION,
            "type": member.get_type(),
            "timestamp": member.get_timestamp(),
            "remote_meta": member.get_user_metadata(),
            "user_meta": user_meta,
            "remote_conn": connection.to_dict(),
        }
    return key or uuid.hex, uuid.hex, entry
