"""A crash-safe key-value file that syncs through S3.

Owns no state: the public names, and nothing else.
"""

from ebooklet_tx.changes import Change
from ebooklet_tx.connection import DirectoryConnection, HTTPConnection, RemoteConn, S3Connection, connect
from ebooklet_tx.database import Database
from ebooklet_tx.ebooklet_names import DEFAULT_GROUP_BYTES, open_ebooklet, open_rcg
from ebooklet_tx.errors import (
    ConcurrentCompactionError,
    ContentionError,
    Error,
    GroupSetError,
    GroupTooLargeError,
    InvalidArgumentError,
    InvalidKeyError,
    InvalidTypeError,
    InvalidValueError,
    JournalDamagedError,
    LocalIntegrityError,
    LocalMissingError,
    LocalStorageError,
    LockHeldError,
    LockLostError,
    LockTimeoutError,
    MissingPackageError,
    OfflineError,
    OfflineWarning,
    PartialCopyError,
    PickleRefusedError,
    PickleWarning,
    PushInProgressError,
    ReadOnlyError,
    RemoteAccessError,
    RemoteError,
    RemoteIntegrityError,
    RemoteMissingError,
    SessionClosedError,
    UnsupportedFormatError,
    UUIDMismatchError,
    WeakStoreWarning,
    WorkerError,
)
from ebooklet_tx.group import RemoteConnGroup
from ebooklet_tx.maintenance.check_reports import CollectReport, CompactReport, FsckReport, VerifyReport
from ebooklet_tx.maintenance.checking import collect, fsck, verify
from ebooklet_tx.maintenance.copy import CopyReport
from ebooklet_tx.maintenance.erase import EraseReport
from ebooklet_tx.maintenance.repair import recover, status
from ebooklet_tx.maintenance.reports import RecoverReport, Status
from ebooklet_tx.maintenance.unlock import unlock
from ebooklet_tx.opening import open
from ebooklet_tx.remote_session import RemoteSession
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.push import PushResult
from ebooklet_tx.sync.pull.conflicts import MISSING, Conflict, ConflictError, Version
from ebooklet_tx.sync.pull.pull import PullResult

EVariableLengthValue = Database
"""The name under which programs written for ebooklet know a database."""

__version__ = "0.1.0"

__all__ = [
    "open",
    "open_ebooklet",
    "open_rcg",
    "connect",
    "unlock",
    "collect",
    "fsck",
    "verify",
    "CollectReport",
    "CompactReport",
    "FsckReport",
    "VerifyReport",
    "Database",
    "EVariableLengthValue",
    "RemoteConnGroup",
    "RemoteSession",
    "Change",
    "S3Connection",
    "DirectoryConnection",
    "HTTPConnection",
    "RemoteConn",
    "RetryPolicy",
    "PushResult",
    "PullResult",
    "CopyReport",
    "EraseReport",
    "recover",
    "RecoverReport",
    "status",
    "Status",
    "Conflict",
    "Version",
    "ConflictError",
    "MISSING",
    "DEFAULT_GROUP_BYTES",
    "Error",
    "GroupSetError",
    "GroupTooLargeError",
    "PushInProgressError",
    "ConcurrentCompactionError",
    "ContentionError",
    "InvalidArgumentError",
    "InvalidTypeError",
    "InvalidKeyError",
    "InvalidValueError",
    "MissingPackageError",
    "JournalDamagedError",
    "LocalIntegrityError",
    "LocalMissingError",
    "LocalStorageError",
    "LockHeldError",
    "LockLostError",
    "LockTimeoutError",
    "OfflineError",
    "OfflineWarning",
    "PartialCopyError",
    "PickleRefusedError",
    "PickleWarning",
    "ReadOnlyError",
    "RemoteError",
    "RemoteAccessError",
    "RemoteIntegrityError",
    "RemoteMissingError",
    "SessionClosedError",
    "UnsupportedFormatError",
    "UUIDMismatchError",
    "WeakStoreWarning",
    "WorkerError",
]
