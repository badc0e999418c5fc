"""Fetching values that are not on this machine.

Owns no state. The invariant: a fetched value is held to the digest that the index has for it before
anyone sees it, and nothing that fails the check is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ebooklet_tx.errors import (
    Error,
    LocalIntegrityError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
)
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal import PENDING_NONE, Entry
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.sync.pull import pull
from ebooklet_tx.sync.session import Session, object_ref

JOIN_GAP_BYTES = 64 * 1024
"""Ranges of one pack that lie closer than this are fetched as one."""

MAX_RANGE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Wanted:
    entry: Entry
    ref: ObjectRef
    offset_bytes: int
    length_bytes: int


def read_value(session: Session, key: str) -> tuple[Entry, bytes] | None:
    """Returns a key's entry and encoded value, from this machine or the remote; None if there is none.

    Raises:
        RemoteIntegrityError: The remote's copy is damaged, and there is no other.
        LocalIntegrityError: The local copy is damaged, and there is no other.
        OfflineError: It is not on this machine, and the remote can't be reached.
    """
    with session.mutex:
        entry, value = session.local.look(key)
        if entry is not None and value is not None:
            _keep_if_lacking(session, entry, value)
    if entry is None:
        return None
    return (entry, value) if value is not None else fetch_value(session, entry)


def fetch_value(session: Session, entry: Entry) -> tuple[Entry, bytes] | None:
    """Fetches one value; looks once more after a pull if the pack has gone meanwhile."""
    try:
        return entry, _fetch_and_keep(session, entry)
    except (ObjectMissingError, PreconditionFailedError, NotFoundInRangeError) as error:
        pull(session)
        with session.mutex:
            again, value = session.local.look(entry.key)
        if again is None:
            return None
        if value is not None:
            return again, value
        if _place_of(again) == _place_of(entry):
            if isinstance(error, PreconditionFailedError):
                # Copied to another store, or damaged in part: the value's own digest tells.
                return again, _fetch_and_keep(session, again, any_etag=True)
            raise RemoteIntegrityError(
                f"the value of key {entry.key!r} can't be fetched although the root still names its object: "
                f"{error}; restore the object from a backup, or push the key again from a machine that has it"
            ) from error
        return again, _fetch_and_keep(session, again)


def fetch_many(session: Session, keys: Sequence[str]) -> Iterator[tuple[str, bytes | Error | None]]:
    """Yields the encoded values of many keys: near ranges joined, packs in parallel.

    A value that can't be had comes as the error that says why; a key that is not there as None.
    Values that are on this machine come first.
    """
    wanted: list[_Wanted] = []
    for key in keys:
        with session.mutex:
            entry, value = session.local.look(key)
            if entry is not None and value is not None:
                _keep_if_lacking(session, entry, value)
        if entry is None:
            yield key, None
        elif value is not None:
            yield key, value
        else:
            try:
                with session.mutex:
                    wanted.append(_want(session, entry))
            except LocalIntegrityError as error:
                yield key, error
    groups = _joined(wanted)
    if not groups:
        return
    with ThreadPoolExecutor(max_workers=max(1, min(session.remote.threads, len(groups)))) as pool:
        for group, outcome in zip(groups, pool.map(lambda g: _try_fetch(session, g), groups), strict=True):
            yield from _unpacked(session, group, outcome)


def _unpacked(
    session: Session, group: Sequence[_Wanted], outcome: bytes | Error
) -> Iterator[tuple[str, bytes | Error | None]]:
    start = group[0].offset_bytes
    for item in group:
        at = item.offset_bytes - start
        value = outcome[at : at + item.length_bytes] if isinstance(outcome, bytes) else None
        if value is not None and digest_of(value) == item.entry.digest:
            _keep(session, item.entry, value)
            yield item.entry.key, value
            continue
        # Alone, with the second look that a single read gets.
        try:
            found = fetch_value(session, item.entry)
            yield item.entry.key, None if found is None else found[1]
        except Error as error:
            yield item.entry.key, error


def _try_fetch(session: Session, group: Sequence[_Wanted]) -> bytes | Error:
    first, last = group[0], group[-1]
    try:
        return session.remote.store.get_range(
            session.remote.names.object(first.ref.name),
            first.offset_bytes,
            last.offset_bytes + last.length_bytes - first.offset_bytes,
            if_match=_etag_to_match(session, first.ref),
        )
    except Error as error:
        return error


def _etag_to_match(session: Session, ref: ObjectRef) -> str | None:
    """A web server has ETags of its own, so what is read through a URL is held to its digest alone."""
    return ref.etag if session.remote.store.writable else None


def _joined(wanted: Sequence[_Wanted]) -> list[list[_Wanted]]:
    """Groups places that are near each other in the same object."""
    groups: list[list[_Wanted]] = []
    for item in sorted(wanted, key=lambda w: (w.ref.name, w.offset_bytes)):
        if groups:
            last = groups[-1][-1]
            end = last.offset_bytes + last.length_bytes
            span = item.offset_bytes + item.length_bytes - groups[-1][0].offset_bytes
            near = item.ref.name == last.ref.name and item.offset_bytes - end <= JOIN_GAP_BYTES
            if near and span <= MAX_RANGE_BYTES:
                groups[-1].append(item)
                continue
        groups.append([item])
    return groups


def _want(session: Session, entry: Entry) -> _Wanted:
    """Finds where in the remote the value lies that a reader of this entry sees."""
    if entry.digest != entry.remote_digest or entry.remote_object is None:
        raise LocalIntegrityError(
            f"the value of key {entry.key!r} in {session.local.path} is damaged, and the remote does not have "
            "it; set or delete the key, or discard() its change"
        )
    return _Wanted(
        entry,
        object_ref(session.journal, entry.remote_object),
        entry.remote_offset_bytes or 0,
        entry.remote_length_bytes or 0,
    )


def _fetch_and_keep(session: Session, entry: Entry, *, any_etag: bool = False) -> bytes:
    with session.mutex:
        wanted = _want(session, entry)
    value = fetch_place(
        session,
        entry.key,
        entry.digest or b"",
        wanted.ref,
        wanted.offset_bytes,
        wanted.length_bytes,
        any_etag=any_etag,
    )
    _keep(session, entry, value)
    return value


def fetch_place(
    session: Session,
    key: str,
    digest: bytes,
    ref: ObjectRef,
    offset_bytes: int,
    length_bytes: int,
    *,
    any_etag: bool = False,
) -> bytes:
    """Fetches the bytes at one place of the remote and holds them to their digest.

    Raises:
        RemoteIntegrityError: They are damaged.
        ObjectMissingError, PreconditionFailedError, NotFoundInRangeError: The object is not what it was.
    """
    name = session.remote.names.object(ref.name)
    etag = None if any_etag else _etag_to_match(session, ref)
    value = session.remote.store.get_range(name, offset_bytes, length_bytes, if_match=etag)
    if digest_of(value) != digest:
        raise RemoteIntegrityError(
            f"the value of key {key!r} in {name!r} at {session.remote.store.location} is damaged: its "
            "digest differs from the index's; push the key again from a machine that has it, or restore the "
            "object from a backup"
        )
    return value


def _keep_if_lacking(session: Session, entry: Entry, value: bytes) -> None:
    """Keeps a pushed value that was read from the journal, so that a plain booklet sees it as well."""
    if entry.pending == PENDING_NONE and entry.local_digest != entry.digest and not session.remote.offline:
        session.local.keep_once(Fetched(entry.key, entry.timestamp_us, entry.digest or b"", value))


def _keep(session: Session, entry: Entry, value: bytes) -> None:
    with session.mutex:
        session.local.keep(Fetched(entry.key, entry.timestamp_us, entry.digest or b"", value))


def _place_of(entry: Entry) -> tuple[object, ...]:
    return entry.remote_object, entry.remote_offset_bytes, entry.remote_digest
