"""A database in a folder: a local one, or one on a shared drive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ebooklet_tx.connection.base import BaseConnection
from ebooklet_tx.connection.checks import RESERVED_NAME_PREFIX, check_database_key, shown
from ebooklet_tx.errors import InvalidArgumentError


@dataclass(frozen=True, eq=False, repr=False)
class DirectoryConnection(BaseConnection):
    """A database in a local folder or on a shared drive.

    Attributes:
        folder: The folder that holds the remote; a relative path starts at the current folder.
        name: The database's name in it, a single path part.

    Examples:
        >>> ebooklet_tx.DirectoryConnection("/srv/shared", "stations").url
        'file:///srv/shared/stations'
    """

    folder: Path
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | Path) or not str(self.folder) or "\0" in str(self.folder):
            raise InvalidArgumentError(f"folder must be a path, not {shown(self.folder)}")
        object.__setattr__(self, "folder", Path(self.folder).resolve())
        check_database_key(self.name, "name")
        # One folder has one lock file. A name that leads into a subfolder would give one database two locks.
        if "/" in self.name or self.name.startswith(RESERVED_NAME_PREFIX):
            raise InvalidArgumentError(
                f"name {self.name!r} must be a single file name not beginning with "
                f"{RESERVED_NAME_PREFIX!r}; put its folders in `folder`"
            )

    @property
    def key(self) -> str:
        """The database's key in the store."""
        return self.name

    @property
    def url(self) -> str:
        """The address as a file URL."""
        return f"file://{quote(str(self.folder / self.name))}"

    def to_dict(self) -> dict[str, str]:
        """Returns the address as a dict from which `connect` makes a connection again."""
        return {"folder": str(self.folder), "name": self.name}

    def _address(self) -> tuple[str, ...]:
        return ("file", str(self.folder), self.name)
