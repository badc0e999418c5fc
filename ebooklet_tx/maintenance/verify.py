"""Verify: is what root and snapshots name there, whole, and what the index says?

Changes nothing, but for the garbage that `fsck` is told to delete. The invariant: what is
called damaged was found so under a root that was still the root afterwards; memory holds some rows and a few
ranges at a time, however large the database is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

from ebooklet_tx.errors import (
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.pack import INCOMPLETE_MARK
from ebooklet_tx.formats.root import ROOT_FORMAT_VERSION, Root
from ebooklet_tx.html_tables import counted
from ebooklet_tx.maintenance.check_reports import Damage, FsckReport, VerifyReport
from ebooklet_tx.maintenance.collect import held_lock, sweep
from ebooklet_tx.maintenance.inventory import SNAPSHOT, Inventory, list_objects, snapshots_in, take_inventory
from ebooklet_tx.maintenance.merged_root import LivePack, MergedRoot
from ebooklet_tx.maintenance.value_checks import check_values
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, fetch_snapshot, read_root

READERS = 8
SHOWN_KEYS = 20
LOOKS = 3
ROOT_KIND = "root"

CopyFinder = Callable[[str, bytes], "str | None"]
"""Tells for a key and a digest where on this machine a sound copy lies, None where there is none."""

_ELSEWHERE = (
    "On a machine whose local file has the values, `verify --values --repair PATH` writes them back; otherwise "
    "restore the object from the bucket's older versions or a backup, under the same key"
)
_INDEX_ELSEWHERE = (
    "On a machine that has written or read that part, `verify --repair PATH` writes it back; otherwise restore "
    "the object from the bucket's older versions or a backup, under the same key"
)

_SNAPSHOT_ELSEWHERE = (
    "Restore it from the bucket's older versions or a backup, under the same key, or delete the snapshot: while "
    "it can't be read, collect deletes nothing"
)

_ROOT_ELSEWHERE = (
    "Each machine that has pulled or pushed keeps the root as it knew it last: `recover --repair-remote PATH` or "
    "`verify --repair PATH` there writes it anew; choose the one that has heard of the newest commit"
)

WAYS_OUT = {
    ROOT_KIND: _ROOT_ELSEWHERE,
    "index": _INDEX_ELSEWHERE,
    "history": _INDEX_ELSEWHERE,
    "pack": _ELSEWHERE,
}
"""What to do about a damaged object where this machine can't mend it, by `Damage.kind`."""

# -- fsck --------------------------------------------------------------------------------------


def fsck(
    remote: Remote,
    *,
    delete_orphans: bool = False,
    min_age: timedelta = timedelta(hours=24),
    check_objects: bool = False,
    lock_timeout_seconds: float = 60.0,
) -> FsckReport:
    """Holds a database's objects against what its root names.

    Args:
        remote: The remote.
        delete_orphans: Delete what no root names, as `collect` does; where there is no root, what a deletion
            that was cut short has left.
        min_age: For how long it must have been so.
        check_objects: Compare sizes with the index, too.
        lock_timeout_seconds: How long to wait for the lock, which only a deletion takes.

    Raises:
        RemoteIntegrityError: The root is damaged; or something was to be deleted and the index is.
        UnsupportedFormatError: Something else lies in the root's place.
        LockTimeoutError: Another writer kept the lock.
        OfflineError: The remote can't be reached.
    """
    with held_lock(remote, lock_timeout_seconds, wanted=delete_orphans) as lock, take_inventory(remote) as found:
        orphans = {} if found.obstacles else found.dead()
        report = FsckReport(
            db_key=remote.names.key,
            format_version=None if found.fetched is None else ROOT_FORMAT_VERSION,
            db_object_exists=found.fetched is not None,
            torn_teardown=found.fetched is None and bool(found.listing.own),
            expected_objects=len(found.claimed),
            orphans=sorted(there.key for there in orphans.values()),
            claimed_but_missing=sorted(_not_as_claimed(remote, found, check_objects=check_objects)),
            dead_fraction={pack.ref.name: 1 - pack.live_share for pack in found.packs if pack.live_share < 1},
        )
        if not delete_orphans:
            return report
        swept = sweep(remote, found, min_age, lock=lock)
    return replace(
        report,
        swept=sorted(there.key for there in swept.deleted),
        skipped_young=sorted(there.key for there in swept.young),
    )


def _not_as_claimed(remote: Remote, found: Inventory, *, check_objects: bool) -> Iterator[str]:
    problems = {problem.name: problem for problem in found.index.problems}
    for ref in _claims(found.index, found.packs):
        there = found.listing.own.get(ref.name)
        problem = problems.get(ref.name)
        wrong = there is None or (problem is not None and problem.missing)
        if there is not None and check_objects:
            wrong = wrong or problem is not None or there.size_bytes != ref.size_bytes
        if wrong:
            yield remote.names.object(ref.name)


def _claims(index: MergedRoot, packs: Iterable[LivePack]) -> Iterator[ObjectRef]:
    """Yields the objects that a root names as it describes them."""
    yield from index.objects.values()
    for pack in packs:
        yield pack.ref


