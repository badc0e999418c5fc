"""Sending pending values in packs, so that an interrupted push resumes.

Owns the journal's `upload` and `packed` tables. The invariant: a row of `packed` whose upload has an
ETag says that those bytes lie in that object; the ETag is written only after the object has arrived.
What is about to be sent is noted without one, so that a push that was killed between an arrival and
the note of it finds the object by its name, and sends nothing again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple

from ebooklet_tx.errors import LocalIntegrityError, ObjectMissingError
from ebooklet_tx.formats.pack import PACK_BYTES, PackBuilder, pack_prefix, record_bytes
from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Entry, driver
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.object_store import UploadState
from ebooklet_tx.sync.session import Remote, Session
from ebooklet_tx.timestamps import now_us

PART_BYTES = 8 * 2**20
PACKS_IN_FLIGHT = 4

REUSED_FOR_SECONDS = 6 * 3600.0
"""How long after its sending began a pack may be named by a commit as it is.

`collect` deletes packs that no root names once they are a day old. An older one is copied to a new name
first, which makes it as new as one just sent."""


class ReplacedError(Exception):
    """A key was written again while a commit was built, and what it held before is gone: build it anew."""


class Place(NamedTuple):
    """Where a value lies in the remote."""

    object_name: str
    offset_bytes: int
    length_bytes: int


class PackedValue(NamedTuple):
    """A value as it was put into a pack."""

    digest: bytes
    offset_bytes: int
    length_bytes: int


def read_pending(session: Session, entry: Entry) -> bytes:
    """Returns the bytes of a pending value; the caller holds the mutex.

    Raises:
        ReplacedError: The key was written again since the entry was read, and the old value is gone.
        LocalIntegrityError: It is damaged.
    """
    value = session.local.read(entry)
    if value is None:
        raise _unreadable(session, entry)
    return value


def _unreadable(session: Session, entry: Entry) -> ReplacedError | LocalIntegrityError:
    now = session.journal.entry(entry.key)
    if now is None or now.digest != entry.digest:
        return ReplacedError(entry.key)
    return _damaged(session, entry)


def _damaged(session: Session, entry: Entry) -> LocalIntegrityError:
    return LocalIntegrityError(
        f"the value of key {entry.key!r} in {session.local.path} is damaged and can't be pushed; set or "
        "delete the key, or discard() its change"
    )


def place_values(session: Session, entries: Sequence[Entry]) -> dict[bytes, Place]:
    """Brings the values of pending entries into the store; returns their places by digest.

    What an earlier push of this journal brought there, as `reconcile_uploads` has found, is used and not
    sent again. When this raises, what has arrived is recorded.
    """
    _send_missing(session, entries)
    while renew_old_uploads(session):
        _send_missing(session, entries)
    return known_places(session)


def _send_missing(session: Session, entries: Sequence[Entry]) -> None:
    places = known_places(session)
    # In the order of the file, so that the disk is read from front to back.
    missing = sorted(
        (entry for entry in entries if entry.digest not in places),
        key=lambda entry: (entry.local_offset_bytes or 0, entry.key),
    )
    sized = [(entry, record_bytes(entry.key, entry.length_bytes)) for entry in missing]
    send_packs(session, _packs(session, [(entry, size) for entry, size in sized if size <= PACK_BYTES]))
    for entry, size in sized:
        if size > PACK_BYTES:
            _send_large(session, entry)


def send_packs(session: Session, packs: Iterable[tuple[str, bytes, Sequence[PackedValue]]]) -> None:
    """Sends packs (name, bytes, what is in them), some at once, and records each that arrives."""
    with ThreadPoolExecutor(max_workers=max(1, min(PACKS_IN_FLIGHT, session.remote.threads))) as pool:
        running: set[Future[None]] = set()
        try:
            for name, data, values in packs:
                running.add(pool.submit(_send_pack, session, name, data, values))
                if len(running) >= PACKS_IN_FLIGHT:
                    running = _finished(running)
            while running:
                running = _finished(running)
        except BaseException:
            for future in running:
                future.cancel()
            raise


def renew_old_uploads(session: Session) -> bool:
    """Copies packs that were sent long ago to new names; True when one turned out to be gone.

    Times are this journal's own, of one machine; where its clock was put forward or back, a pack is copied
    once too often.
    """
    with session.mutex, session.journal.reading() as raw:
        rows = raw.execute("SELECT name, begun_at_us FROM upload WHERE etag IS NOT NULL").fetchall()
    old = [name for name, begun_at_us in rows if abs(now_us() - begun_at_us) > REUSED_FOR_SECONDS * 1e6]
    gone = [name for name in old if not _renewed(session, name)]
    return bool(gone)


def _renewed(session: Session, name: str) -> bool:
    """Copies a pack to a new name, of which no collect knows, and uses that; False when it is gone."""
    names = session.remote.names
    fresh, begun_at_us = names.new_pack(), now_us()
    try:
        etag = session.remote.store.copy(names.object(name), names.object(fresh))
    except ObjectMissingError:
        with session.mutex, session.journal.transaction() as connection:
            _forget_upload(driver(connection), name)
        return False
    with session.mutex, session.journal.transaction() as connection:
        raw = driver(connection)
        raw.execute(
            "INSERT INTO upload(name, size_bytes, etag, begun_at_us) "
            "SELECT ?, size_bytes, ?, ? FROM upload WHERE name = ?",
            (fresh, etag, begun_at_us, name),
        )
        raw.execute("UPDATE packed SET name = ? WHERE name = ?", (fresh, name))
        _forget_upload(raw, name)
    return True


def _forget_upload(raw: sqlite3.Connection, name: str) -> None:
    raw.execute("DELETE FROM packed WHERE name = ?", (name,))
    raw.execute("DELETE FROM upload WHERE name = ?", (name,))


def forget_uploads(session: Session) -> None:
    """Forgets all uploads once their commit is the base; what is unused is garbage in the store."""
    with session.mutex, session.journal.transaction() as connection:
        raw = driver(connection)
        raw.execute("DELETE FROM packed")
        raw.execute("DELETE FROM upload")


def upload_refs(session: Session) -> dict[str, ObjectRef]:
    """Returns the packs that have arrived and belong to no commit yet."""
    with session.mutex, session.journal.reading() as raw:
        rows = raw.execute("SELECT name, etag, size_bytes FROM upload WHERE etag IS NOT NULL").fetchall()
    return {row[0]: ObjectRef(*row) for row in rows}


def _finished(running: set[Future[None]]) -> set[Future[None]]:
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest


def known_places(session: Session) -> dict[bytes, Place]:
    """Returns where values lie in packs that have arrived and belong to no commit yet, by digest."""
    with session.mutex, session.journal.reading() as raw:
        rows = raw.execute(
            "SELECT p.digest, p.name, p.offset_bytes, p.length_bytes FROM packed AS p "
            "JOIN upload AS u ON u.name = p.name WHERE u.etag IS NOT NULL"
        ).fetchall()
    return {digest: Place(name, offset, length) for digest, name, offset, length in rows}


def reconcile_uploads(session: Session) -> int:
    """Asks the store once for each pack of an earlier, unfinished push; returns how many are there.

    A pack's name is random and its put atomic, so an object of that name and size is the pack.
    """
    with session.mutex, session.journal.reading() as raw:
        uploads = raw.execute("SELECT name, size_bytes, etag, upload_id FROM upload").fetchall()
    for name, size_bytes, etag, upload_id in uploads:
        try:
            known = session.remote.store.head(session.remote.names.object(name))
        except ObjectMissingError:
            known = None
        with session.mutex, session.journal.transaction() as connection:
            raw = driver(connection)
            if known is not None and known.size_bytes == size_bytes:
                raw.execute("UPDATE upload SET etag = ? WHERE name = ?", (known.etag, name))
            elif etag is not None or upload_id is None:
                _forget_upload(raw, name)
    return len(upload_refs(session))


def _packs(
    session: Session, entries: Sequence[tuple[Entry, int]]
) -> Iterator[tuple[str, bytes, list[PackedValue]]]:
    """Fills packs with the values of (entry, bytes of its record) in order; equal values are packed once."""
    builder = PackBuilder()
    values: list[PackedValue] = []
    seen: set[bytes] = set()
    for entry, size_bytes in entries:
        digest = entry.digest
        if digest is None or digest in seen:
            continue
        if values and builder.size_bytes + size_bytes > PACK_BYTES:
            yield session.remote.names.new_pack(), builder.finish(), values
            builder, values = PackBuilder(), []
        with session.mutex:
            value = read_pending(session, entry)
        seen.add(digest)
        offset = builder.add(entry.key, entry.timestamp_us, value)
        values.append(PackedValue(digest, offset, len(value)))
    if values:
        yield session.remote.names.new_pack(), builder.finish(), values


def _send_pack(session: Session, name: str, data: bytes, values: Sequence[PackedValue]) -> None:
    remote = session.remote
    _note_upload(session, name, len(data), values)
    etag = remote.store.put(remote.names.object(name), data)
    _note_arrival(session, name, etag)


def _note_upload(session: Session, name: str, size_bytes: int, values: Sequence[PackedValue]) -> None:
    with session.mutex, session.journal.transaction() as connection:
        raw = driver(connection)
        raw.execute(
            "INSERT INTO upload(name, size_bytes, begun_at_us) VALUES (?, ?, ?)", (name, size_bytes, now_us())
        )
        raw.executemany(
            "INSERT OR REPLACE INTO packed(digest, name, offset_bytes, length_bytes) VALUES (?, ?, ?, ?)",
            sorted((value.digest, name, value.offset_bytes, value.length_bytes) for value in values),
        )


def _note_arrival(session: Session, name: str, etag: str) -> None:
    with session.mutex, session.journal.transaction() as connection:
        driver(connection).execute("UPDATE upload SET etag = ? WHERE name = ?", (etag, name))


# -- values with a pack of their own -----------------------------------------------------------


class _LargeValue:
    """A pack of one value, read from the local file in pieces."""

    def __init__(self, session: Session, entry: Entry, prefix: bytes) -> None:
        self._session = session
        self._entry = entry
        self._prefix = prefix
        self._in_file = entry.local_digest == entry.digest
        self._generation = session.local.file.generation

    @property
    def size_bytes(self) -> int:
        return len(self._prefix) + self._entry.length_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = offset_bytes + length_bytes
        head = self._prefix[offset_bytes:end]
        start = max(0, offset_bytes - len(self._prefix))
        stop = max(0, end - len(self._prefix))
        with self._session.mutex:
            self._follow()
            if self._in_file:
                body = self._session.local.file.read((self._entry.local_offset_bytes or 0) + start, stop - start)
            else:
                body = read_pending(self._session, self._entry)[start:stop]
        return head + body

    def _follow(self) -> None:
        """Looks the place up again where the file was rewritten since, so that no other bytes are sent."""
        local = self._session.local
        if local.file.generation == self._generation:
            return
        now = self._session.journal.entry(self._entry.key)
        if now is None or now.digest != self._entry.digest or not local.is_intact(now):
            raise _unreadable(self._session, self._entry)
        self._entry, self._generation = now, local.file.generation
        self._in_file = now.local_digest == now.digest


def _send_large(session: Session, entry: Entry) -> None:
    """Sends a value in parts; each part that arrives is recorded, so that a killed push goes on."""
    digest = entry.digest
    if digest is None:
        return
    with session.mutex:
        # Read once in full: parts must not carry damage that the digest would only show afterwards.
        if not session.local.is_intact(entry):
            raise _unreadable(session, entry)
        name, resume = _begin_large(session, entry, digest)
        source = _LargeValue(session, entry, pack_prefix(entry.key, entry.timestamp_us, entry.length_bytes))
    remote: Remote = session.remote

    def on_part(state: UploadState) -> None:
        with session.mutex, session.journal.transaction() as connection:
            driver(connection).execute(
                "UPDATE upload SET upload_id = ?, parts = ? WHERE name = ?",
                (state.upload_id, json.dumps(state.parts), name),
            )

    etag = remote.store.put_parts(
        remote.names.object(name), source, part_bytes=PART_BYTES, resume=resume, on_part=on_part
    )
    _note_arrival(session, name, etag)


def _begin_large(session: Session, entry: Entry, digest: bytes) -> tuple[str, UploadState | None]:
    """Finds the unfinished upload of this very value, or begins one."""
    offset = len(pack_prefix(entry.key, entry.timestamp_us, entry.length_bytes))
    with session.journal.reading() as raw:
        row = raw.execute(
            "SELECT u.name, u.upload_id, u.parts FROM packed AS p JOIN upload AS u ON u.name = p.name "
            "WHERE p.digest = ? AND p.offset_bytes = ? AND u.etag IS NULL",
            (digest, offset),
        ).fetchone()
    if row is not None:
        with decoding(session.journal.path, "the parts of an upload"):
            parts = tuple((number, etag) for number, etag in json.loads(row[2])) if row[2] else ()
        return row[0], UploadState(row[1], parts) if row[1] else None
    name = session.remote.names.new_pack()
    value = PackedValue(digest, offset, entry.length_bytes)
    _note_upload(session, name, offset + entry.length_bytes, [value])
    return name, None
