"""Groups: databases whose values are the addresses of other databases.

The invariant: a member existed in its remote when it was added, and no entry holds a credential.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

from ebooklet_tx.connection import Connection, RemoteConn, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import GroupSetError, RemoteMissingError
from ebooklet_tx.group_entries import GroupEntry
from ebooklet_tx.keys import check_key
from ebooklet_tx.timestamps import timestamp_us
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.serializers import Serializer

ENTRY_VERSION = 1


class RemoteConnGroup(Database):
    """An open group: a mapping of keys to dicts, each with the address and a description of a database.

    An entry has `entry_version` (1), `type` and `timestamp` (microseconds) of the member, `remote_meta` (the
    member's metadata when it was added), `user_meta` (what the caller gave) and `remote_conn` (the address,
    without credentials). `open` takes an entry as it is; its `trust_entries` says how far the entry is followed.
    Entries without `entry_version`, as ebooklet before 0.9 wrote them, hold the member's metadata as `user_meta`.

    Examples:
        >>> with ebooklet_tx.open(remote + "-group", "group.blt", "c", remote_conn_group=True) as group:
        ...     group.add(remote, key="stations", user_meta={"version": 1})
        ...     print(group["stations"]["type"], group["stations"]["user_meta"])
        EVariableLengthValue {'version': 1}
    """

    _noun = "group"

    @at_edge
    def add(self, remote_conn: RemoteConn, key: str | None = None, user_meta: Any = None) -> None:
        """Adds a database that exists in its remote, or brings its entry up to date.

        Args:
            remote_conn: The member's address, as `open` takes it. Its credentials are used and not kept.
            key: The entry's key; None for the member's uuid as 32 hex digits. A key that is given replaces
                the entry of the same member under its uuid.
            user_meta: Anything that is JSON; kept in the entry as it is.

        Raises:
            InvalidArgumentError: It is no connection; no request was sent.
            RemoteMissingError: There is no database at the address; nothing was changed.
            InvalidValueError: `user_meta` is not JSON.
            ReadOnlyError: The group is open for reading.

        Examples:
            >>> with ebooklet_tx.open(remote + "-group", "group.blt", "c", remote_conn_group=True) as group:
            ...     group.add(remote)
            ...     list(group) == [db.uuid]
            True
        """
        self._writing()
        if key is not None:
            check_key(key)
        connection = parse_connection(remote_conn, for_reading=False)
        uuid, entry = _entry_of(connection, user_meta)
        key = key or uuid
        encoded = self._serializer.dumps(key, entry)
        stamp = timestamp_us(None)
        operations: dict[str, tuple[bytes | None, int]] = {key: (encoded, stamp)}
        # Asked without the mutex, as it may take a request.
        if key != uuid and self._timestamp_of(uuid) is not None:
            operations[uuid] = None, stamp
        self._writing()
        self._put(operations)

    @at_edge
    def set(self, key: str, value: Any, timestamp: Any = None, encode_value: bool = True) -> NoReturn:
        """Refuses: entries are made by `add` alone.

        Raises:
            GroupSetError: Always; it is also a NotImplementedError.
        """
        raise GroupSetError(
            f"the entry {key!r} of a group can't be set: add(remote_conn, key=..., user_meta=...) makes it from "
            "a database that exists; nothing was changed",
            key=key,
            operation="set",
        )

    @at_edge
    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns an entry; refuses to make one, as `set` does."""
        found = self.get(key)
        return self.set(key, default) if found is None else found

    @at_edge
    def update(self, other: Any = (), /, **more: Any) -> NoReturn:
        """Refuses, as `set` does.

        Raises:
            GroupSetError: Always; it is also a NotImplementedError.
        """
        raise GroupSetError(
            "the entries of a group can't be set: add(remote_conn, key=..., user_meta=...) makes them one by "
            "one; nothing was changed",
            operation="update",
        )


def reading_entries(serializer: Serializer, connection: Connection) -> Serializer:
    """Returns a group's serializer that decodes values as entries which know where the group lies."""
    address = connection.endpoint()

    def loads(encoded: bytes) -> Any:
        value = serializer._loads(encoded)
        return GroupEntry.at(address, value) if isinstance(value, dict) else value

    return dataclasses.replace(serializer, _loads=loads)


def _entry_of(connection: Connection, user_meta: Any) -> tuple[str, dict[str, Any]]:
    """Returns a member's uuid and entry, after asking its remote."""
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
    return uuid.hex, entry
