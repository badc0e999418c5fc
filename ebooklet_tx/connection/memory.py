"""A database in the memory of this process, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from ebooklet_tx.connection.base import BaseConnection
from ebooklet_tx.connection.checks import check_database_key


@dataclass(frozen=True, eq=False, repr=False)
class MemoryConnection(BaseConnection):
    """A database in the memory of this process, for tests; `memory://name` leads to it.

    All sessions of the process that name it find the same database. Another process finds none, and neither does
    this one after `testing.clear`.

    Attributes:
        name: The database's name.

    Examples:
        >>> ebooklet_tx.connect("memory://stations")
        MemoryConnection('memory://stations')
    """

    name: str

    def __post_init__(self) -> None:
        check_database_key(self.name, "name")

    @property
    def key(self) -> str:
        """The database's key in the store."""
        return self.name

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"memory://{quote(self.name)}"

    def to_dict(self) -> dict[str, str]:
        """Returns the address as a dict from which `connect` makes a connection again."""
        return {"url": self.url}

    def _address(self) -> tuple[str, ...]:
        return ("memory", "", self.name)
