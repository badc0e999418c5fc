"""Reading a database without a local file: from memory, for functions that run without a disk of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

from ebooklet_tx.database.commit_mapping import CommitMapping
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.html_tables import counted
from ebooklet_tx.records import CommitRecord
from ebooklet_tx.sync.read.newest import NewestReader
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.serializers import Serializer


class RemoteReader(CommitMapping):
    """A database that is read without a local file, as `open(remote, None)` gives it; nothing can be written.

    It reads one commit: the newest at opening, or at the last `pull`. Up to 16 MiB of the index and 4 MiB of
    values are kept in memory, those used last. Threads may share it.

    Examples:
        >>> with ebooklet_tx.open(remote, None) as reader:
        ...     reader["a"], len(reader), list(reader.keys("b"))
        (1, 2, ['b'])
    """

    def __init__(
        self, reader: NewestReader, serializer: Serializer, url: str, close_store: Callable[[], object]
    ) -> None:
        super().__init__(reader, serializer, f"the reader of {url}")
        self._reader = reader
        self._url = url
        self._close_store = close_store

    @property
    def uuid(self) -> str:
        """The database's identity, 32 hex digits."""
        return self._reader.view.manifest.uuid

    @property
    def seq(self) -> int:
        """The number of the commit that is read."""
        return self._reader.view.manifest.seq

    @at_edge
    def pull(self) -> bool:
        """Goes on to the newest commit; true when there was a newer one. Costs one request.

        Raises:
            RemoteMissingError: The database is gone.
            OfflineError: The store can't be reached; the commit that was read can be read on.

        Examples:
            >>> with ebooklet_tx.open(remote, None) as reader:
            ...     reader.pull(), reader.seq
            (False, 1)
        """
        self._usable()
        return self._reader.pull()

    @at_edge
    def history(self, limit: int = 20) -> list[CommitRecord]:
        """Returns the newest commits up to the one that is read, the newest first; see `Database.history`.

        Examples:
            >>> with ebooklet_tx.open(remote, None) as reader:
            ...     [commit.set_count for commit in reader.history()]
            [2]
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgumentError(f"limit must be an int from 1 on, not {limit!r}")
        self._usable()
        view = self._reader.view
        return view.remote.history.newest(view.manifest, limit)

    @at_edge
    def timestamps(self) -> Iterator[tuple[str, int]]:
        """Yields (key, timestamp in microseconds), in order of key; no value is read.

        Examples:
            >>> with ebooklet_tx.open(remote, None) as reader:
            ...     [key for key, _ in reader.timestamps()]
            ['a', 'b']
        """
        self._usable()
        for key, stamp in self._reader.stamps():
            yield key, stamp
            self._usable()

    @at_edge
    def close(self) -> None:
        """Ends it; twice is no error.

        Examples:
            >>> reader = ebooklet_tx.open(remote, None)
            >>> reader.close()
            >>> reader.closed
            True
        """
        if not self._closed:
            self._closed = True
            self._close_store()

    def __enter__(self) -> Self:
        self._usable()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"commit {self.seq}, {counted(self._reader.count(), 'key')}"
        return f"<ebooklet_tx reader of {self._url}, {state}>"


__all__ = ["RemoteReader"]
