"""Importing a remote that ebooklet wrote: fetched in batches, pushed, and dropped here again.

The invariants: the source is only read. What is on this machine is one batch, whatever the size of the database.
What the target has with the same timestamp is not fetched again, so an import that was killed goes on where it
stopped; and what it has with a newer one is never replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ebooklet_tx.connection import RemoteConn, parse_connection
from ebooklet_tx.database import Database
from ebooklet_tx.errors import Error, OfflineError
from ebooklet_tx.importing.arguments import check_apart, check_complete, serializer_of, source_at
from ebooklet_tx.importing.portions import PAGE_KEYS, key_pages, pages, parts
from ebooklet_tx.importing.report import MAX_LISTED, ImportReport
from ebooklet_tx.importing.source_file import changed
from ebooklet_tx.importing.source_root import Place, SourceRoot, read_source
from ebooklet_tx.importing.source_values import SourceValue, fetch_values, in_order_of_place
from ebooklet_tx.limits import MAX_TIMESTAMP_US
from ebooklet_tx.local.bounded_copies import check_local_bytes
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import note_origin
from ebooklet_tx.opening.opening import open as open_database
from ebooklet_tx.progress import Phase, ProgressOption, telling
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.read.fetch import fetch_many
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.timestamps import as_datetime
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.pickle_policy import is_pickling, pickle_allowed, warn_of_pickle
from ebooklet_tx.values.serializers import named_serializer

DEFAULT_LOCAL_BYTES = 256 * 2**20
LEAST_LOCAL_BYTES = 16 * 2**20
"""Beside a batch there is SQLite's log, of 4 MB at any size."""

KEY_BYTES = 400
"""What a key takes in the journal beside its value, roughly."""

KEYS_AHEAD = 1000
"""How many keys are looked up again together where another writer has committed to the target meanwhile."""


