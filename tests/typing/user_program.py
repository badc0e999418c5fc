"""A program as a user writes it: the whole public interface, checked by mypy --strict and run by a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import ebooklet_tx
from ebooklet_tx import testing


class Upper:
    """A value serializer of the user's own."""

    @staticmethod
    def dumps(value: str) -> bytes:
        return value.upper().encode()

    @staticmethod
    def loads(encoded: bytes) -> str:
        return encoded.decode()


def longer(key: str, value: str) -> tuple[str, int]:
    return key, len(value)


def merge(conflict: ebooklet_tx.Conflict) -> Any:
    ours: ebooklet_tx.Version = conflict.ours_version
    if conflict.theirs is ebooklet_tx.MISSING or ours.timestamp_us is None:
        return conflict.ours
    return conflict.base if conflict.key == "never" else conflict.ours + conflict.theirs


def places(folder: Path) -> Iterator[ebooklet_tx.DirectoryConnection]:
    for name in ("first", "second", "third"):
        yield ebooklet_tx.DirectoryConnection(folder / "remote", name)


def never_opened() -> list[object]:
    s3 = ebooklet_tx.S3Connection(
        "id", "secret", "key", "bucket", endpoint_url="http://127.0.0.1:9", db_url="http://127.0.0.1:9/bucket/key"
    )
    http = ebooklet_tx.HTTPConnection("http://127.0.0.1:9/bucket/key")
    place: dict[str, str | None] = s3.to_dict()
    connected = ebooklet_tx.connect("s3://bucket/key?endpoint_url=http://127.0.0.1:9")
    moving: Callable[..., ebooklet_tx.ImportReport] = ebooklet_tx.import_ebooklet
    return [s3, http, place, connected, moving, ebooklet_tx.DEFAULT_GROUP_BYTES]


