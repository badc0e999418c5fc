"""Collect: deleting the objects that no root names any more, once no reader or writer can depend on them.

Owns the object `D.d/garbage`, the note of a collect. The invariant: nothing is deleted that the root or a
snapshot names, and nothing else before it has been garbage for the whole grace period.

Who may depend on an object that no root names, and why the grace protects them:

- A reader whose base is an older root. An object that was written long ago may have become garbage a
  moment ago, so its own age says nothing here. It has been garbage at least since the present root was
  written, which a HEAD tells; where the root is young, the note of an earlier collect tells since when the
  object was seen to be garbage. Without either it is kept, and noted.
- A push that has sent packs and not yet committed. Its own age counts: a push does not name a pack that was
  sent more than `packing.REUSED_FOR_SECONDS` ago, it copies it to a new name first. So between the last
  moment in which a pack is taken for the commit and the moment in which it may be collected lie 18 hours.
  The lock alone could not do this: writers without a lock don't wait for it.

Both are told by the store's own clock: times of modification, compared with that of the note, which is
written after the root was read. This machine's clock plays no part, but in a dry run, which writes nothing.

What a snapshot named was no garbage while it was there. So a deletion of a snapshot writes an object of its own
(`D.d/released`) first, and nothing counts as garbage since before that was written, but for what a note says.

A fork protects its objects, and those of the commit that it was made on, until it expires; what it protected was
no garbage before that. So a coordinator may write a fork's object anew, and push what was merged from it, until
an hour before the grace is over (`forks.protection`).

Before anything is deleted snapshots and forks are listed once more, and then the root is read once more: what a
new snapshot or fork names is kept, and what a root names that was put back meanwhile, or a commit under a grace
too short for the above. A snapshot that is made beside a collect is safe: it is a copy of a root that was still
the root after the copy was put (`snapshots.kept`). If the collect's second listing does not have it, it was put
later, so that its root was the root at that time or after it; and what that root names the collect does not
call garbage, or another writer has sent it within the grace.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ObjectMissingError,
    ObjectTooLargeError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.limits import MAX_NOTE_BYTES, MAX_NOTED_NAMES
from ebooklet_tx.maintenance.check_reports import CollectReport, Tally
from ebooklet_tx.maintenance.inventory import (
    GARBAGE_NOTE,
    Inventory,
    list_forks,
    list_snapshots,
    named_by_snapshot,
    objects_named,
    own_name,
    read_forks,
    take_inventory,
)
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.commit.writer_locks import WriterLock
from ebooklet_tx.sync.forks.forks_there import ForkThere
from ebooklet_tx.sync.locking import new_lock
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import read_root
from ebooklet_tx.timestamps import now_us

GRACE_SECONDS = 24 * 3600.0
MAX_GRACE_SECONDS = 1e9
DELETES_AT_ONCE = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted and what it kept for now."""

    deleted: list[StoredObject]
    young: list[StoredObject]


def collect(
    remote: Remote,
    *,
    grace_seconds: float = GRACE_SECONDS,
    dry_run: bool = False,
    locked: bool = True,
    lock_timeout_seconds: float = 60.0,
) -> CollectReport:
    """Deletes what neither root, snapshot nor live fork names and has been garbage for the grace period.

    Can be killed anywhere and run again, and run beside readers and writers. Parts of uploads that were
    begun and never ended are not seen: a store's own rule for those (AbortIncompleteMultipartUpload) is.

    Args:
        remote: The remote.
        grace_seconds: For how long garbage is kept. Under 12 hours only while nobody pushes.
        dry_run: Only tell; neither lock nor note is written, and ages are told by this machine's clock.
        locked: Whether the remote's lock is held meanwhile.
        lock_timeout_seconds: How long to wait for it.

    Raises:
        RemoteMissingError: There is no root; without one everything would be garbage.
        RemoteIntegrityError: Root, snapshot or index is damaged; nothing was deleted.
        LockTimeoutError: Another writer kept the lock.
        LockLostError: Another writer took the lock over; what was deleted was garbage.
        OfflineError: The store keeps failing; run it again.
    """
    if not 0 <= grace_seconds <= MAX_GRACE_SECONDS:
        raise InvalidArgumentError(
            f"grace_seconds must be a number from 0 to {MAX_GRACE_SECONDS:g}, not {grace_seconds!r}"
        )
    wanted = locked and not dry_run
    with held_lock(remote, lock_timeout_seconds, wanted=wanted) as lock, take_inventory(remote) as found:
        if found.fetched is None:
            raise RemoteMissingError(
                f"there is no database {remote.root_place}, so nothing there is known to be garbage; check the "
                "place. What a deleted database left behind, delete_remote() deletes"
            )
        swept = sweep(remote, found, timedelta(seconds=grace_seconds), lock=lock, dry_run=dry_run)
        return CollectReport(
            remote=remote.root_place,
            dry_run=dry_run,
            seq=found.fetched.manifest.seq,
            grace_seconds=grace_seconds,
            live=_tally(found.live()),
            young=_tally(swept.young),
            deleted=_tally(swept.deleted),
            strange=_tally(found.listing.strange),
            deleted_names=_keys(swept.deleted),
            young_names=_keys(swept.young),
            strange_names=_keys(found.listing.strange),
        )


