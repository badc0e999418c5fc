"""Verify: is what the root names there, whole, and what the index says?

Changes nothing, but for the garbage that `fsck` is told to delete. The invariant: what is
called damaged was found so under a root that was still the root afterwards; memory holds some rows and a few
ranges at a time, however large the database is.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta

from ebooklet_tx.errors import (
    NotFoundInRangeError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.root import ROOT_FORMAT_VERSION
from ebooklet_tx.local.merged_index import LivePlace
from ebooklet_tx.maintenance.check_reports import Damage, FsckReport, VerifyReport
from ebooklet_tx.maintenance.collect import held_lock, sweep
from ebooklet_tx.maintenance.inventory import Inventory, take_inventory
from ebooklet_tx.maintenance.merged_root import LivePack, MergedRoot
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.read.near_ranges import near_ranges, span_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root

READ_BYTES = 4 * 2**20
"""How many bytes are read at a time; several at once."""

READERS = 8
SHOWN_KEYS = 20
LOOKS = 3

CopyFinder = Callable[[str, bytes], "str | None"]
"""Tells for a key and a digest where on this machine a sound copy lies, None where there is none."""

_ELSEWHERE = (
    "Restore the object from the bucket's older versions or a backup, under the same key; or, on a machine whose "
    "local file has the values, delete the keys, push, set them again and push"
)
_INDEX_ELSEWHERE = "Restore the object from the bucket's older versions or a backup, under the same key"


_ROOT_ELSEWHERE = (
    "Each machine that has pulled or pushed keeps the root as it knew it last: `recover --repair-remote PATH` "
    "there writes it anew; choose the one that has heard of the newest commit"
)


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
    damage: list[Damage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the reading of one range has shown: which places are damaged, and how."""

    values: int
    read_bytes: int
    damaged: list[tuple[LivePlace, str]]


