"""A crash-safe key-value file that syncs through S3.

Names are loaded when they are first used, so that the import costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    import fcntl as _fcntl  # noqa: F401
except ImportError as _error:
    from ebooklet_tx.errors import UnsupportedPlatformError

    raise UnsupportedPlatformError(
        "ebooklet_tx needs POSIX file locks (the module fcntl), which this system lacks: use Linux or macOS; on "
        "Windows, the Windows Subsystem for Linux"
    ) from _error

if TYPE_CHECKING:
    from ebooklet_tx.changes import Change
    from ebooklet_tx.connection import DirectoryConnection, HTTPConnection, RemoteConn, S3Connection, connect
    from ebooklet_tx.database import Database
    from ebooklet_tx.database import Database as EVariableLengthValue
    from ebooklet_tx.database.forking import Fork, Part
    from ebooklet_tx.database.remote_reader import RemoteReader
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
        NotPushedWarning,
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
    from ebooklet_tx.importing import ImportReport, import_ebooklet
    from ebooklet_tx.maintenance.check_reports import CollectReport, CompactReport, FsckReport, VerifyReport
    from ebooklet_tx.maintenance.checking import collect, fsck, verify
    from ebooklet_tx.maintenance.copy import CopyReport
    from ebooklet_tx.maintenance.erase import EraseReport
    from ebooklet_tx.maintenance.repair import recover
    from ebooklet_tx.maintenance.reports import RecoverReport, Status
    from ebooklet_tx.maintenance.snapshots.kept import Snapshot
    from ebooklet_tx.maintenance.snapshots.restore import RestoreResult
    from ebooklet_tx.maintenance.status import status
    from ebooklet_tx.maintenance.unlock import unlock
    from ebooklet_tx.opening import open
    from ebooklet_tx.progress import Progress
    from ebooklet_tx.records import CommitRecord, KeyChange
    from ebooklet_tx.remote_session import RemoteSession
    from ebooklet_tx.stores.retry import RetryPolicy
    from ebooklet_tx.sync.commit.push import PushResult
    from ebooklet_tx.sync.forks.claims import MergeConflictError
    from ebooklet_tx.sync.forks.merge import MergeResult
    from ebooklet_tx.sync.forks.receipt import Receipt
    from ebooklet_tx.sync.pull.conflicts import MISSING, Conflict, ConflictError, Version
    from ebooklet_tx.sync.pull.pull import PullResult

__version__ = "0.1.0"

_HOMES = {
    "ebooklet_tx.changes": ("Change",),
    "ebooklet_tx.connection": (
        "DirectoryConnection",
        "HTTPConnection",
        "RemoteConn",
        "S3Connection",
        "connect",
    ),
    "ebooklet_tx.database": (
        "Database",
        "EVariableLengthValue",
    ),
    "ebooklet_tx.database.forking": ("Fork", "Part"),
    "ebooklet_tx.database.remote_reader": ("RemoteReader",),
    "ebooklet_tx.ebooklet_names": (
        "DEFAULT_GROUP_BYTES",
        "open_ebooklet",
        "open_rcg",
    ),
    "ebooklet_tx.group": ("RemoteConnGroup",),
    "ebooklet_tx.importing": (
        "ImportReport",
        "import_ebooklet",
    ),
    "ebooklet_tx.maintenance.check_reports": (
        "CollectReport",
        "CompactReport",
        "FsckReport",
        "VerifyReport",
    ),
    "ebooklet_tx.maintenance.checking": (
        "collect",
        "fsck",
        "verify",
    ),
    "ebooklet_tx.maintenance.copy": ("CopyReport",),
    "ebooklet_tx.maintenance.erase": ("EraseReport",),
    "ebooklet_tx.maintenance.repair": ("recover",),
    "ebooklet_tx.maintenance.reports": (
        "RecoverReport",
        "Status",
    ),
    "ebooklet_tx.maintenance.snapshots.kept": ("Snapshot",),
    "ebooklet_tx.maintenance.snapshots.restore": ("RestoreResult",),
    "ebooklet_tx.maintenance.status": ("status",),
    "ebooklet_tx.maintenance.unlock": ("unlock",),
    "ebooklet_tx.opening": ("open",),
    "ebooklet_tx.progress": ("Progress",),
    "ebooklet_tx.records": ("CommitRecord", "KeyChange"),
    "ebooklet_tx.remote_session": ("RemoteSession",),
    "ebooklet_tx.stores.retry": ("RetryPolicy",),
    "ebooklet_tx.sync.commit.push": ("PushResult",),
    "ebooklet_tx.sync.forks.claims": ("MergeConflictError",),
    "ebooklet_tx.sync.forks.merge": ("MergeResult",),
    "ebooklet_tx.sync.forks.receipt": ("Receipt",),
    "ebooklet_tx.sync.pull.conflicts": (
        "Conflict",
        "ConflictError",
        "MISSING",
        "Version",
    ),
    "ebooklet_tx.sync.pull.pull": ("PullResult",),
}
"""The modules that have the public names; `ebooklet_tx.errors` has all others."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = ("errors", "remote", "testing")
"""What programs use as attributes of the package besides."""

_OWN_NAMES = {"EVariableLengthValue": "Database"}
"""The name under which programs written for ebooklet know a database."""

__all__ = [
    "open",
    "open_ebooklet",
    "open_rcg",
    "connect",
    "import_ebooklet",
    "ImportReport",
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
    "RemoteReader",
    "RemoteConnGroup",
    "RemoteSession",
    "Change",
    "Fork",
    "Part",
    "Receipt",
    "MergeResult",
    "MergeConflictError",
    "S3Connection",
    "DirectoryConnection",
    "HTTPConnection",
    "RemoteConn",
    "RetryPolicy",
    "Progress",
    "PushResult",
    "PullResult",
    "CommitRecord",
    "Snapshot",
    "RestoreResult",
    "KeyChange",
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
    "NotPushedWarning",
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


if not TYPE_CHECKING:
    # Hidden from type checkers, which would take every other name for one of these.

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"ebooklet_tx.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'ebooklet_tx' has no attribute {name!r}")
        home = importlib.import_module(_HOME_OF.get(name, "ebooklet_tx.errors"))
        value = globals()[name] = getattr(home, _OWN_NAMES.get(name, name))
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
