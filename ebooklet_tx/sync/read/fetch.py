"""Reading values: those that are on this machine, and by as few requests as can be those that are not.

The invariant: a fetched value is held to the digest that the index has for it before anyone sees it, and nothing
that fails the check is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from ebooklet_tx.errors import (
    ContentionError,
    Error,
    NotFoundInRangeError,
    ObjectMissingError,
    OfflineError,
    PreconditionFailedError,
    RemoteMissingError,
)
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.read.ranges import Arrived, fetch_ranges, parts_of_range, sound_values
from ebooklet_tx.sync.read.reader import Reader, fetched_value
from ebooklet_tx.sync.read.value_errors import (
    check_remote_has,
    damaged_there,
    gone_before_push,
    out_of_reach,
    vanished_there,
)
from ebooklet_tx.sync.remote import Remote

PART_BYTES = 32 * 2**20
"""Values are read and handed out in parts of about this size, however many keys are asked for."""

Found = bytes | Error | None
"""An encoded value, the reason why it can't be had, or None where there is none."""


def read_value(reader: Reader, key: str) -> tuple[Entry, bytes] | None:
    """Returns a key's entry and encoded value, from this machine or the remote; None if there is none.

    Raises:
        RemoteIntegrityError: The remote's copy is damaged, and there is no other.
        LocalIntegrityError: The local copy is damaged, and there is no other.
        OfflineError: It is not on this machine, and the remote can't be reached.
    """
    try:
        entry, value = reader.lookup(key)
        if entry is None:
            return None
        return (entry, value) if value is not None else _fetch_value(reader, entry)
    except OfflineError as error:
        if isinstance(error, ContentionError):
            raise
        raise out_of_reach(key, error) from error.__cause__


def _fetch_value(reader: Reader, entry: Entry) -> tuple[Entry, bytes] | None:
    """Fetches one value; pulls and looks once more if its pack has gone meanwhile."""
    try:
        return entry, _fetch_and_keep(reader, entry)
    except (ObjectMissingError, PreconditionFailedError, NotFoundInRangeError) as error:
        reader.pull()
        again, value = reader.lookup(entry.key)
        if again is None:
            return None
        if value is not None:
            return again, value
        if _place_of(reader, again) == _place_of(reader, entry):
            if isinstance(error, PreconditionFailedError):
                # Copied to another store, or damaged in part: the value's own digest tells.
                return again, _fetch_and_keep(reader, again, any_etag=True)
            if reader.sent_value(again) is not None:
                raise gone_before_push(entry.key, error) from error
            raise vanished_there(entry.key, error) from error
        return again, _fetch_and_keep(reader, again)


def fetch_many(reader: Reader, keys: Sequence[str], *, in_order: bool = False) -> Iterator[tuple[str, Found]]:
    """Yields (key, encoded value) for many keys, in their order: near ranges joined, packs in parallel.

    A value that can't be had comes as the error that says why; a key that is not there as None.

    Args:
        reader: Where from.
        keys: The keys.
        in_order: The keys are in order, and about all that the journal has from the first to the last.
    """
    if not keys:
        return
    entries = reader.entries(keys, in_order=in_order)
    lengths = {key: entry.length_bytes for key, entry in entries.items()}
    for part in parts_of(keys, lengths):
        yield from _fetch_part(reader, part, entries)


def parts_of(keys: Sequence[str], lengths_bytes: Mapping[str, int]) -> Iterator[list[str]]:
    """Divides keys so that the values of each part go into memory together."""
    part: list[str] = []
    size = 0
    for key in keys:
        length = lengths_bytes.get(key, 0)
        if part and size + length > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(key)
        size += length
    yield part


def _fetch_part(reader: Reader, keys: Sequence[str], entries: dict[str, Entry]) -> Iterator[tuple[str, Found]]:
    # A function of its own, so that its values are let go before those of the next part come.
    here, missing = reader.values_here(keys, entries)
    values: dict[str, Found] = {**here, **_values_there(reader, missing)}
    for key in keys:
        yield key, values.get(key)