def mapping(db: ebooklet_tx.Database) -> None:
    db["a"] = "one"
    db.set("b", "two", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
    db.set("raw", b"THREE", timestamp="2026-01-01T00:00:00+00:00", encode_value=False)
    db.update({"c": "three"}, d="four")
    del db["d"]
    value: Any = db.get("a", None)
    count: int = len(db)
    keys: list[str] = [*db.keys(prefix="a"), *db]
    pairs: list[tuple[str, Any]] = list(db.items())
    values: list[Any] = list(db.values())
    got: dict[str, Any] = dict(db.get_items(["a", "z"], default=None))
    failures: dict[str, str] = db.load_items(["a"])
    stamp: Any = db.get_timestamp("a")
    db.set_timestamp("a", 1_700_000_000_000_000)
    stamps = [(key, stamp) for key, stamp in db.timestamps()]
    newest = {key: value for key, _, value in db.timestamps(include_value=True)}
    lengths: dict[Any, Any] = dict(db.map(longer, keys=["a"], n_workers=1))
    db.set_metadata({"owner": "me"})
    metadata: Any = db.get_metadata(include_timestamp=True)
    with db.transaction() as inside:
        inside["e"] = inside.pop("c")
    db.setdefault("f", "six")
    db.sync()
    dropped: int = db.prune(timestamp=None)
    print(value, count, keys, pairs, values, got, failures, stamp, stamps, newest, lengths, metadata, dropped)
    print(db.writable, db.closed, db.offline, db.lock is None, db.uuid)


def syncing(db: ebooklet_tx.Database) -> None:
    changes: ebooklet_tx.Change = db.changes()
    changes.update()
    for change in changes.iter_changes():
        key: str = change["key"]
        local: datetime = change["local_timestamp"]
        print(key, local)
    deletes: frozenset[str] = changes.pending_deletes
    pushed: ebooklet_tx.PushResult = changes.push(on_conflict="newest")
    pulled: ebooklet_tx.PullResult = changes.pull()
    again: ebooklet_tx.PushResult = changes.push(force_push=False, on_conflict=merge, message="again")
    commits: list[ebooklet_tx.CommitRecord] = db.history(3)
    kept: ebooklet_tx.Snapshot = db.snapshot("kept", message="before the cleanup")
    restored: ebooklet_tx.RestoreResult = db.restore("kept")
    print(kept.seq, [each.name for each in db.snapshots()], restored.conflicts)
    changed: list[ebooklet_tx.KeyChange] = list(db.diff("kept", 1))
    print(changed, [change.kind for change in db.diff()])
    db.delete_snapshot("kept")
    print(deletes, bool(pushed), pushed.failures, pulled.seq, again.updated, [each.message for each in commits])
    db["gone"] = "x"
    dropped: int = changes.discard(["gone"])
    conflicts: list[ebooklet_tx.Conflict] = changes.conflicts()
    settled: int = changes.resolve({conflict.key: "ours" for conflict in conflicts})
    print(dropped, settled)


def forking(db: ebooklet_tx.Database) -> None:
    fork: ebooklet_tx.Fork = db.fork(ttl_seconds=60)
    part: ebooklet_tx.Part = fork.open(value_serializer=Upper, worker="one")
    with part as here:
        here["forked"] = "y"
        found: str = here["forked"]
    receipt: ebooklet_tx.Receipt = part.receipt
    with ThreadPoolExecutor(1) as pool:
        pairs: list[tuple[Any, Any]] = list(db.map(longer, executor=pool))
        receipts: list[ebooklet_tx.Receipt] = list(db.map(longer, [], executor=pool, into=fork))
    print(pairs, receipts)
    try:
        merged: ebooklet_tx.MergeResult = db.merge(receipt, on_conflict=merge)
    except ebooklet_tx.MergeConflictError as error:
        print(error.workers)
        raise
    print(found, merged.set_count, db.changes().discard(["forked"]))


def without_a_file(place: ebooklet_tx.DirectoryConnection) -> None:
    reader: ebooklet_tx.RemoteReader = ebooklet_tx.open(place, None, value_serializer=Upper)
    with reader as here:
        print(
            dict(here), here.seq, here.pull(), list(here.timestamps()), here.history(1), here.writable, here.uuid
        )


def errors(folder: Path) -> None:
    try:
        ebooklet_tx.open(f"file://{folder}/nothing/there", folder / "nothing.blt")
    except (
        ebooklet_tx.InvalidArgumentError,
        ebooklet_tx.InvalidKeyError,
        ebooklet_tx.InvalidTypeError,
        ebooklet_tx.InvalidValueError,
        ebooklet_tx.MissingPackageError,
        ebooklet_tx.JournalDamagedError,
        ebooklet_tx.LocalIntegrityError,
        ebooklet_tx.LocalMissingError,
        ebooklet_tx.LocalStorageError,
        ebooklet_tx.LockLostError,
        ebooklet_tx.LockTimeoutError,
        ebooklet_tx.ConcurrentCompactionError,
        ebooklet_tx.ContentionError,
        ebooklet_tx.GroupSetError,
        ebooklet_tx.GroupTooLargeError,
        ebooklet_tx.LockHeldError,
        ebooklet_tx.PartialCopyError,
        ebooklet_tx.PushInProgressError,
        ebooklet_tx.OfflineError,
        ebooklet_tx.PickleRefusedError,
        ebooklet_tx.ReadOnlyError,
        ebooklet_tx.RemoteAccessError,
        ebooklet_tx.RemoteIntegrityError,
        ebooklet_tx.SessionClosedError,
        ebooklet_tx.UnsupportedFormatError,
        ebooklet_tx.UUIDMismatchError,
        ebooklet_tx.WorkerError,
    ) as error:
        raise SystemExit(f"not this one: {error}") from error
    except ebooklet_tx.RemoteMissingError as error:
        family: ebooklet_tx.Error = error
        also: ValueError = error
        remote: ebooklet_tx.RemoteError = error
        fields: tuple[str, str | None, str | None, str | None] = (
            error.kind,
            error.key,
            error.path,
            error.object_name,
        )
        print(family, also, remote, fields)
    warned: list[type[UserWarning]] = [
        ebooklet_tx.OfflineWarning,
        ebooklet_tx.PickleWarning,
        ebooklet_tx.WeakStoreWarning,
        ebooklet_tx.NotPushedWarning,
    ]
    print(ebooklet_tx.ConflictError.__mro__, warned)


def remotes(folder: Path, first: ebooklet_tx.DirectoryConnection) -> None:
    second, third = list(places(folder))[1:]
    with ebooklet_tx.open(first, folder / "first.blt", "w", Upper) as db:
        copied: ebooklet_tx.CopyReport = db.copy_remote(second)
    print(copied.key_count)
    with second.open("w") as remote:
        session: ebooklet_tx.RemoteSession = remote
        uuid: UUID | None = session.get_uuid()
        print(uuid, session.get_type(), session.get_timestamp(), session.get_user_metadata(), bool(session))
    place: ebooklet_tx.RemoteConn = third.to_dict()
    with ebooklet_tx.open(place, folder / "group.blt", "c", remote_conn_group=True) as made:
        by_keyword: ebooklet_tx.RemoteConnGroup = made
        print(by_keyword.writable)
    with ebooklet_tx.open(third, folder / "group.blt", "r", None, 12007, 2**22, True) as made:
        by_position: ebooklet_tx.RemoteConnGroup = made
        print(by_position.writable)
    with ebooklet_tx.open_rcg(third, folder / "group.blt", "c") as group:
        members: ebooklet_tx.RemoteConnGroup = group
        members.add(second, key="copy", user_meta={"version": 1})
        members.changes().push()
        entry: dict[str, Any] = members["copy"]
    with ebooklet_tx.open_ebooklet(entry, folder / "copy.blt", value_serializer=Upper) as copy:
        named: ebooklet_tx.EVariableLengthValue = copy
        print(dict(named))
    with ebooklet_tx.open(second, folder / "copy.blt", "w", Upper) as db:
        erased: ebooklet_tx.EraseReport = db.delete_remote()
    print(erased.deleted_objects)


def in_tests(folder: Path) -> None:
    faults = [testing.Fault(at=1, kind="get")]

    def wrap(inner: testing.ObjectStore) -> testing.FaultyStore:
        return testing.FaultyStore(inner, faults)

    with testing.without_backoff(3), testing.wrapped_stores(wrap) as made:
        db = ebooklet_tx.open("memory://typed", folder / "memory.blt", "c", Upper)
    made[0].error = None
    db["a"] = "one"
    db.close()
    with testing.wrapped_stores(testing.CountingStore) as stores:
        place: testing.MemoryConnection = testing.MemoryConnection("typed")
        with ebooklet_tx.open(place, folder / "memory.blt", "w", Upper) as db:
            db.changes().push()
    total: int = stores[0].total
    print(total, stores[0].requests["put"], stores[0].log, [fault.error for fault in faults])
    testing.clear("typed")


def care(folder: Path, first: ebooklet_tx.DirectoryConnection) -> None:
    found: ebooklet_tx.Status = ebooklet_tx.status(folder / "first.blt")
    repaired: ebooklet_tx.RecoverReport = ebooklet_tx.recover(folder / "first.blt", dry_run=True)
    holder: str | None = ebooklet_tx.unlock(folder / "first.blt")
    print(found, repaired, holder)
    checked: ebooklet_tx.VerifyReport = ebooklet_tx.verify(first, read_values=True)
    freed: ebooklet_tx.CollectReport = ebooklet_tx.collect(first, grace_seconds=0, dry_run=True)
    fscked: ebooklet_tx.FsckReport = ebooklet_tx.fsck(first, check_objects=True)
    print(checked, freed, fscked.claimed_but_missing)


def main(folder: Path) -> None:
    first = next(places(folder))
    policy = ebooklet_tx.RetryPolicy(attempts=2)
    told: list[ebooklet_tx.Progress] = []
    with ebooklet_tx.open(
        first, folder / "first.blt", "c", Upper, lock="exclusive", retry=policy, progress=told.append
    ) as db:
        mapping(db)
        syncing(db)
        forking(db)
    with ebooklet_tx.open(
        first, folder / "first.blt", offline="auto", allow_pickle=False, value_serializer=Upper
    ) as db:
        print(dict(db))
    with ebooklet_tx.open(first, folder / "first.blt", "w", Upper) as db:
        compacted: ebooklet_tx.CompactReport = db.compact(live_share=0.5)
        print(compacted)
    without_a_file(first)
    errors(folder)
    remotes(folder, first)
    care(folder, first)
    in_tests(folder)
    print(never_opened())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