def verify(
    remote: Remote, *, read_values: bool = False, find_copy: CopyFinder = lambda _key, _digest: None
) -> VerifyReport:
    """Reads root, index and listing, and with `read_values` every live value, and holds them together.

    Args:
        remote: The remote; one that is only readable is asked for each object, as it has no listing.
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
            damage = Damage(remote.names.root, str(error), sound_copy=_ROOT_ELSEWHERE)
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
        damage=tuple(findings.damage),
    )


def _is_still(remote: Remote, fetched: FetchedRoot) -> bool:
    try:
        return read_root(remote, if_none_match=fetched.etag) is None
    except (ObjectMissingError, RemoteIntegrityError):
        return False


def _look(remote: Remote, fetched: FetchedRoot, *, read_values: bool, find_copy: CopyFinder) -> _Findings:
    manifest = fetched.manifest
    findings = _Findings(manifest.seq, manifest.commit_id)
    with MergedRoot() as index:
        index.add_root(remote, fetched.root)
        index.check_history(remote, fetched.root)
        for problem in index.problems:
            key = remote.names.object(problem.name) if problem.name else remote.names.root
            text = "it is missing" if problem.missing else str(problem.error)
            findings.damage.append(Damage(key, text, sound_copy=_INDEX_ELSEWHERE))
        findings.index_objects = len(index.objects)
        findings.key_count = index.key_count()
        if index.complete and findings.key_count != manifest.key_count:
            problem_text = f"it says {manifest.key_count} keys, and its index has {findings.key_count}"
            findings.damage.append(Damage(remote.names.root, problem_text, sound_copy=_INDEX_ELSEWHERE))
        packs = list(index.packs())
        findings.packs = len(packs)
        gone = _check_objects(remote, fetched, packs, index, findings, find_copy)
        if read_values:
            _read_packs(
                remote, [pack.ref.name for pack in packs if pack.ref.name not in gone], index, findings, find_copy
            )
    return findings


def _check_objects(
    remote: Remote,
    fetched: FetchedRoot,
    packs: list[LivePack],
    index: MergedRoot,
    findings: _Findings,
    find_copy: CopyFinder,
) -> set[str]:
    """Compares the objects that are there with what the index says; returns the names of missing ones."""
    claims = list(_claims(index, packs))
    there = objects_there(remote, [ref.name for ref in claims])
    told = {problem.name for problem in index.problems}
    gone: set[str] = set()
    for ref in claims:
        findings.objects_bytes += ref.size_bytes
        found = there.get(ref.name)
        if found is None:
            gone.add(ref.name)
            problem = "it is missing"
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

    with ThreadPoolExecutor(max_workers=max(1, min(remote.threads, READERS))) as pool:
        return {name: found for name, found in pool.map(ask, names) if found is not None}


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


# -- values ------------------------------------------------------------------------------------


def _read_packs(
    remote: Remote,
    names: list[str],
    index: MergedRoot,
    findings: _Findings,
    find_copy: CopyFinder,
) -> None:
    """Reads every live value, some ranges at a time."""
    running: deque[tuple[str, Future[_Checked]]] = deque()
    readers = max(1, min(remote.threads, READERS))

    def finish_one() -> None:
        name, future = running.popleft()
        checked = future.result()
        findings.values_read += checked.values
        findings.bytes_read += checked.read_bytes
        for place, problem in checked.damaged:
            keys = index.keys_in(name, -1, place)
            copy = _sound_copy([find_copy(key, place.digest) for key in keys])
            damage = Damage(remote.names.object(name), problem, tuple(keys[:SHOWN_KEYS]), len(keys), copy)
            findings.damage.append(damage)

    with ThreadPoolExecutor(max_workers=readers) as pool:
        for name in names:
            for group in near_ranges(index.places(name), READ_BYTES):
                running.append((name, pool.submit(_check_range, remote, name, group)))
                if len(running) >= 2 * readers:
                    finish_one()
        while running:
            finish_one()


def _check_range(remote: Remote, name: str, places: list[LivePlace]) -> _Checked:
    """Reads places that lie together and holds each to its digest; alone where they can't be read so."""
    start, length = span_of(places)
    if len(places) == 1 and length > READ_BYTES:
        return _check_large(remote, name, places[0])
    try:
        data = remote.store.get_range(remote.names.object(name), start, length)
    except (ObjectMissingError, NotFoundInRangeError) as error:
        if len(places) == 1:
            return _Checked(1, 0, [(places[0], _unreadable(error))])
        parts = [_check_range(remote, name, [place]) for place in places]
        damaged = [found for part in parts for found in part.damaged]
        return _Checked(len(places), sum(part.read_bytes for part in parts), damaged)
    damaged = []
    for place in places:
        at = place.offset_bytes - start
        value = memoryview(data)[at : at + place.length_bytes]
        if hashlib.blake2b(value, digest_size=16).digest() != place.digest:
            damaged.append((place, _altered(place)))
    return _Checked(len(places), len(data), damaged)


def _check_large(remote: Remote, name: str, place: LivePlace) -> _Checked:
    """Reads one value in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    done = 0
    while done < place.length_bytes:
        length = min(READ_BYTES, place.length_bytes - done)
        try:
            digest.update(remote.store.get_range(remote.names.object(name), place.offset_bytes + done, length))
        except (ObjectMissingError, NotFoundInRangeError) as error:
            return _Checked(1, done, [(place, _unreadable(error))])
        done += length
    damaged = [] if digest.digest() == place.digest else [(place, _altered(place))]
    return _Checked(1, done, damaged)


def _altered(place: LivePlace) -> str:
    return (
        f"the {place.length_bytes} bytes at byte {place.offset_bytes} are not the value that the index says: "
        "the digest differs"
    )


def _unreadable(error: Exception) -> str:
    return f"a value can't be read: {error}"


__all__ = ["CopyFinder", "fsck", "verify"]
