"""The exceptions and warnings of this package, as one family.

The invariant: every error that is raised on purpose derives from `Error`, has a stable `kind`, names the key,
file or object that it is about, says the way out, and never contains a credential. Where a builtin already
means the same to Python programs (`ValueError`, `PermissionError`, `TimeoutError`), the error derives from it
as well. What a remote raises derives from urllib3's `HTTPError` too, which programs written for ebooklet catch
around remote calls.
"""

from __future__ import annotations

import os
from typing import ClassVar

from urllib3.exceptions import HTTPError


class Error(Exception):
    """The base of every exception that ebooklet_tx raises on purpose.

    The fields are for programs; the message says the same in words. A field is None where it does not apply.

    Attributes:
        kind: A code for the class, the same in every release.
        key: The key of the database that the error is about; `""` is the metadata.
        path: The local file or folder.
        object_name: The object in the remote.
        operation: What was being done, such as `"push"`.

    Examples:
        >>> import ebooklet_tx
        >>> try:
        ...     ebooklet_tx.open("file:///remote/stations", "stations.blt", flag="x")
        ... except ebooklet_tx.Error as error:
        ...     print(error.kind)
        invalid_argument
    """

    kind: ClassVar[str] = "error"

    key: str | None = None
    path: str | None = None
    object_name: str | None = None
    operation: str | None = None

    def __init__(
        self,
        *args: object,
        key: str | None = None,
        path: str | os.PathLike[str] | None = None,
        object_name: str | None = None,
        operation: str | None = None,
    ) -> None:
        """Takes what the builtin base takes (a message; `errno` and a message for an `OSError`), and fields."""
        super().__init__(*args)
        # Fields that are not given stay the class's, so that an error without any has an empty `__dict__`.
        if key is not None:
            self.key = key
        if path is not None:
            self.path = os.fspath(path)
        if object_name is not None:
            self.object_name = object_name
        if operation is not None:
            self.operation = operation


class RemoteError(Error, HTTPError):
    """The base of errors of a remote: it can't be reached, it refuses, or it holds something unexpected."""

    kind = "remote"


class ReadOnlyError(Error, ValueError):
    """A write to a session, file or remote that is open for reading only."""

    kind = "read_only"


class UUIDMismatchError(Error, ValueError):
    """The local file and the remote hold two different databases."""

    kind = "uuid_mismatch"


class RemoteMissingError(RemoteError, ValueError):
    """There is no database at that address."""

    kind = "remote_missing"


class UnsupportedFormatError(Error, ValueError):
    """A file or object is of another kind, or was written by a newer version."""

    kind = "unsupported_format"


class PartialCopyError(Error, ValueError):
    """A file that ebooklet used lacks keys of its remote, and `accept_partial` was not given."""

    kind = "partial_copy"


class InvalidKeyError(Error, ValueError, TypeError):
    """A key is not a non-empty str of at most 65,535 UTF-8 bytes."""

    kind = "invalid_key"


class InvalidValueError(Error, ValueError, TypeError):
    """The serializer can't encode a value, or the encoded value is larger than 4 GiB - 1."""

    kind = "invalid_value"


class MissingPackageError(Error, ImportError):
    """A serializer uses a package that is not installed."""

    kind = "missing_package"


class UnsupportedPlatformError(Error, ImportError):
    """The system is not POSIX, so it lacks the file locks that a database needs."""

    kind = "unsupported_platform"


class InvalidArgumentError(Error, ValueError, TypeError):
    """A flag, serializer, connection or option is unknown, out of range or of the wrong type."""

    kind = "invalid_argument"


class InvalidTypeError(InvalidArgumentError, TypeError):
    """An argument is of the wrong type."""

    kind = "invalid_type"


class WorkerError(Error, RuntimeError):
    """A worker process of `map` died, could not load its function, or could not send its error back."""

    kind = "worker"


class GroupSetError(Error, NotImplementedError):
    """An entry of a group was assigned; only `add` makes entries, from databases that exist."""

    kind = "group_set"


class SessionClosedError(Error, ValueError):
    """The session is closed, or belongs to the parent of this forked process."""

    kind = "session_closed"


class LocalMissingError(Error, FileNotFoundError):
    """The local file does not exist, and the flag does not allow making it."""

    kind = "local_missing"


class LocalIntegrityError(Error):
    """A local value is damaged, and there is no sound copy to replace it."""

    kind = "local_damaged"


class LocalStorageError(Error, OSError):
    """The local disk refuses: it is full or read-only, or permission is missing. The last commit is intact."""

    kind = "local_storage"