def _values_there(reader: Reader, missing: Sequence[Entry]) -> dict[str, Found]:
    """Fetches many values; one that can't be had with others is read alone."""
    wanted, others = _remote_values(reader, missing)
    values: dict[str, Found] = {key: read_alone(reader, key) for key in others}
    if not wanted:
        return values
    entries = {entry.key: entry for entry in missing}
    total_bytes = sum(item.length_bytes for item in wanted)

    def keep_left(arrived: Arrived) -> None:
        sound = (pair for group, data in arrived for pair in sound_values(group, data))
        reader.keep([fetched_value(entries[item.key], value) for item, value in sound if value is not None])

    totals: dict[str, int] = {"keys_total": len(wanted), "bytes_total": total_bytes}
    with (
        reader.remote.reporter.phase("fetch", kept="it is not fetched again", **totals) as phase,
        closing(fetch_ranges(reader.remote, wanted, phase=phase, left=keep_left)) as groups,
    ):
        for group, data in groups:
            fetched = []
            for item, value in sound_values(group, data):
                if value is not None:
                    fetched.append(fetched_value(entries[item.key], value))
                    values[item.key] = value
                else:
                    values[item.key] = (
                        out_of_reach(item.key, data)
                        if isinstance(data, OfflineError)
                        else read_alone(reader, item.key)
                    )
            reader.keep(fetched)
    return values


def _remote_values(reader: Reader, missing: Sequence[Entry]) -> tuple[list[RemoteValue], list[str]]:
    """Returns where values lie in packs, and the keys of those for which that is not told."""
    wanted: list[RemoteValue] = []
    others: list[str] = []
    for entry in missing:
        sent = reader.sent_value(entry)
        if sent is not None:
            wanted.append(sent)
            continue
        if entry.digest != entry.remote_digest or entry.remote_offset_bytes is None:
            others.append(entry.key)
            continue
        try:
            wanted.append(_remote_value(reader, entry))
        except RemoteMissingError:
            # Another thread has moved the base since the entry was read.
            others.append(entry.key)
    return wanted, others


def read_alone(reader: Reader, key: str) -> Found:
    """Reads one value, with the second look that a single read gets; an error comes as the outcome."""
    try:
        # Beside a writer the bytes may have moved since the entry was read.
        found = read_value(reader, key)
    except Error as error:
        return error
    return None if found is None else found[1]


def _remote_value(reader: Reader, entry: Entry) -> RemoteValue:
    place = entry.remote_offset_bytes or 0, entry.remote_length_bytes or 0
    return RemoteValue(entry.key, entry.digest or b"", entry.timestamp_us, reader.ref_of(entry), *place)


def _fetch_and_keep(reader: Reader, entry: Entry, *, any_etag: bool = False) -> bytes:
    """Fetches one value from where a reader of this entry sees it."""
    sent = reader.sent_value(entry)
    if sent is not None:
        value = fetch_place(reader.remote, sent, any_etag=any_etag)
        reader.keep([fetched_value(entry, value)])
        return value
    check_remote_has(entry, reader.local.path)
    if entry.remote_offset_bytes is None:
        value = _inline_value(reader, entry)
    else:
        value = fetch_place(reader.remote, _remote_value(reader, entry), any_etag=any_etag)
    reader.keep([fetched_value(entry, value)])
    return value


def _inline_value(reader: Reader, entry: Entry) -> bytes:
    """Returns a value that rides in the index."""
    item = reader.look_up([entry.key]).rows.get(entry.key)
    if item is None or item.row.digest != entry.digest or item.row.value is None:
        raise ObjectMissingError(f"the index no longer has the value of key {entry.key!r}; read it again")
    return item.row.value


def fetch_place(remote: Remote, wanted: RemoteValue, *, any_etag: bool = False) -> bytes:
    """Fetches the bytes at one place of the remote and holds them to their digest.

    Raises:
        RemoteIntegrityError: They are damaged.
        ObjectMissingError, PreconditionFailedError, NotFoundInRangeError: The object is not what it was.
    """
    name = remote.names.object(wanted.ref.name)
    etag = None if any_etag else remote.etag_to_match(wanted.ref)
    parts = [
        remote.store.get_range(name, start, length, if_match=etag)
        for start, length in parts_of_range(wanted.offset_bytes, wanted.length_bytes)
    ]
    value = parts[0] if len(parts) == 1 else b"".join(parts)
    if digest_of(value) != wanted.digest:
        raise damaged_there(remote, wanted.key, wanted.ref)
    if any_etag:
        remote.note_other_etag(wanted.ref)
    return value


def _place_of(reader: Reader, entry: Entry) -> tuple[object, ...]:
    sent = reader.sent_value(entry)
    if sent is not None:
        return sent.ref.name, sent.offset_bytes, sent.digest
    return reader.ref_of(entry).name, entry.remote_offset_bytes, entry.remote_digest
