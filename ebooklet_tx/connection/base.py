"""What every kind of connection shares: equality, text, and opening the remote that it names.

Two connections are equal when they name the same address, whatever credentials they carry, and no credential
leaves a connection through `repr`, `str`, `url` or `to_dict`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ebooklet_tx.connection.parsing import Connection
    from ebooklet_tx.remote_session import RemoteSession


class BaseConnection(ABC):
    """The base of all connections: equality, hash and text come from the address, never from credentials."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address as a URL, without credentials."""

    @abstractmethod
    def _address(self) -> tuple[str, ...]:
        """Returns what makes two connections the same one: kind, endpoint or folder, and the rest."""

    def endpoint(self) -> tuple[str, ...]:
        """Returns the part of the address that the same credentials are sent to: endpoint or folder."""
        return self._address()[:2]

    def open(self, flag: str = "r") -> RemoteSession:
        """Opens the remote itself, without a local file; see `RemoteSession`.

        Args:
            flag: `r` to read what the remote says about its database; `w`, `c` or `n` to delete it as well, or
                to break its locks. Opening sends nothing and changes nothing.

        Raises:
            ReadOnlyError: The address can only be read, and the flag is not `r`.

        Examples:
            >>> with ebooklet_tx.connect(remote).open() as session:
            ...     session.get_uuid().hex == db.uuid
            True
        """
        # The one import upward: a session needs every room below it, and all of them need this package.
        from ebooklet_tx.remote_session import RemoteSession

        return RemoteSession(cast("Connection", self), flag)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BaseConnection):
            return NotImplemented
        return self._address() == other._address()

    def __hash__(self) -> int:
        return hash(self._address())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
