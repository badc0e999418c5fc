"""The life of an open database: its session, the process and thread that may use it, and its end.

Owns the session and the steps that end it. The invariant: a session ends once, in the process that opened it;
what was written and not committed is committed then, unless a transaction was open.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Self

from ebooklet_tx.connection import Connection
from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import (
    InvalidArgumentError,
    ReadOnlyError,
    SessionClosedError,
)
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.locks.writer_lock import INTERRUPTED_SECONDS
from ebooklet_tx.stores.deadline import patience
from ebooklet_tx.sync.commit.writer_locks import WriterLock
from ebooklet_tx.sync.session import Session
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.unshared import Unshared
from ebooklet_tx.values.serializers import Serializer

_log = logging.getLogger("ebooklet_tx")

DROPPED_WAIT_SECONDS = 5.0
"""How long the end of a program waits for another thread that is at work in a session."""

_open_databases: weakref.WeakValueDictionary[int, OpenSession] = weakref.WeakValueDictionary()


class OpenSession(Unshared):
    """What every open database has: a session that is used, closed, or dropped without being closed."""

    def __init__(
        self, session: Session, serializer: Serializer, connection: Connection, *, buffer_size: int
    ) -> None:
        self._session = session
        self._serializer = serializer
        self._connection = connection
        self._buffer_size = max(buffer_size, 1)
        self._write_buffer_size = self._buffer_size
        self._pid = os.getpid()
        self._closed = False
        # The last one added is the first to run.
        self._ending = Ending()
        if session.ended is not None:
            self._ending.add(session.ended)
        self._ending.add(session.remote.store.close)
        self._ending.add(session.locks.release)
        self._ending.add(session.local.close)
        self._in_child = False
        self._in_transaction = False
        _open_databases[id(self)] = self

    @property
    def writable(self) -> bool:
        """Whether this session may write."""
        return self._session.local.writable

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def offline(self) -> bool:
        """Whether this session was opened without its remote."""
        return self._session.remote.offline

    @property
    def lock(self) -> WriterLock | None:
        """The lock on the remote that this session holds until it is closed; None where it holds none."""
        return None if self._closed or self._in_child else self._session.locks.held

    @property
    def uuid(self) -> str:
        """The database's identity, 32 hex digits, the same on every machine."""
        return self._usable().local.file.header.uuid.hex()

    @property
    def value_serializer(self) -> str | None:
        """How values are encoded: a name of Booklet's, `custom` for a class of the user's, None for bytes."""
        return self._serializer.name

    @property
    def _state(self) -> str:
        """How the session may be used, in words."""
        if self._closed or self._in_child:
            return "closed" if self._closed else "of another process"
        return ("writable" if self.writable else "read-only") + (", offline" if self.offline else "")

    def _usable(self) -> Session:
        if not (self._closed or self._in_child):
            return self._session
        if self._in_child:
            raise SessionClosedError(
                f"{self._session.local.path} was opened by the process {self._pid} that this one was forked "
                "from; open it again here",
                path=self._session.local.path,
            )
        raise SessionClosedError(
            f"{self._session.local.path} is closed; open it again", path=self._session.local.path
        )

    def _writing(self) -> Session:
        session = self._usable()
        if not session.local.writable:
            raise ReadOnlyError(
                f"{session.local.path} is open for reading; open it with flag 'w' to change it",
                path=session.local.path,
            )
        return session

    @contextlib.contextmanager
    def _outside_transaction(self, what: str) -> Iterator[Session]:
        """Holds the mutex, waiting for another thread's transaction; refuses inside one's own."""
        session = self._writing()
        with session.mutex:
            self._usable()
            if self._in_transaction:
                raise InvalidArgumentError(
                    f"{what} can't take place inside a transaction; end the block first", operation=what
                )
            yield session

    def _drop_transaction(self) -> None:
        """Drops an open transaction as a whole, and says so: it was never acknowledged."""
        overlay = self._session.local.overlay
        if self._in_transaction and overlay:
            _log.warning("%s was ended inside a transaction: %s", self._session.local.path, _lost(overlay))
        self._end_transaction()

    def _end_transaction(self) -> None:
        """Drops what was not committed; outside a transaction nothing is."""
        if self._in_transaction:
            self._session.local.overlay.forget()
            self._in_transaction = self._session.in_transaction = False

    @at_edge
    def close(self, force_shutdown: bool = False) -> None:
        """Commits what was written, moves it into the Booklet file and closes; twice is no error.

        A transaction that is open is dropped as a whole: end its block first. When it raises, the session is
        closed all the same and the last commit is intact. When it is interrupted, it makes what was written
        durable and releases all locks before it raises; another call finishes.

        Args:
            force_shutdown: No effect: nothing is left running that could be shut down.

        Examples:
            >>> db.close()
            >>> db.closed
            True
        """
        self._closed = True
        if os.getpid() != self._pid:
            return
        with self._session.mutex:
            try:
                self._drop_transaction()
                self._ending.finish()
            except BaseException:
                # What an interrupt left undone; nothing, after an error.
                self._drop_transaction()
                self._ending.finish()
                raise

    def __enter__(self) -> Self:
        self._usable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        # What is open when the interpreter ends was ended before, at exit.
        if hasattr(self, "_in_transaction") and not is_ending():
            self._end_unclosed()

    def _end_unclosed(self, *, stacklevel: int = 3) -> None:
        """Ends a session that was dropped without `close`: commits what was written, and pushes nothing.

        An open transaction was never acknowledged, so all of it is dropped.

        Args:
            stacklevel: How many calls lie between the warning and the line that dropped the session.
        """
        if self._ending.is_finished or self._in_child or os.getpid() != self._pid:
            return
        path, overlay = self._session.local.path, self._session.local.overlay
        if not self._session.mutex.acquire(timeout=DROPPED_WAIT_SECONDS):
            _log.warning("%s was not closed, and another thread is at work in it: %s", path, _lost(overlay))
            return
        try:
            with patience(block_seconds=self._last_seconds()):
                self.close()
        except Exception as error:
            _log.warning("%s was not closed, and can't be: %s: %s", path, _lost(overlay), error)
        finally:
            self._session.mutex.release()
            warnings.warn(f"{path} was not closed", ResourceWarning, source=self, stacklevel=stacklevel)

    def _last_seconds(self) -> float:
        """Returns how long the store may take for the end of a session that nobody has closed."""
        if self._closed:
            # Ctrl-C has ended its end.
            return 0.0
        return (
            INTERRUPTED_SECONDS if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt) else math.inf
        )

    def _forget_in_child(self) -> None:
        self._in_child = True
        self._session.local.forget_in_child()
        self._session.locks.forget_in_child()


def _forget_all_in_child() -> None:
    for database in list(_open_databases.values()):
        database._forget_in_child()


os.register_at_fork(after_in_child=_forget_all_in_child)


def _end_all_unclosed() -> None:
    ending = Ending()
    for database in list(_open_databases.values()):
        ending.add(functools.partial(database._end_unclosed, stacklevel=4))
    try:
        ending.finish()
    except BaseException:
        # What an interrupt left undone; nothing, after an error, such as a warning that counts as one.
        ending.finish()
        raise


# Before logging's own, which was registered earlier, and while threads, modules and SQLite are still there.
atexit.register(_end_all_unclosed)


def _lost(overlay: Overlay) -> str:
    """Says how many writes are lost with what was not committed."""
    count = len(overlay.operations)
    return counted(count, "write that was not committed is lost", "writes that were not committed are lost")


__all__ = ["OpenSession"]
