"""The queue of one machine's writers at one remote: they commit one after another, first come, first served.

A writer's place is a byte of a shared file, at a number above those of all others, on which it holds a lock of
the kernel. Its turn is when no lower number is locked. The kernel lets go of the places of processes that have
ended, so nothing is left behind.

The invariant: nothing but fairness rests on it. A place that is held for too long is passed by, and where such
locks, or the file, can't be had, there is no queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import threading
from collections.abc import Callable
from hashlib import blake2b

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.locks.handed_root import HandedRoot
from ebooklet_tx.locks.private_folder import open_shared
from ebooklet_tx.stores.retry import RetryPolicy

FILE_NAME = "ebooklet_tx.queue"

NUMBERS = 2**32
"""So many numbers are there for each remote; a remote's digest says where in the file they begin."""

COMMIT_SECONDS = 0.01
"""What a commit is taken to last until one was measured."""

LEAST_PATIENCE_SECONDS, MOST_PATIENCE_SECONDS = 0.5, 5.0
PATIENCE = 20.0
"""Whoever is in front may take so many times as long as a commit takes, within those bounds."""

LEAST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.0005, 0.25
LOOKS = 0.05
"""How soon it is looked again for the one in front, in the same measure."""

LOOKS_AHEAD = 0.7
"""Likewise, for each commit that comes before that of the one in front: who sleeps too long keeps all waiting."""

LOOKS_AT_FIRST = 0.25
"""Likewise, where it has just come to be in front: nobody commits sooner."""

LEAST_PAUSE_AT_LAST_SECONDS, LOOKS_AT_LAST = 0.0001, 0.01
"""Likewise, once it has built its commit and is about to send it."""

LATER = 0.02
"""The pauses grow by this part of what was waited for the one in front already."""

_TRIES = 20
_FLOCK = struct.Struct("hhqqi4x")
_SET, _GET = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)


class _UnusableError(Exception):
    """The file has no such locks, or another program's."""


class _Held(threading.local):
    """Where the places of this thread's pushes begin: one within another never waits for it."""

    def __init__(self) -> None:
        self.starts: set[int] = set()


_held = _Held()


