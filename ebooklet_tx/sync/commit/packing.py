"""Sending pending values in packs, so that an interrupted push resumes.

Owns nothing on disk; the journal's `uploads` says which packs are on their way. The invariant: a pack is noted
before it is sent, and its arrival only after it has arrived. So a push that was killed between an arrival and
the note of it finds the object by its name, and sends nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import NamedTuple, TypeAlias

from ebooklet_tx.errors import LocalIntegrityError, ObjectMissingError
from ebooklet_tx.formats.pack import PACK_BYTES, PackBuilder, pack_prefix, record_bytes
from ebooklet_tx.local.journal.entries import Entry, find_entry
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.uploads import (
    PackedValue,
    Place,
    arrived_packs,
    arrived_places,
    find_partial_upload,
    forget_upload,
    note_arrival,
    note_parts,
    note_upload,
    read_uploads,
    replace_upload,
)
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.stores.object_store import UploadState
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.timestamps import now_us

PART_BYTES = 8 * 2**20
PACKS_IN_FLIGHT = 4

REUSED_FOR_SECONDS = 6 * 3600.0
"""How long after its sending began a commit may name a pack as it is.

`collect` deletes packs that no root names once they are a day old. An older one is copied to a new name
first, which makes it as new as one just sent."""

Pack: TypeAlias = tuple[str, bytes, Sequence[PackedValue]]
"""A pack to send: its name, its bytes, and what is in it."""


class ReplacedError(Exception):
    """A key was written again while a commit was built, and its earlier value is gone: build the commit anew."""


class PendingValue(NamedTuple):
    """A value to be packed."""

    key: str
    timestamp_us: int
    digest: bytes
    value: bytes


# -- reading pending values --------------------------------------------------------------------


def read_pending(local: LocalStore, entry: Entry) -> bytes:
    """Returns the bytes of a pending value; the caller holds the mutex.

    Raises:
        ReplacedError: The key was written again since the entry was read, and the earlier value is gone.
        LocalIntegrityError: It is damaged.
    """
    value = local.read(entry)
    if value is None:
        raise _unreadable(local, entry)
    return value


def _unreadable(local: LocalStore, entry: Entry) -> ReplacedError | LocalIntegrityError:
    now = find_entry(local.journal, entry.key)
    if now is None or now.digest != entry.digest:
        return ReplacedError(entry.key)
    return LocalIntegrityError(
        f"the value of key {entry.key!r} in {local.path} is damaged and can't be pushed; set or "
        "delete the key, or discard() its change"
    )


def pending_values(local: LocalStore, entries: Iterable[Entry]) -> Iterator[PendingValue]:
    """Yields the values of pending entries, each distinct value once, reading one at a time."""
    seen: set[bytes] = set()
    for entry in entries:
        digest = entry.digest
        if digest is None or digest in seen:
            continue
        seen.add(digest)
        with local.mutex:
            value = read_pending(local, entry)
        yield PendingValue(entry.key, entry.timestamp_us, digest, value)


# -- sending -----------------------------------------------------------------------------------


def place_values(local: LocalStore, remote: Remote, entries: Sequence[Entry]) -> dict[bytes, Place]:
    """Brings the values of pending entries into the store; returns their places by digest.

    What an earlier push of this journal sent, as `reconcile_uploads` has found, is used and not sent again.
    When this raises, what has arrived is recorded.
    """
    journal = local.journal
    _send_missing(local, remote, entries)
    while renew_old_uploads(journal, remote):
        _send_missing(local, remote, entries)
    return arrived_places(journal)


def _send_missing(local: LocalStore, remote: Remote, entries: Sequence[Entry]) -> None:
    places = arrived_places(local.journal)
    # In the order of the file, so that the disk is read from front to back.
    missing = sorted(
        (entry for entry in entries if entry.digest not in places),
        key=lambda entry: (entry.local_offset_bytes or 0, entry.key),
    )
    sized = [(entry, record_bytes(entry.key, entry.length_bytes)) for entry in missing]
    small = [entry for entry, size in sized if size <= PACK_BYTES]
    values = pending_values(local, small)
    send_packs(local.journal, remote, fill_packs(values, remote.names.new_pack, pack_bytes=PACK_BYTES))
    for entry, size in sized:
        if size > PACK_BYTES:
            _send_large(local, remote, entry)


def fill_packs(
    values: Iterable[PendingValue], new_name: Callable[[], str], *, pack_bytes: int
) -> Iterator[tuple[str, bytes, list[PackedValue]]]:
    """Puts values into packs, in order, and yields each pack once no further value fits."""
    builder = PackBuilder()
    packed: list[PackedValue] = []
    for key, timestamp_us, digest, value in values:
        if packed and builder.size_bytes + record_bytes(key, len(value)) > pack_bytes:
            yield new_name(), builder.finish(), packed
            builder, packed = PackBuilder(), []
        offset = builder.add(key, timestamp_us, value)
        packed.append(PackedValue(digest, offset, len(value)))
    if packed:
        yield new_name(), builder.finish(), packed


def send_packs(journal: Journal, remote: Remote, packs: Iterable[Pack]) -> None:
    """Sends packs, some at once, and records each that arrives."""
    with ThreadPoolExecutor(max_workers=max(1, min(PACKS_IN_FLIGHT, remote.threads))) as pool:
        running: set[Future[None]] = set()
        try:
            for pack in packs:
                running.add(pool.submit(_send_pack, journal, remote, pack))
                if len(running) >= PACKS_IN_FLIGHT:
                    running = _finished(running)
            while running:
                running = _finished(running)
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _finished(running: set[Future[None]]) -> set[Future[None]]:
    done, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest


def _send_pack(journal: Journal, remote: Remote, pack: Pack) -> None:
    name, data, values = pack
    note_upload(journal, name, len(data), values, begun_at_us=now_us())
    note_arrival(journal, name, remote.store.put(remote.names.object(name), data))


# -- what an earlier push has sent -------------------------------------------------------------


def reconcile_uploads(journal: Journal, remote: Remote) -> int:
    """Asks the store once for each pack of an earlier, unfinished push; returns how many are there.

    A pack's name is random and its put atomic, so an object of that name and size is the pack.
    """
    for upload in read_uploads(journal):
        try:
            known = remote.store.head(remote.names.object(upload.name))
        except ObjectMissingError:
            known = None
        if known is not None and known.size_bytes == upload.size_bytes:
            note_arrival(journal, upload.name, known.etag)
        elif upload.etag is not None or upload.upload_id is None:
            forget_upload(journal, upload.name)
    return len(arrived_packs(journal))


def renew_old_uploads(journal: Journal, remote: Remote) -> bool:
    """Copies packs that were sent long ago to new names; True when one turned out to be gone.

    Times are those of this machine's clock alone; where that was put forward or back, a pack is copied once
    too often.
    """
    limit_us = REUSED_FOR_SECONDS * 1e6
    arrived = [upload for upload in read_uploads(journal) if upload.etag is not None]
    old = [upload.name for upload in arrived if abs(now_us() - upload.begun_at_us) > limit_us]
    gone = [name for name in old if not _renewed(journal, remote, name)]
    return bool(gone)


def _renewed(journal: Journal, remote: Remote, name: str) -> bool:
    """Copies a pack to a new name, which no `collect` has seen, and uses that; False when the pack is gone."""
    fresh, begun_at_us = remote.names.new_pack(), now_us()
    try:
        etag = remote.store.copy(remote.names.object(name), remote.names.object(fresh))
    except ObjectMissingError:
        forget_upload(journal, name)
        return False
    replace_upload(journal, name, fresh, etag, begun_at_us=begun_at_us)
    return True


# -- values with a pack of their own -----------------------------------------------------------


class _LargeValue:
    """A pack of one value, read from the local file in pieces."""

    def __init__(self, local: LocalStore, entry: Entry, prefix: bytes) -> None:
        self._local = local
        self._entry = entry
        self._prefix = prefix
        self._in_file = entry.local_digest == entry.digest
        self._generation = local.file.generation

    @property
    def size_bytes(self) -> int:
        return len(self._prefix) + self._entry.length_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        end = offset_bytes + length_bytes
        head = self._prefix[offset_bytes:end]
        start = max(0, offset_bytes - len(self._prefix))
        stop = max(0, end - len(self._prefix))
        with self._local.mutex:
            self._follow()
            if self._in_file:
                body = self._local.file.read((self._entry.local_offset_bytes or 0) + start, stop - start)
            else:
                body = read_pending(self._local, self._entry)[start:stop]
        return head + body

    def _follow(self) -> None:
        """Looks the place up again where the file was rewritten since, so that no other bytes are sent."""
        local = self._local
        if local.file.generation == self._generation:
            return
        now = find_entry(local.journal, self._entry.key)
        if now is None or now.digest != self._entry.digest or not local.is_intact(now):
            raise _unreadable(local, self._entry)
        self._entry, self._generation = now, local.file.generation
        self._in_file = now.local_digest == now.digest


def _send_large(local: LocalStore, remote: Remote, entry: Entry) -> None:
    """Sends a value in parts; each part that arrives is recorded, so that the next push resumes there."""
    digest = entry.digest
    if digest is None:
        return
    journal = local.journal
    with local.mutex:
        # Read once in full: parts must not carry damage that the digest would only show afterwards.
        if not local.is_intact(entry):
            raise _unreadable(local, entry)
        name, resume = _begin_large(journal, entry, digest, remote.names.new_pack)
        source = _LargeValue(local, entry, pack_prefix(entry.key, entry.timestamp_us, entry.length_bytes))

    def on_part(state: UploadState) -> None:
        note_parts(journal, name, state.upload_id, state.parts)

    etag = remote.store.put_parts(
        remote.names.object(name), source, part_bytes=PART_BYTES, resume=resume, on_part=on_part
    )
    note_arrival(journal, name, etag)


def _begin_large(
    journal: Journal, entry: Entry, digest: bytes, new_name: Callable[[], str]
) -> tuple[str, UploadState | None]:
    """Finds the unfinished upload of this very value, or begins one."""
    offset = len(pack_prefix(entry.key, entry.timestamp_us, entry.length_bytes))
    partial = find_partial_upload(journal, digest, offset)
    if partial is not None:
        return partial.name, UploadState(partial.upload_id, partial.parts) if partial.upload_id else None
    name = new_name()
    value = PackedValue(digest, offset, entry.length_bytes)
    note_upload(journal, name, offset + entry.length_bytes, [value], begun_at_us=now_us())
    return name, None