@at_edge
def import_ebooklet(
    source: RemoteConn,
    target: RemoteConn,
    path: str | os.PathLike[str],
    *,
    value_serializer: Any = None,
    verify: bool = False,
    accept_missing: bool = False,
    max_local_bytes: int = DEFAULT_LOCAL_BYTES,
    lock_timeout: float = 300.0,
    allow_pickle: bool | None = None,
    retry: RetryPolicy | None = None,
    progress: ProgressOption = None,
) -> ImportReport:
    """Copies a database of ebooklet's from its remote to one of ebooklet_tx, a batch at a time.

    Reads what ebooklet 0.5 and 0.11 store, without ebooklet. Each batch is fetched, pushed, and dropped
    from this machine. Encoded values, timestamps and the metadata come over as they are; no value is decoded. The
    source is not changed. Run it again after it was killed, or after ebooklet has pushed more: only what the
    target lacks, or has older, is fetched. A key that ebooklet has deleted meanwhile stays in the target.

    Args:
        source: The remote that ebooklet wrote, as `open` takes a place: a bucket or a public address. A web
            server that does not pass on S3's metadata does not tell the serializer.
        target: Where the new database is to be, or is.
        path: The local file to work with, in the end a copy of the target. What is pending in it is pushed.
        value_serializer: Only where the source does not name one: None there means bytes. A class that the
            values were made with need not be given.
        verify: Read every value of source and target once more, and compare.
        accept_missing: Leave out what is missing or damaged in the source; otherwise it raises in the end.
        max_local_bytes: What the local file and its journal may take, 16 MiB or more. A quarter of it is a batch;
            a single larger value needs three times its size.
        lock_timeout: Seconds to wait for another writer of the target.
        allow_pickle: As for `open`.
        retry: How failing requests are tried again; None for the connections' own.
        progress: As for `open`. The phases `import` and `compare` are of the whole database, and those of a batch
            lie within them.

    Returns:
        What was done; true when nothing is missing and nothing differs.

    Raises:
        RemoteMissingError: There is nothing at the source.
        UnsupportedFormatError: Something else than a database of ebooklet's lies at the source, or one of these
            at the target.
        RemoteIntegrityError: The source's root or index is damaged: nothing was imported. Or some values are
            missing or damaged: all others are in the target.
        ContentionError: ebooklet pushed to the source meanwhile; run it again.
        InvalidArgumentError: The arguments do not fit the source, or source and target are one place.
        OfflineError: A store can't be reached; run it again.

    Examples:
        >>> report = ebooklet_tx.import_ebooklet(old_remote, remote + "-moved", "moved.blt", verify=True)
        >>> report.imported_keys, report.verified_keys, bool(report)
        (39, 39, True)
    """
    check_local_bytes(max_local_bytes, least_bytes=LEAST_LOCAL_BYTES)
    source_place, target_place = parse_connection(source, for_reading=True), parse_connection(target)
    remote = source_at(source_place, retry)
    with contextlib.closing(remote.store), telling(progress):
        check_apart(remote, target_place)
        root = read_source(remote)
        serializer = serializer_of(root, value_serializer)
        name = named_serializer(serializer)
        trusted = pickle_allowed(allow_pickle) is True or is_pickling(named_serializer(value_serializer))
        with open_database(
            target_place,
            path,
            "c",
            serializer,
            lock_timeout=lock_timeout,
            allow_pickle=allow_pickle,
            on_conflict="newest",
            retry=retry,
            max_local_bytes=max_local_bytes,
        ) as database:
            if is_pickling(name) and not trusted:
                # The values are another writer's, although the database begins in this journal.
                note_origin(database._usable().journal, bytes(16))
                warn_of_pickle(name, root.name, stacklevel=3)
            run = _Import(remote, root, database, max_local_bytes // 4)
            kept = "importing again goes on from the last batch"
            with remote.reporter.phase("import", keys_total=root.key_count, kept=kept) as phase:
                run.import_all(phase)
            if verify:
                with remote.reporter.phase("compare", keys_total=root.key_count) as phase:
                    run.verify_all(phase)
            report = run.report(name, verified=verify)
        if not accept_missing:
            check_complete(root, report)
        return report


@dataclass
class _Counts:
    """What was done so far, of how much."""

    keys_total: int
    present_keys: int = 0
    newer_keys: int = 0
    imported_keys: int = 0
    imported_bytes: int = 0
    retimed_keys: int = 0
    missing_keys: int = 0
    missing: dict[str, str] = field(default_factory=dict)
    pushes: int = 0
    verified_keys: int = 0
    differing_keys: int = 0
    differing: list[str] = field(default_factory=list)
    other_keys: int = 0


class _Import:
    """One import: the source, the target, and what was done so far."""

    def __init__(self, remote: Remote, root: SourceRoot, database: Database, batch_bytes: int) -> None:
        self._remote = remote
        self._root = root
        self._database = database
        self._batch_bytes = batch_bytes
        self._counts = _Counts(root.key_count)
        self._reader: Reader = reader_of(database._usable())
        # How often commits of other writers came here: what was looked up before is out of date.
        self._moves = 0
        # What the journal keeps of the target's index counts as local as well.
        database._usable().local.pieces.most_bytes = batch_bytes // 2

    def import_all(self, phase: Phase) -> None:
        """Brings over what the target lacks, or has older."""
        if next(self._database.changes().iter_changes(), None) is not None:
            # What an import that was killed had fetched, and not pushed.
            self._push()
        self._import_metadata()
        for window in self._root.windows():
            moves = self._moves
            wanted = in_order_of_place(self._lacking(window))
            phase.advance(len(window) - len(wanted))
            with contextlib.closing(fetch_values(self._remote, self._root.groups, wanted)) as values:
                for batch_bytes in self._batches(self._still_lacking(values, wanted, moves, phase), phase):
                    self._push()
                    self._counts.imported_bytes += batch_bytes
        self._push()
        if self._counts.missing_keys and not self._root.is_current():
            raise changed(self._root.name)

    def _import_metadata(self) -> None:
        if self._root.metadata is None:
            return
        data, stamp = self._root.metadata
        present = self._database.get_metadata(include_timestamp=True)
        if present is None or present[1] < stamp:
            self._database.set_metadata(data, _given(stamp))

    def _lacking(self, window: Sequence[Place]) -> Iterator[Place]:
        for page in pages(window, PAGE_KEYS):
            stamps = self._target_stamps([place.key for place in page])
            yield from (place for place in page if self._is_lacking(place, stamps))

    def _is_lacking(self, place: Place, stamps: Mapping[str, int]) -> bool:
        stamp = stamps.get(place.key, -1)
        self._counts.present_keys += stamp == place.timestamp_us
        self._counts.newer_keys += stamp > place.timestamp_us
        return stamp < place.timestamp_us

    def _still_lacking(
        self, values: Iterable[SourceValue], wanted: Sequence[Place], moves: int, phase: Phase
    ) -> Iterator[SourceValue]:
        """Leaves out what other writers have set in the target since it was looked up.

        Written on top of their commits it would be no conflict, and replace them.

        Args:
            values: The values at the places, as they are fetched.
            wanted: The places.
            moves: How often other writers' commits had come when these were looked up.
            phase: Is told of what is left out.
        """
        began = moves
        looked: set[str] = set()
        stamps: dict[str, int] = {}
        for number, found in enumerate(values):
            key = found.place.key
            while self._moves != moves or (moves != began and key not in looked):
                moves = self._moves
                looked = {key, *(place.key for place in wanted[number : number + KEYS_AHEAD])}
                stamps = self._target_stamps(list(looked))
            if moves == began or self._is_lacking(found.place, stamps):
                yield found
            else:
                phase.advance(1)

    def _target_stamps(self, keys: Sequence[str]) -> dict[str, int]:
        before = self._seq()
        entries = self._reader.entries(keys)
        # A lookup pulls where a part of the index that it needs was collected.
        self._moves += self._seq() != before
        return {key: entry.timestamp_us for key, entry in entries.items() if entry.digest is not None}

    def _seq(self) -> int:
        """Returns the commit of the target on which this machine stands."""
        return read_base(self._reader.local.journal).seq

    def _batches(self, values: Iterable[SourceValue], phase: Phase) -> Iterator[int]:
        """Writes values to the local file; yields each time that a batch of them is there, with its bytes."""
        size = value_bytes = 0
        for found in values:
            key = found.place.key
            if isinstance(found.value, Error):
                self._miss(key, found.value)
                phase.advance(1)
                continue
            phase.advance(1, len(found.value))
            self._database.set(key, found.value, _given(found.timestamp_us), encode_value=False)
            self._counts.imported_keys += 1
            self._counts.retimed_keys += found.timestamp_us != found.place.timestamp_us
            value_bytes += len(found.value)
            size += len(found.value) + 2 * len(key.encode()) + KEY_BYTES
            if size >= self._batch_bytes:
                yield value_bytes
                size = value_bytes = 0
        yield value_bytes

    def _miss(self, key: str, error: Error) -> None:
        # The reason may be that ebooklet has pushed: then nothing is missing.
        if not self._counts.missing_keys and not self._root.is_current():
            raise changed(self._root.name) from error
        self._counts.missing_keys += 1
        if len(self._counts.missing) < MAX_LISTED:
            self._counts.missing[key] = str(error)

    def _push(self) -> None:
        """Publishes what is pending, and drops all local copies."""
        before = self._seq()
        pushed = self._database.changes().push(message=f"imported from ebooklet: {self._root.name}"[:1000])
        self._counts.pushes += pushed.updated
        self._moves += self._seq() != before + pushed.updated
        self._drop()

    def _drop(self) -> None:
        self._database.prune(MAX_TIMESTAMP_US)

    # -- comparing ---------------------------------------------------------------------------

    def verify_all(self, phase: Phase) -> None:
        """Reads every value of both sides, and compares them with their timestamps."""
        self._compare_metadata()
        found_keys = 0
        for window in self._root.windows():
            found_keys += sum(len(self._target_stamps(page_keys)) for page_keys in key_pages(window))
            values = fetch_values(self._remote, self._root.groups, in_order_of_place(window))
            kept_bytes = 0
            with contextlib.closing(values):
                for part in parts(self._readable(values), self._batch_bytes // 2):
                    kept_bytes += self._compare(part)
                    phase.advance(
                        len(part), sum(len(each.value) for each in part if isinstance(each.value, bytes))
                    )
                    if kept_bytes >= self._batch_bytes // 2:
                        self._drop()
                        kept_bytes = 0
            self._drop()
        self._counts.other_keys = len(self._database) - found_keys

    def _readable(self, values: Iterable[SourceValue]) -> Iterator[SourceValue]:
        """Yields the values that could be had; others are missing, where the import has not found that yet."""
        for found in values:
            if not isinstance(found.value, Error):
                yield found
            elif self._target_stamps([found.place.key]).get(found.place.key) == found.place.timestamp_us:
                self._miss(found.place.key, found.value)

    def _compare_metadata(self) -> None:
        if self._root.metadata is None:
            return
        present = self._database.get_metadata(include_timestamp=True)
        if present is None or (present[1] <= self._root.metadata[1] and present != self._root.metadata):
            self._differ("")

    def _compare(self, part: Sequence[SourceValue]) -> int:
        """Compares some values; returns the bytes of those that were fetched from the target."""
        keys = [found.place.key for found in part]
        stamps = self._target_stamps(keys)
        size = 0
        for expected, (key, value) in zip(part, fetch_many(self._reader, keys), strict=True):
            if isinstance(value, OfflineError):
                raise value
            if stamps.get(key, -1) > max(expected.timestamp_us, expected.place.timestamp_us):
                continue
            size += (len(value) if isinstance(value, bytes) else 0) + KEY_BYTES
            if value == expected.value and stamps.get(key) == expected.timestamp_us:
                self._counts.verified_keys += 1
            else:
                self._differ(key)
        return size

    def _differ(self, key: str) -> None:
        self._counts.differing_keys += 1
        if len(self._counts.differing) < MAX_LISTED:
            self._counts.differing.append(key)

    def report(self, serializer: str | None, *, verified: bool) -> ImportReport:
        """Returns what was done."""
        counts = self._counts
        return ImportReport(
            layout=self._root.layout,
            serializer=serializer,
            key_count=counts.keys_total,
            imported_keys=counts.imported_keys,
            imported_bytes=counts.imported_bytes,
            present_keys=counts.present_keys,
            newer_keys=counts.newer_keys,
            retimed_keys=counts.retimed_keys,
            missing_keys=counts.missing_keys,
            missing=counts.missing,
            pushes=counts.pushes,
            seq=self._database.changes().pull().seq,
            verified_keys=counts.verified_keys if verified else None,
            differing=tuple(counts.differing),
            differing_keys=counts.differing_keys,
            other_keys=counts.other_keys if verified else None,
        )


def _given(stamp_us: int) -> Any:
    # As a number, a time before 1990 would count as a mistake.
    return as_datetime(stamp_us) if stamp_us < 2**50 else stamp_us


__all__ = ["import_ebooklet"]