# -- verify ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Findings:
    """What one look has found."""

    seq: int | None = None
    commit_id: str | None = None
    key_count: int = 0
    index_objects: int = 0
    packs: int = 0
    objects_bytes: int = 0
    values_read: int = 0
    bytes_read: int = 0
    moved_objects: int = 0
    snapshots: int = 0
    damage: list[Damage] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    unnamed: list[StoredObject] | None = None


def verify(
    remote: Remote, *, read_values: bool = False, find_copy: CopyFinder = lambda _key, _digest: None
) -> VerifyReport:
    """Reads root, index and listing, and with `read_values` every live value, and holds them together.

    Snapshots are looked at likewise, each as a whole.

    Args:
        remote: The remote; one that is only readable is asked for each object, as it has no listing, and shows no
            snapshots.
        read_values: Whether every value in a pack is read and held to its digest.
        find_copy: Asked for each damaged value whether this machine has a sound copy.

    Raises:
        RemoteMissingError: There is no root.
        UnsupportedFormatError: Something else lies in its place, or a newer version wrote it.
        OfflineError: The remote can't be reached.
    """
    findings = _Findings()
    for _ in range(LOOKS):
        try:
            fetched = read_root(remote)
        except ObjectMissingError as error:
            raise RemoteMissingError(f"there is no database {remote.root_place}; check the place") from error
        except RemoteIntegrityError as error:
            damage = Damage(remote.names.root, str(error), sound_copy=_ROOT_ELSEWHERE, kind=ROOT_KIND)
            return VerifyReport(remote.root_place, None, None, damage=(damage,))
        if fetched is None:
            continue
        findings = _look(remote, fetched, read_values=read_values, find_copy=find_copy)
        # What is gone may have been garbage under a root that came since.
        if not findings.damage or _is_still(remote, fetched):
            break
    return VerifyReport(
        remote=remote.root_place,
        seq=findings.seq,
        commit_id=findings.commit_id,
        key_count=findings.key_count,
        index_objects=findings.index_objects,
        packs=findings.packs,
        objects_bytes=findings.objects_bytes,
        values_read=findings.values_read if read_values else None,
        bytes_read=findings.bytes_read,
        moved_objects=findings.moved_objects,
        snapshots=findings.snapshots,
        damage=tuple(replace(each, kind=kind_of(remote, each.object)) for each in findings.damage),
        unnamed_objects=None if findings.unnamed is None else len(findings.unnamed),
        unnamed_bytes=sum(found.size_bytes for found in findings.unnamed or ()),
    )


def kind_of(remote: Remote, key: str) -> str:
    """Returns what an object is by its key, as `Damage.kind` has it."""
    if key == remote.names.root:
        return ROOT_KIND
    return key.removeprefix(remote.names.prefix).partition("/")[0]


def _is_still(remote: Remote, fetched: FetchedRoot) -> bool:
    try:
        return read_root(remote, if_none_match=fetched.etag) is None
    except (ObjectMissingError, RemoteIntegrityError):
        return False


def _look(remote: Remote, fetched: FetchedRoot, *, read_values: bool, find_copy: CopyFinder) -> _Findings:
    manifest = fetched.manifest
    findings = _Findings(manifest.seq, manifest.commit_id)
    # After the root was read: what it names is there by now. Where there is no listing no snapshot is known.
    there = list_objects(remote).own if remote.store.writable else None
    look = partial(_look_at, remote, there, read_values=read_values, find_copy=find_copy)
    look(fetched.root, remote.names.root, findings)
    for name in snapshots_in(there or ()):
        part = _look_at_snapshot(remote, name, look)
        findings.snapshots += part is not None
        if part is not None:
            findings.values_read += part.values_read
            findings.bytes_read += part.bytes_read
            findings.damage += part.damage
            findings.named |= part.named
    # A snapshot that is new or gone since the listing, or an index in part, leaves open what is named.
    if there is not None and not any(kind_of(remote, each.object) != "pack" for each in findings.damage):
        unnamed = there.keys() - findings.named - set(snapshots_in(there))
        findings.unnamed = [there[name] for name in sorted(unnamed)]
    return findings


def _look_at_snapshot(
    remote: Remote, relative: str, look: Callable[[Root, str, _Findings], None]
) -> _Findings | None:
    """Looks at all that a snapshot names; None where it was deleted meanwhile."""
    key = remote.names.object(relative)
    findings = _Findings()
    try:
        fetched = fetch_snapshot(remote, key)
        look(fetched.root, key, findings)
        if findings.damage:
            remote.store.head(key)
    except ObjectMissingError:
        return None
    except (RemoteIntegrityError, UnsupportedFormatError) as error:
        findings.damage.append(Damage(key, str(error), sound_copy=_SNAPSHOT_ELSEWHERE))
        return findings
    needed = f"needed by the snapshot {relative.removeprefix(SNAPSHOT)!r}"
    findings.damage = [replace(each, problem=f"{needed}: {each.problem}") for each in findings.damage]
    return findings


