"""Entries of groups: addresses that another writer chose, and how far they are followed.

The invariant: an address from a group gets credentials, or is looked up on this machine, only where the user
named it too: as the group's own endpoint or folder, or by saying that entries are trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

GROUP_SERIALIZER = "orjson"
"""How the entries of every group are encoded."""


class GroupEntry(dict[str, Any]):
    """A value of a group: a plain dict that knows where the group lies.

    Attributes:
        group_address: The endpoint or folder of the group, which its user named; None where it is unknown.
    """

    group_address: tuple[str, ...] | None = None

    @classmethod
    def at(cls, address: tuple[str, ...], entry: Mapping[str, Any]) -> Self:
        """Returns an entry of the group at an endpoint or folder."""
        made = cls(entry)
        made.group_address = address
        return made


class NamedConnection(Protocol):
    """What this module uses of a connection."""

    def endpoint(self) -> tuple[str, ...]: ...


def is_entry(source: Mapping[Any, Any]) -> bool:
    """True of an entry of a group: a value of a group, or a dict with an address under `remote_conn`."""
    return isinstance(source, GroupEntry) or "remote_conn" in source


def address_in(entry: Mapping[Any, Any]) -> Any:
    """Returns the address in an entry, unparsed."""
    return entry["remote_conn"] if "remote_conn" in entry else dict(entry)


def is_named_by_user(entry: Mapping[Any, Any], connection: NamedConnection) -> bool:
    """True when an entry leads to the endpoint or folder at which the user opened the group."""
    return isinstance(entry, GroupEntry) and entry.group_address == connection.endpoint()