@contextmanager
def held_lock(remote: Remote, timeout_seconds: float, *, wanted: bool) -> Iterator[WriterLock | None]:
    """Holds the remote's lock, if it is wanted."""
    if not wanted:
        yield None
        return
    with new_lock(remote).holding(timeout_seconds) as lock:
        yield lock


def sweep(
    remote: Remote, found: Inventory, grace: timedelta, *, lock: WriterLock | None = None, dry_run: bool = False
) -> Swept:
    """Deletes what is dead, and has been so for the grace period.

    Raises:
        RemoteIntegrityError: A part of an index can't be read; nothing was deleted.
    """
    if found.forks:
        # They expire by the store's time, which the note's own tells.
        found.now = _by_this_clock() if dry_run else _write_note(remote, _known(remote, found))
    dead = found.dead()
    if not dead:
        if (found.listing.note is not None or found.forks) and not dry_run:
            remote.store.delete(remote.names.object(GARBAGE_NOTE))
        return Swept([], [])
    since = dead_since(dead, _known(remote, found), found.root_modified, found.expiries())
    now = _by_this_clock() if dry_run else _note(remote, dead, since)
    old = [name for name, there in dead.items() if is_old(there, since.get(name), now, grace)]
    if old and not dry_run:
        named = _named_since(remote, found)
        old = [name for name in old if name not in named]
        _delete(remote, {name: dead[name].size_bytes for name in old}, lock)
    gone = set(old)
    return Swept(
        [there for name, there in dead.items() if name in gone],
        [there for name, there in dead.items() if name not in gone],
    )


def is_old(there: StoredObject, since: datetime | None, now: datetime | None, grace: timedelta) -> bool:
    """Whether an object was written, and has been dead, for the grace period; not where that can't be told."""
    if there.last_modified is None or since is None or now is None:
        return False
    # In whole seconds: a listing may tell parts of one where a HEAD can't.
    return max(there.last_modified, since).replace(microsecond=0) + grace <= now


def dead_since(
    dead: Iterable[str], known: Mapping[str, datetime], root: datetime | None, expired: Mapping[str, datetime]
) -> dict[str, datetime]:
    """Returns moments since when objects are known to have been dead.

    Args:
        dead: Their names.
        known: Since when earlier collects have seen them so.
        root: When the root was written.
        expired: What expired forks protected, and until when.
    """
    if root is None:
        since = {name: known[name] for name in dead if name in known}
    else:
        since = {name: min(known.get(name, root), root) for name in dead}
    # What a fork protected was not dead before it expired.
    return {name: max(moment, expired.get(name, moment)) for name, moment in since.items()}


def _known(remote: Remote, found: Inventory) -> dict[str, datetime]:
    return _read_note(remote) if found.listing.note is not None else {}


def _by_this_clock() -> datetime:
    return _EPOCH + timedelta(microseconds=now_us())


def _note(remote: Remote, dead: Iterable[str], since: dict[str, datetime]) -> datetime | None:
    """Notes since when objects have been dead; returns the store's time, None where it does not tell.

    What is not known to have been dead before is, by this moment's time, from now on.
    """
    now = _write_note(remote, since)
    if now is not None and any(name not in since for name in dead):
        for name in dead:
            since.setdefault(name, now)
        _write_note(remote, since)
    return now


