"""Entries of groups: places that somebody else wrote down, and how far they are followed.

Owns no state. The invariant: a place that came out of a group is asked with credentials, or looked for on this
machine, only where the user named it too: as the group's own endpoint, or by saying that entries are trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

GROUP_SERIALIZER = "orjson"
"""How the entries of every group are encoded."""


class GroupEntry(dict[str, Any]):
    """What a group returned: a dict like any other, that knows where the group lies.

    Attributes:
        group_place: The endpoint or folder of the group, which its user named; None where nobody did.
    """

    group_place: tuple[str, ...] | None = None

    @classmethod
    def at(cls, place: tuple[str, ...], entry: Mapping[str, Any]) -> Self:
        """Returns an entry of a group that lies at a place."""
        made = cls(entry)
        made.group_place = place
        return made


class NamedPlace(Protocol):
    """What is asked of a connection here."""

    def endpoint(self) -> tuple[str, ...]: ...


def is_entry(source: Mapping[Any, Any]) -> bool:
    """True of an entry of a group: what a group returned, or a dict with a place under `remote_conn`."""
    return isinstance(source, GroupEntry) or "remote_conn" in source


def place_in(entry: Mapping[Any, Any]) -> Any:
    """Returns the place that an entry names, as it stands there."""
    return entry["remote_conn"] if "remote_conn" in entry else dict(entry)


def is_named_by_user(entry: Mapping[Any, Any], connection: NamedPlace) -> bool:
    """True when an entry leads to the endpoint, or the folder, at which its user opened the group."""
    return isinstance(entry, GroupEntry) and entry.group_place == connection.endpoint()
