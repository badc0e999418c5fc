"""Repacking: live values are read from the packs that hold them and put together into new ones.

Owns no state. The invariants: a value that is put into a new pack was held to its digest, and a new pack is as
small as its values let it be: equal ones are in it once, under the shortest of their keys.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ebooklet_tx.errors import (
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
)
from ebooklet_tx.formats.pack import PACK_BYTES, PackBuilder, record_bytes
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.local.journal.uploads import PackedValue
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.commit.packing import PACKS_IN_FLIGHT
from ebooklet_tx.sync.read.ranges import JOIN_GAP_BYTES
from ebooklet_tx.sync.session import Session

_GONE = (ObjectMissingError, NotFoundInRangeError, PreconditionFailedError, RemoteIntegrityError)


def repacked(
    session: Session,
    by_pack: Mapping[str, Mapping[bytes, Entry]],
    rows: Iterable[Entry],
    unreadable: set[str],
) -> Iterator[tuple[str, bytes, list[PackedValue]]]:
    """Yields new packs (name, bytes, what is in them) of values that lie in old ones.

    Args:
        session: The session.
        by_pack: Names of packs, and for the values wanted of each, by digest, an entry that lies there.
        rows: All entries whose values are to lie in the new packs: a value may have several keys.
        unreadable: Where the keys are noted whose values can't be had.
    """
    shortest = _shortest_keys(rows)
    builder = PackBuilder()
    values_in_pack: list[PackedValue] = []
    packed: set[bytes] = set()
    for one, value in _values(session, by_pack, unreadable):
        digest = one.remote_digest
        if digest is None or digest in packed:
            continue
        entry = shortest[digest]
        if values_in_pack and builder.size_bytes + record_bytes(entry.key, len(value)) > PACK_BYTES:
            yield session.remote.names.new_pack(), builder.finish(), values_in_pack
            builder, values_in_pack = PackBuilder(), []
        offset = builder.add(entry.key, entry.timestamp_us, value)
        packed.add(digest)
        values_in_pack.append(PackedValue(digest, offset, len(value)))
    if values_in_pack:
        yield session.remote.names.new_pack(), builder.finish(), values_in_pack


def _shortest_keys(rows: Iterable[Entry]) -> dict[bytes, Entry]:
    """Returns for each digest the entry with the shortest key: compaction counts a record by that one."""
    shortest: dict[bytes, Entry] = {}
    for entry in rows:
        digest = entry.remote_digest
        if digest is not None:
            known = shortest.setdefault(digest, entry)
            if known is not entry and len(entry.key.encode()) < len(known.key.encode()):
                shortest[digest] = entry
    return shortest


def _values(
    session: Session, by_pack: Mapping[str, Mapping[bytes, Entry]], unreadable: set[str]
) -> Iterator[tuple[Entry, bytes]]:
    """Yields the values pack by pack, some packs being read ahead; notes those that can't be had."""
    waiting = deque(by_pack.items())
    running: deque[Future[list[tuple[Entry, bytes | None]]]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, min(PACKS_IN_FLIGHT, session.remote.threads))) as pool:
        while waiting or running:
            while waiting and len(running) < PACKS_IN_FLIGHT:
                name, wanted = waiting.popleft()
                running.append(pool.submit(_read_pack, session, name, list(wanted.values())))
            for entry, value in running.popleft().result():
                if value is None:
                    unreadable.add(entry.key)
                else:
                    yield entry, value


def _read_pack(session: Session, name: str, entries: Sequence[Entry]) -> list[tuple[Entry, bytes | None]]:
    """Reads values of one pack, each held to its digest: from this machine, else by joined ranged reads."""
    found: list[tuple[Entry, bytes | None]] = []
    missing: list[Entry] = []
    for entry in entries:
        with session.mutex:
            value = session.local.read(entry)
        if value is None:
            missing.append(entry)
        else:
            found.append((entry, value))
    for group in _near(missing):
        found += _read_range(session, name, group)
    return found


def _near(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Groups places of one pack, which come in order, that lie near each other."""
    groups: list[list[Entry]] = []
    end = 0
    for entry in entries:
        offset = entry.remote_offset_bytes or 0
        if groups and offset - end <= JOIN_GAP_BYTES:
            groups[-1].append(entry)
        else:
            groups.append([entry])
        end = max(end, offset + entry.length_bytes)
    return groups


def _read_range(session: Session, name: str, entries: Sequence[Entry]) -> list[tuple[Entry, bytes | None]]:
    """Reads values that lie near each other; alone where they can't be read together."""
    start = entries[0].remote_offset_bytes or 0
    end = max((entry.remote_offset_bytes or 0) + entry.length_bytes for entry in entries)
    try:
        data = session.remote.store.get_range(session.remote.names.object(name), start, end - start)
    except _GONE:
        if len(entries) == 1:
            return [(entries[0], None)]
        return [pair for entry in entries for pair in _read_range(session, name, [entry])]
    found: list[tuple[Entry, bytes | None]] = []
    for entry in entries:
        at = (entry.remote_offset_bytes or 0) - start
        value = data[at : at + entry.length_bytes]
        found.append((entry, value if digest_of(value) == entry.remote_digest else None))
    return found
