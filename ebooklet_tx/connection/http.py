"""A database at a public http(s) address, for reading."""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.connection.base import BaseConnection
from ebooklet_tx.connection.urls import check_database_url, last_part, without_secrets


@dataclass(frozen=True, eq=False, repr=False)
class HTTPConnection(BaseConnection):
    """A database read from a public http(s) address.

    Attributes:
        db_url: The address of the root object; the other objects lie beside it.

    Examples:
        >>> ebooklet_tx.HTTPConnection("https://example.org/stations.blt").key
        'stations.blt'
    """

    db_url: str

    def __post_init__(self) -> None:
        check_database_url(self.db_url)

    @property
    def key(self) -> str:
        """The database's key in the store: the last part of the URL's path."""
        return last_part(self.db_url)

    @property
    def url(self) -> str:
        """The address as a URL, without query parameters that are credentials."""
        return without_secrets(self.db_url)

    def to_dict(self) -> dict[str, str]:
        """Returns the address, without credentials, as a dict from which `connect` makes a connection again."""
        return {"db_url": self.url}

    def _address(self) -> tuple[str, ...]:
        return ("http", self.url)