class LetGoError(LocalStorageError):
    """The local file or its journal was closed while it was used; a user meets it as `SessionClosedError`."""

    kind = "let_go"


class JournalUnusableError(LocalStorageError):
    """The journal is a sound SQLite database that this version can't use. It was left as it is."""

    kind = "journal_unusable"


class JournalDamagedError(LocalIntegrityError):
    """The journal is not a sound SQLite database of this package."""

    kind = "journal_damaged"


class LostCommitsError(JournalDamagedError):
    """The journal is sound but lacks acknowledged commits: its write-ahead log is damaged or missing."""

    kind = "lost_commits"


class RemoteIntegrityError(RemoteError):
    """An object in the remote is truncated, altered, or not the one that the root names."""

    kind = "remote_damaged"


class RemoteAccessError(RemoteError, PermissionError):
    """The store refuses: no permission, wrong credentials, or no such bucket or folder."""

    kind = "access_refused"


class OfflineError(RemoteError, ConnectionError):
    """The remote can't be reached, or keeps failing. Local work is kept."""

    kind = "offline"


class ContentionError(OfflineError):
    """Commits of other writers came first at every attempt. Every operation is still pending; push again.

    An import from ebooklet raises it where ebooklet pushed to what was being read; run it again.
    """

    kind = "contention"


class LockTimeoutError(Error, TimeoutError):
    """Another process held the lock for longer than `lock_timeout`."""

    kind = "lock_timeout"


class LockHeldError(LockTimeoutError):
    """A lock can't be broken, because its holder may still be running."""

    kind = "lock_held"


class LockLostError(Error):
    """Another writer took over the lock. Every change is still pending."""

    kind = "lock_lost"


class GroupTooLargeError(Error, ValueError):
    """Never raised; kept for programs written for ebooklet. Here no pack is too large to be written."""

    kind = "group_too_large"


class PushInProgressError(Error):
    """Never raised; kept for programs written for ebooklet. Here pushes of one session wait for each other."""

    kind = "push_in_progress"


class ConcurrentCompactionError(Error):
    """Never raised; kept for programs written for ebooklet. Here a compaction is a commit like any other."""

    kind = "concurrent_compaction"


class WeakStoreWarning(UserWarning):
    """The store's conditional writes don't work, so weaker means keep writers apart."""


class PickleRefusedError(Error, ValueError):
    """The values of a database are pickled, and pickle is not allowed. Nothing was unpickled."""

    kind = "pickle_refused"


class PickleWarning(UserWarning):
    """Values that another user may have pickled are about to be unpickled, which runs code in them."""


class OfflineWarning(UserWarning):
    """The remote can't be reached, so a database was opened with what is on this machine."""


class NotPushedWarning(UserWarning):
    """A snapshot was made of the remote's commit while changes are pending, which are not in it."""


class ObjectMissingError(RemoteError):
    """The store has no object of that name. This is an answer, so it is never retried."""

    kind = "object_missing"


class PreconditionFailedError(RemoteError):
    """The object is not in the state that the condition named. This is an answer, so it is never retried."""

    kind = "precondition_failed"


class ConditionUnsupportedError(RemoteError):
    """The store has no conditional writes (501)."""

    kind = "condition_unsupported"


class TransientStoreError(RemoteError):
    """A request failed in a way that a later one may not: time-out, 429, 5xx, broken connection.

    Attributes:
        may_have_applied: True when a write may have taken effect although no answer arrived.
        retry_after_seconds: How long the store asked to wait, or None.
    """

    kind = "transient"

    def __init__(
        self,
        *args: object,
        may_have_applied: bool = True,
        retry_after_seconds: float | None = None,
        object_name: str | None = None,
        operation: str | None = None,
    ) -> None:
        super().__init__(*args, object_name=object_name, operation=operation)
        self.may_have_applied = may_have_applied
        self.retry_after_seconds = retry_after_seconds


class UnreachableStoreError(TransientStoreError):
    """No connection to the store: refused, no route, unknown host name, or no answer to a connect."""

    kind = "unreachable"


class ObjectTooLargeError(RemoteIntegrityError):
    """An object is longer than this package ever writes under its name; it was not read.

    Attributes:
        etag: The object's ETag.
        start: Its first bytes.
    """

    kind = "object_too_large"

    def __init__(
        self,
        *args: object,
        etag: str = "",
        start: bytes = b"",
        object_name: str | None = None,
        operation: str | None = None,
    ) -> None:
        super().__init__(*args, object_name=object_name, operation=operation)
        self.etag = etag
        self.start = start


class NotFoundInRangeError(RemoteIntegrityError):
    """A ranged read asked for bytes that the object does not have."""

    kind = "range_missing"