def _look_at(
    remote: Remote,
    there: Mapping[str, StoredObject] | None,
    root: Root,
    root_key: str,
    findings: _Findings,
    *,
    read_values: bool,
    find_copy: CopyFinder,
) -> None:
    """Looks at all that a root, or a copy of one, names."""
    with MergedRoot() as index:
        index.add_root(remote, root)
        index.check_history(remote, root)
        for problem in index.problems:
            key = remote.names.object(problem.name) if problem.name else root_key
            text = "it is missing" if problem.missing else str(problem.error)
            findings.damage.append(Damage(key, text, sound_copy=_INDEX_ELSEWHERE))
        findings.index_objects = len(index.objects)
        findings.key_count = index.key_count()
        said = root.manifest.key_count
        if index.complete and findings.key_count != said:
            problem_text = f"it says {counted(said, 'key')}, and its index has {findings.key_count}"
            findings.damage.append(Damage(root_key, problem_text, sound_copy=_INDEX_ELSEWHERE))
        packs = list(index.packs())
        findings.packs = len(packs)
        findings.named = {ref.name for ref in _claims(index, packs)}
        gone = _check_objects(remote, there, packs, index, findings, find_copy)
        if read_values:
            sound = [pack for pack in packs if pack.ref.name not in gone]
            _read_values(remote, index, sound, findings, find_copy)


def _read_values(
    remote: Remote, index: MergedRoot, packs: Sequence[LivePack], findings: _Findings, find_copy: CopyFinder
) -> None:
    """Holds the live values of some packs to their digests."""
    names = [pack.ref.name for pack in packs]
    amounts = [index.amount_in(name) for name in names]
    values, size_bytes = sum(count for count, _ in amounts), sum(byte_count for _, byte_count in amounts)
    with (
        remote.reporter.phase("verify", keys_total=values, bytes_total=size_bytes) as phase,
        closing(check_values(remote, names, index, phase)) as checks,
    ):
        for checked in checks:
            findings.values_read += checked.values
            findings.bytes_read += checked.read_bytes
            for place, text in checked.damaged:
                keys_there = index.keys_in(checked.name, -1, place)
                copy = _sound_copy([find_copy(key, place.digest) for key in keys_there])
                shown = tuple(keys_there[:SHOWN_KEYS])
                damage = Damage(remote.names.object(checked.name), text, shown, len(keys_there), copy)
                findings.damage.append(damage)


def _check_objects(
    remote: Remote,
    listed: Mapping[str, StoredObject] | None,
    packs: list[LivePack],
    index: MergedRoot,
    findings: _Findings,
    find_copy: CopyFinder,
) -> set[str]:
    """Compares the objects that are there with what the index says; returns the names of missing ones."""
    claims = list(_claims(index, packs))
    there = objects_there(remote, [ref.name for ref in claims]) if listed is None else listed
    told = {problem.name for problem in index.problems}
    gone: set[str] = set()
    for ref in claims:
        findings.objects_bytes += ref.size_bytes
        found = there.get(ref.name)
        if found is None:
            gone.add(ref.name)
            problem = "it is missing"
        elif found.size_bytes == ref.size_bytes + len(INCOMPLETE_MARK) and ref.name.startswith("pack/"):
            problem = "it was written back without some of its values; --values tells which"
        elif found.size_bytes != ref.size_bytes:
            problem = f"it has {found.size_bytes} bytes, and the index says {ref.size_bytes}"
        else:
            findings.moved_objects += found.etag not in ("", ref.etag)
            continue
        if ref.name not in told:
            findings.damage.append(_damaged_object(remote, ref.name, problem, index, find_copy))
    return gone


def objects_there(remote: Remote, names: list[str]) -> dict[str, StoredObject]:
    """Returns which of some objects are there, by one listing; each by a HEAD where there is none."""
    prefix = remote.names.prefix
    if remote.store.writable:
        wanted = set(names)
        listed = ((found.key[len(prefix) :], found) for found in remote.store.list(prefix))
        return {name: found for name, found in listed if name in wanted}

    def ask(name: str) -> tuple[str, StoredObject | None]:
        try:
            return name, remote.store.head(remote.names.object(name))
        except ObjectMissingError:
            return name, None

    with Workers(min(remote.threads, READERS)) as workers:
        return {name: found for name, found in workers.map(ask, names) if found is not None}


def _damaged_object(remote: Remote, name: str, problem: str, index: MergedRoot, find_copy: CopyFinder) -> Damage:
    places = list(index.places(name))
    copies = [find_copy(place.key, place.digest) for place in places]
    keys = index.keys_in(name, SHOWN_KEYS)
    count = len(index.keys_in(name, -1))
    return Damage(remote.names.object(name), problem, tuple(keys), count, _sound_copy(copies))


def _sound_copy(copies: list[str | None]) -> str:
    """Says in words where values may be had again."""
    here = [copy for copy in copies if copy is not None]
    if not copies or not here:
        return _ELSEWHERE
    some = f"{len(here)} of {len(copies)} values" if len(here) < len(copies) else "every value"
    return f"A sound copy of {some} is in {here[0]}. {_ELSEWHERE}"


__all__ = ["ROOT_KIND", "WAYS_OUT", "CopyFinder", "fsck", "kind_of", "verify"]