class MachineQueue:
    """One session's place among the writers of its machine."""

    def __init__(self, remote_name: str | None, policy: RetryPolicy) -> None:
        """Takes no place yet.

        Args:
            remote_name: Names the remote as every process of this machine does; None where only this process
                reaches it, so that there is no queue.
            policy: Waits.
        """
        self._policy = policy
        self._start = -1
        digest = blake2b((remote_name or "").encode(errors="surrogatepass"), digest_size=16).digest()
        if remote_name is not None and _SET is not None:
            self._start = (int.from_bytes(digest[-8:]) >> 34) * NUMBERS
        self._root = HandedRoot(digest)
        self._file = Descriptor()
        self._number: int | None = None
        self._passed = -1
        self._closed = False

    @property
    def is_in(self) -> bool:
        """Whether this session has a place."""
        return self._number is not None

    def enter(self, commit_seconds: float, coming: Callable[[bytes], object] | None = None) -> bool:
        """Takes a place and waits until it is the first; at once where no other writer is there.

        Args:
            commit_seconds: About how long a commit takes; 0 where that is not known.
            coming: Called with the bytes of a root that the writer just in front is about to write.

        Returns:
            Whether it waited for another writer, which may have committed meanwhile.
        """
        if self._number is not None or self._start < 0 or self._closed or self._start in _held.starts:
            return False
        try:
            self._take()
            return self._await(commit_seconds or COMMIT_SECONDS, coming)
        except (_UnusableError, OSError):
            self.leave()
            self._start = -1
            return False

    def handed(self) -> tuple[str, bytes] | None:
        """Returns ETag and bytes of the root that the last one in front may have left; see `handed_root`."""
        return self._root.handed()

    def announce(self, root: bytes) -> None:
        """Shows the next one in the queue, if there is one, a root that is about to be written."""
        if self._has_next():
            self._root.announce(root)

    def leave(self, etag: str | None = None, root: bytes = b"") -> None:
        """Gives the place back; none is no error.

        Args:
            etag: The ETag of the root that was written, for the next one in the queue; None where none was.
            root: The root's bytes.
        """
        if etag is not None and self._has_next():
            self._root.hand_over(etag, root)
        if self._number is not None:
            with contextlib.suppress(OSError):
                # Explicitly: a process that is forked meanwhile shares the descriptor.
                self._set(fcntl.F_UNLCK, self._number)
            self._number = None
        self._file.close()
        self._root.close()
        _held.starts.discard(self._start)

    def close(self) -> None:
        """Lets a wait in another thread end, and takes no place any more."""
        self._closed = True

    def forget_in_child(self) -> None:
        """In a forked child: the place is the parent's."""
        self._number = None
        self._closed = True
        self._file.close()
        self._root.close()
        _held.starts.discard(self._start)

    # -- taking a place ------------------------------------------------------------------------

    def _take(self) -> None:
        if not open_shared(self._file, FILE_NAME):
            raise _UnusableError
        for _ in range(_TRIES):
            highest = self._highest()
            number = self._start if highest is None else highest + 1
            if number >= self._start + NUMBERS:
                break
            self._number = number
            if self._set(fcntl.F_WRLCK, number):
                if self._locked(number + 1, self._start + NUMBERS) is None:
                    _held.starts.add(self._start)
                    return
                # The highest had gone, and others came, between the two.
                self._set(fcntl.F_UNLCK, number)
            self._number = None
        raise _UnusableError

    def _has_next(self) -> bool:
        """Whether another writer stands behind this one."""
        with contextlib.suppress(_UnusableError, OSError):
            if self._number is not None:
                return self._locked(self._number + 1, self._start + NUMBERS) is not None
        return False

    def _highest(self) -> int | None:
        """Returns the highest number that is locked."""
        highest, step, end = self._locked(self._start, self._start + NUMBERS), 1, self._start + NUMBERS
        while highest is not None:
            found = self._locked(highest + step, end)
            if found is not None:
                highest, step = found, step * 2
            elif step == 1:
                break
            else:
                step = max(step // 4, 1)
        return highest

    # -- waiting -------------------------------------------------------------------------------

    def _await(self, commit_seconds: float, coming: Callable[[bytes], object] | None) -> bool:
        """Waits until no lower number is locked but of writers that were waited for long enough."""
        patience = min(max(PATIENCE * commit_seconds, LEAST_PATIENCE_SECONDS), MOST_PATIENCE_SECONDS)
        mine = self._number or 0
        if self._passed >= 0 and self._locked(self._passed, self._passed + 1) is None:
            self._passed = -1
        begin = max(self._start, self._passed + 1)
        seen, waited_seconds, met, at_last = -1, 0.0, False, False
        while not self._closed and (first := self._lowest(begin, mine, seen)) is not None:
            looks = LOOKS
            if first != seen:
                looks = LOOKS_AT_FIRST if met else LOOKS
                seen, waited_seconds, met, at_last = first, 0.0, True, False
            elif waited_seconds >= patience:
                # It hangs, or was suspended. Those behind it keep their order.
                self._passed, begin = first, first + 1
                continue
            if coming is not None and first == mine - 1 and (root := self._root.announced()) is not None:
                coming(root)
                at_last = True
                continue
            pause = commit_seconds * (LOOKS_AHEAD * (mine - first - 1) or (LOOKS_AT_LAST if at_last else looks))
            least = LEAST_PAUSE_AT_LAST_SECONDS if at_last else LEAST_PAUSE_SECONDS
            pause = min(max(pause, least, LATER * waited_seconds), MOST_PAUSE_SECONDS)
            # By what it asked for, so that it ends whatever the policy's clock says.
            waited_seconds += pause
            self._policy.await_lock(pause)
        return met

    def _lowest(self, begin: int, end: int, known: int) -> int | None:
        """Returns the lowest number in `[begin, end)` that another writer has locked.

        Args:
            begin: The least number.
            end: The number behind the greatest.
            known: What was returned last: as new numbers are higher, it is that one again while it is locked.
        """
        if begin <= known and self._locked(known, known + 1) is not None:
            return known
        lowest = None
        while (found := self._locked(begin, end)) is not None:
            lowest = end = found
        return lowest

    # -- the kernel's locks --------------------------------------------------------------------

    def _set(self, kind: int, number: int) -> bool:
        """Locks a number, or lets go of it; False where another has it."""
        try:
            fcntl.fcntl(self._file.number, _SET or 0, _FLOCK.pack(kind, 0, number, 1, 0))
        except BlockingIOError:
            return False
        return True

    def _locked(self, begin: int, end: int) -> int | None:
        """Returns a number in `[begin, end)` that another has locked."""
        if begin >= end:
            return None
        asked = _FLOCK.pack(fcntl.F_WRLCK, 0, begin, end - begin, 0)
        kind, _, found, length, _ = _FLOCK.unpack(fcntl.fcntl(self._file.number, _GET or 0, asked))
        if kind == fcntl.F_UNLCK:
            return None
        if length != 1 or not begin <= found < end:
            raise _UnusableError
        return int(found)


__all__ = ["MachineQueue"]
