"""Fetching values that are not on this machine.

Owns no state. The invariant: a fetched value is held to the digest that the index has for it before
anyone sees it, and nothing that fails the check is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ebooklet_tx.errors import (
    Error,
    NotFoundInRangeError,
    ObjectMissingError,
    OfflineError,
    PreconditionFailedError,
    RemoteMissingError,
)
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal.entries import PENDING_NONE, Entry, find_entries, find_entries_in_order
from ebooklet_tx.local.journal.index_rows import object_ref
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.staged import has_staged
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.ranges import fetch_ranges, sound_values
from ebooklet_tx.sync.read.value_errors import check_remote_has, damaged_there, vanished_there
from ebooklet_tx.sync.session import Session

PART_BYTES = 64 * 2**20
"""Values are read and handed out in parts of about this size, however many keys are asked for."""

Found = bytes | Error | None
"""An encoded value, the reason why it can't be had, or None where there is none."""


def read_value(session: Session, key: str) -> tuple[Entry, bytes] | None:
    """Returns a key's entry and encoded value, from this machine or the remote; None if there is none.

    Raises:
        RemoteIntegrityError: The remote's copy is damaged, and there is no other.
        LocalIntegrityError: The local copy is damaged, and there is no other.
        OfflineError: It is not on this machine, and the remote can't be reached.
    """
    with session.mutex:
        entry, value = session.local.lookup(key)
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
            again, value = session.local.lookup(entry.key)
        if again is None:
            return None
        if value is not None:
            return again, value
        if _place_of(again) == _place_of(entry):
            if isinstance(error, PreconditionFailedError):
                # Copied to another store, or damaged in part: the value's own digest tells.
                return again, _fetch_and_keep(session, again, any_etag=True)
            raise vanished_there(entry.key, error) from error
        return again, _fetch_and_keep(session, again)


def fetch_many(session: Session, keys: Sequence[str], *, in_order: bool = False) -> Iterator[tuple[str, Found]]:
    """Yields (key, encoded value) for many keys, in their order: near ranges joined, packs in parallel.

    A value that can't be had comes as the error that says why; a key that is not there as None.

    Args:
        in_order: The keys are in order, and about all that the journal has from the first to the last.
    """
    if not keys:
        return
    with session.mutex:
        journal = session.journal
        entries = find_entries_in_order(journal, keys) if in_order else find_entries(journal, keys)
    for part in _parts(keys, entries):
        values, missing = _values_here(session, part, entries)
        values.update(_values_there(session, missing))
        for key in part:
            yield key, values.get(key)


def _parts(page: Sequence[str], entries: dict[str, Entry]) -> Iterator[list[str]]:
    """Divides keys so that the values of each part go into memory together."""
    part: list[str] = []
    size = 0
    for key in page:
        entry = entries.get(key)
        length = 0 if entry is None else entry.length_bytes
        if part and size + length > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(key)
        size += length
    yield part


def _values_here(
    session: Session, keys: Sequence[str], entries: dict[str, Entry]
) -> tuple[dict[str, Found], list[Entry]]:
    """Reads what is on this machine; returns it, and the entries of what has to be fetched."""
    values: dict[str, Found] = {}
    missing: list[Entry] = []
    with session.mutex:
        local = session.local
        anything_staged = has_staged(session.journal)
        for key in keys:
            entry = entries.get(key)
            digest = None if entry is None else entry.digest
            if entry is None or digest is None:
                continue
            if entry.local_digest != digest and entry.remote_object is not None and not anything_staged:
                value = local.waiting_value(key, digest)
            else:
                value = local.read(entry)
                if value is not None:
                    _keep_if_lacking(session, entry, value)
            if value is None:
                missing.append(entry)
            else:
                values[key] = value
    return values, missing


def _values_there(session: Session, missing: Sequence[Entry]) -> dict[str, Found]:
    """Fetches many values; what can't be had together is tried alone, with the second look of a single read."""
    values: dict[str, Found] = {}
    wanted: list[RemoteValue] = []
    refs: dict[int, ObjectRef] = {}
    for entry in missing:
        place = entry.remote_object
        if place is None or entry.digest != entry.remote_digest:
            values[entry.key] = alone(session, entry.key)
            continue
        try:
            if place not in refs:
                with session.mutex:
                    refs[place] = object_ref(session.journal, place)
        except RemoteMissingError:
            # Another thread has moved the base since the entry was read.
            values[entry.key] = alone(session, entry.key)
            continue
        wanted.append(_want(entry, refs[place]))
    for group, data in fetch_ranges(session, wanted):
        sound = []
        for item, value in sound_values(group, data):
            if value is None:
                values[item.key] = alone(session, item.key) if not isinstance(data, OfflineError) else data
            else:
                sound.append(Fetched(item.key, item.timestamp_us, item.digest, value))
                values[item.key] = value
        with session.mutex:
            session.local.keep(sound)
    return values


def alone(session: Session, key: str) -> Found:
    """Reads one value with the second look that a single read gets; an error comes as the outcome."""
    try:
        # Beside a writer the bytes may have moved since the entry was read.
        found = read_value(session, key)
    except Error as error:
        return error
    return None if found is None else found[1]


def _want(entry: Entry, ref: ObjectRef) -> RemoteValue:
    place = entry.remote_offset_bytes or 0, entry.remote_length_bytes or 0
    return RemoteValue(entry.key, entry.digest or b"", entry.timestamp_us, ref, *place)


def _fetch_and_keep(session: Session, entry: Entry, *, any_etag: bool = False) -> bytes:
    """Fetches one value from where a reader of this entry sees it."""
    check_remote_has(session, entry)
    with session.mutex:
        wanted = _want(entry, object_ref(session.journal, entry.remote_object or 0))
    value = fetch_place(session, wanted, any_etag=any_etag)
    with session.mutex:
        session.local.keep([Fetched(entry.key, entry.timestamp_us, wanted.digest, value)])
    return value


def fetch_place(session: Session, wanted: RemoteValue, *, any_etag: bool = False) -> bytes:
    """Fetches the bytes at one place of the remote and holds them to their digest.

    Raises:
        RemoteIntegrityError: They are damaged.
        ObjectMissingError, PreconditionFailedError, NotFoundInRangeError: The object is not what it was.
    """
    remote = session.remote
    name = remote.names.object(wanted.ref.name)
    etag = None if any_etag else remote.etag_to_match(wanted.ref)
    value = remote.store.get_range(name, wanted.offset_bytes, wanted.length_bytes, if_match=etag)
    if digest_of(value) != wanted.digest:
        raise damaged_there(session, wanted.key, wanted.ref)
    if any_etag:
        remote.note_other_etag(wanted.ref)
    return value


def _keep_if_lacking(session: Session, entry: Entry, value: bytes) -> None:
    """Keeps a pushed value that was read from the journal, so that a plain booklet sees it as well."""
    if entry.pending == PENDING_NONE and entry.local_digest != entry.digest and not session.remote.offline:
        session.local.keep_once(Fetched(entry.key, entry.timestamp_us, entry.digest or b"", value))


def _place_of(entry: Entry) -> tuple[object, ...]:
    return entry.remote_object, entry.remote_offset_bytes, entry.remote_digest