def _write_note(remote: Remote, since: dict[str, datetime]) -> datetime | None:
    # What finds no room is noted by a later collect, when the oldest are gone.
    oldest = sorted(since, key=lambda name: since[name])[:MAX_NOTED_NAMES]
    times = {name: (since[name] - _EPOCH) // timedelta(microseconds=1) for name in oldest}
    key = remote.names.object(GARBAGE_NOTE)
    remote.store.put(key, json.dumps({"format": 1, "dead_since_us": times}, sort_keys=True).encode())
    try:
        return remote.store.head(key).last_modified
    except ObjectMissingError:
        # Another collect found nothing dead.
        return None


def _read_note(remote: Remote) -> dict[str, datetime]:
    """Returns what an earlier collect noted; nothing where its note can't be read."""
    key = remote.names.object(GARBAGE_NOTE)
    try:
        blob = remote.store.get(key, max_bytes=MAX_NOTE_BYTES)
    except ObjectMissingError:
        return {}
    except ObjectTooLargeError as error:
        _log.warning("the note %s is written anew: %s", key, error)
        return {}
    try:
        times = json.loads(b"" if blob is None else blob.data)["dead_since_us"]
        return {
            name: _EPOCH + timedelta(microseconds=int(since_us))
            for name, since_us in times.items()
            if own_name(remote.names, remote.names.prefix + name) is not None
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        _log.warning("the note %s can't be read and is written anew: %s", key, error)
        return {}


def _named_since(remote: Remote, found: Inventory) -> set[str]:
    """Returns what snapshots name that are new since the inventory, and the root if it is another.

    Raises:
        RemoteIntegrityError: One is damaged.
        RemoteMissingError: There is no root any more.
    """
    named: set[str] = set()
    obstacles: list[Error] = []
    # Before the root: see above.
    for name, there in list_snapshots(remote).items():
        known = found.listing.own.get(name)
        if known is None or known.etag != there.etag:
            named |= named_by_snapshot(remote, name, obstacles) or set()
    forks = list_forks(remote)
    renewed = {name: one for name, one in forks.items() if _is_another(one, found.forks.get(name))}
    others = {name: one for name, one in found.listing.own.items() if name not in found.forks}
    for fork in read_forks(remote, others | renewed, found.fetched, found.claimed).values():
        named |= fork.names
        obstacles += [] if fork.obstacle is None else [fork.obstacle]
    for obstacle in obstacles:
        raise RemoteIntegrityError(
            f"a snapshot or fork that was made meanwhile can't be read: {obstacle}; nothing was deleted"
        ) from obstacle
    before = found.fetched
    try:
        fetched = read_root(remote, if_none_match=None if before is None else before.etag)
    except ObjectMissingError as error:
        if before is None:
            return named
        raise RemoteMissingError(f"the database {remote.root_place} was deleted meanwhile") from error
    return named if fetched is None else named | set(objects_named(remote, fetched.root))


def _is_another(one: StoredObject, known: ForkThere | None) -> bool:
    """Whether a fork was made, or written anew, since the inventory."""
    return known is None or (one.etag, one.last_modified) != (known.there.etag, known.there.last_modified)


def _delete(remote: Remote, sizes_bytes: Mapping[str, int], lock: WriterLock | None) -> None:
    names = list(sizes_bytes)

    def delete(name: str) -> int:
        remote.store.delete(remote.names.object(name))
        return sizes_bytes[name]

    with (
        remote.reporter.phase("delete", bytes_total=sum(sizes_bytes.values())) as phase,
        Workers(min(remote.threads, len(names)), phase) as workers,
    ):
        for start in range(0, len(names), DELETES_AT_ONCE):
            if lock is not None:
                lock.check()
            for byte_count in workers.map(delete, names[start : start + DELETES_AT_ONCE]):
                phase.advance(0, byte_count)


def _tally(objects: Iterable[StoredObject]) -> Tally:
    sizes = [found.size_bytes for found in objects]
    return Tally(len(sizes), sum(sizes))


def _keys(objects: Iterable[StoredObject]) -> tuple[str, ...]:
    return tuple(found.key for found in objects)
