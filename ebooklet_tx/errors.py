"""What can go wrong, as one family of exceptions.

Owns no state. The invariant: every error that leaves this package on purpose derives from
`Error`, names the key, file or object it is about, says the way out, and never contains a
credential. Where a builtin already means the same to Python programs (`ValueError`,
`PermissionError`, `TimeoutError`), the error derives from that as well. What a remote raises derives from
urllib3's `HTTPError` too, which programs written for ebooklet catch around remote calls.
"""

from __future__ import annotations

from urllib3.exceptions import HTTPError


class Error(Exception):
    """The root of everything that ebooklet_tx raises on purpose."""


class RemoteError(Error, HTTPError):
    """A remote could not be asked, refused, or holds what it should not: the root of those that say so."""


class ReadOnlyError(Error, ValueError):
    """A write was asked of a session, file or remote that is open for reading only."""


class UUIDMismatchError(Error, ValueError):
    """The local file and the remote hold two different databases."""


class RemoteMissingError(RemoteError, ValueError):
    """There is no database at the remote place."""


class UnsupportedFormatError(Error, ValueError):
    """A file or object is of another kind, or was written by a newer version."""


class PartialCopyError(Error, ValueError):
    """A file that ebooklet used lacks keys of ebooklet's remote, and nobody said that it is wanted so."""


class InvalidKeyError(Error, ValueError, TypeError):
    """A key is not a non-empty str of at most 65,535 UTF-8 bytes."""


class InvalidValueError(Error, ValueError, TypeError):
    """A value can't be encoded by the serializer, or is over 4 GiB - 1 when encoded."""


class MissingPackageError(Error, ImportError):
    """A serializer uses a package that is not installed."""


class InvalidArgumentError(Error, ValueError, TypeError):
    """A flag, serializer, connection or option is not one that is known, or of another type."""


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument is of a type that is not taken there."""


class WorkerError(Error, RuntimeError):
    """A worker process of `map` died, or could not load its function or send back what that raised."""


class GroupSetError(Error, NotImplementedError):
    """An entry of a group was to be set; entries are made by `add`, from databases that exist."""


class SessionClosedError(Error, ValueError):
    """The session was closed, or belongs to the process that this one was forked from."""


class LocalMissingError(Error, FileNotFoundError):
    """The local file does not exist and the flag does not allow making it."""


class LocalIntegrityError(Error):
    """A local value is damaged, and no sound copy could be found in its place."""


class LocalStorageError(Error, OSError):
    """The local disk refused: full, read-only, no permission. The last commit is intact."""


class JournalUnusableError(LocalStorageError):
    """The journal is a sound SQLite database that this version can't go on with. It was left as it is."""


class JournalDamagedError(LocalIntegrityError):
    """The SQLite journal is not a sound SQLite database of ours."""


class LostCommitsError(JournalDamagedError):
    """The journal is sound, but lacks commits that were acknowledged: its WAL is damaged or missing."""


class RemoteIntegrityError(RemoteError):
    """An object in the remote is truncated, altered, or not what the root says it is."""


class RemoteAccessError(RemoteError, PermissionError):
    """The store refuses: no permission, no such bucket or folder, wrong credentials."""


class OfflineError(RemoteError, ConnectionError):
    """The remote can't be reached or keeps failing. Local work is kept."""


class ContentionError(OfflineError):
    """Other writers' commits came first again and again. Every operation is pending; push again."""


class LockTimeoutError(Error, TimeoutError):
    """Another process holds the lock, and did not let go in the time allowed."""


class LockHeldError(LockTimeoutError):
    """A lock was to be taken away, and its holder is not known to be gone."""


class LockLostError(Error):
    """Another writer took the lock over. Every change is still pending."""


class GroupTooLargeError(Error, ValueError):
    """Never raised: ebooklet's, kept for programs that catch it. Here no pack is too large to be written."""


class PushInProgressError(Error):
    """Never raised: ebooklet's, kept for programs that catch it. Here pushes of a session wait for each other."""


class ConcurrentCompactionError(Error):
    """Never raised: ebooklet's, kept for programs that catch it. Here a compaction is a commit like any other."""


class WeakStoreWarning(UserWarning):
    """The store's conditional writes don't work, so writers are kept apart by weaker means."""


class PickleRefusedError(Error, ValueError):
    """A database's values are pickled, and pickle was refused. Nothing was unpickled."""


class PickleWarning(UserWarning):
    """Values that were pickled by somebody else are about to be unpickled, which runs their code."""


class OfflineWarning(UserWarning):
    """The remote can't be reached, so a database was opened with what is on this machine."""


class ObjectMissingError(RemoteError):
    """The store has no object of that name. An answer of the store, never retried."""


class PreconditionFailedError(RemoteError):
    """The object is not in the state that the condition named. An answer, never retried."""


class ConditionUnsupportedError(RemoteError):
    """The store refuses conditional writes altogether (501)."""


class TransientStoreError(RemoteError):
    """A request failed in a way that a later one may not: time-out, 429, 5xx, cut connection.

    Attributes:
        may_have_applied: True when a write may have taken effect although no answer came.
        retry_after_seconds: What the store asked for, or None.
    """

    def __init__(
        self, message: str, *, may_have_applied: bool = True, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.may_have_applied = may_have_applied
        self.retry_after_seconds = retry_after_seconds


class UnreachableStoreError(TransientStoreError):
    """There was nobody to speak to: connection refused, no route, no such name, no answer to a connect."""


class ObjectTooLargeError(RemoteIntegrityError):
    """An object is longer than anything of ours in its place can be; it was not read.

    Attributes:
        etag: The object's ETag.
        start: Its first bytes.
    """

    def __init__(self, message: str, *, etag: str = "", start: bytes = b"") -> None:
        super().__init__(message)
        self.etag = etag
        self.start = start


class NotFoundInRangeError(RemoteIntegrityError):
    """A ranged read asked for bytes that the object does not have."""
