"""A root's whole index: the live rows, and what is wrong with the objects that hold them.

The invariant: a row is live when no other row of its key has a higher seq, as for any reader; what could not be
read is among `problems`, so that an index with none of them is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from ebooklet_tx.errors import Error, ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.block import decode_block
from ebooklet_tx.formats.index_object import decode_pack_list, read_whole
from ebooklet_tx.formats.index_records import IndexEntry, Run, RunList
from ebooklet_tx.formats.pack import PACK_HEADER_BYTES, RECORD_HEAD_BYTES
from ebooklet_tx.formats.root import Root
from ebooklet_tx.index.history import HistoryReader
from ebooklet_tx.index.lookup import LocatedRow, located, tail_rows
from ebooklet_tx.index.pieces import NoCache, PieceReader
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.merged_index import LivePlace, MergedIndex
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.deadline import metered
from ebooklet_tx.sync.remote import Remote


class LivePack(NamedTuple):
    """A pack that live rows lie in.

    Attributes:
        ref: The pack, as the index has it.
        live_bytes: Those of its bytes that live rows use, with the heads of the records.
        key_count: How many keys have their values there.
    """

    ref: ObjectRef
    live_bytes: int
    key_count: int

    @property
    def live_share(self) -> float:
        """The part of its bytes that live rows use; 1 where all are."""
        size_bytes = self.ref.size_bytes
        return min(1.0, self.live_bytes / size_bytes) if size_bytes else 1.0


@dataclass(frozen=True, slots=True)
class IndexProblem:
    """A part of the index that can't be read or says what it must not.

    Attributes:
        name: The relative name of the object; "" for the tail.
        error: What is wrong with it.
        missing: Whether it is not there at all.
    """

    name: str
    error: Error
    missing: bool = False


def live_bytes(record_count: int, record_bytes: int) -> int:
    """Returns the size of a pack that holds some records, given the bytes of their keys and values."""
    return PACK_HEADER_BYTES + record_count * RECORD_HEAD_BYTES + record_bytes


def _rows_of(remote: Remote, entry: IndexEntry) -> Iterator[LocatedRow]:
    """Reads an index object whole, holds all of it to its digests, and yields the rows in its entry's slot."""
    name = remote.names.object(entry.name)
    blob = remote.store.get(name, max_bytes=entry.size_bytes)
    data = b"" if blob is None else blob.data
    directory = read_whole(data, entry=entry, name=name)
    listed = data[directory.packs_offset_bytes : directory.packs_offset_bytes + directory.packs_length_bytes]
    uses = decode_pack_list(listed, directory=directory, name=f"the list of packs of {name}")
    packs: set[ObjectRef] = set()
    for number, ref in enumerate(directory.blocks):
        part = data[ref.offset_bytes : ref.offset_bytes + ref.length_bytes]
        block = decode_block(part, expect=ref, name=f"a block of {name}")
        packs.update(block.packs)
        for row in block.rows(*directory.slot(number, entry.lo, entry.hi)):
            yield located(row, block, entry.ref)
    if packs != {use.ref for use in uses}:
        raise RemoteIntegrityError(f"{name}: its list of packs is not that of its blocks", object_name=name)


class MergedRoot:
    """The live rows of one root.

    Attributes:
        problems: What is wrong with parts of its index; the rows of one that can't be read are not here.
        objects: The objects that the index is made of, and the history's.
    """

    def __init__(self) -> None:
        self.problems: list[IndexProblem] = []
        self.objects: dict[str, ObjectRef] = {}
        self._merged = MergedIndex()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._merged.close()

    @property
    def complete(self) -> bool:
        """Whether every part was read, so that what is not in here is surely dead."""
        return not self.problems

    def add_root(self, remote: Remote, root: Root) -> None:
        """Adds what a root names, an object at a time; notes what is wrong in `problems`.

        Raises:
            UnsupportedFormatError: A newer version wrote a part of it.
            OfflineError: The remote can't be reached.
        """
        reader = IndexReader(PieceReader(remote.store, remote.names, NoCache(), threads=remote.threads))
        for ref in root.manifest.histories:
            self.objects[ref.name] = ObjectRef(ref.name, ref.etag, ref.size_bytes)
        entries = [entry for run in root.manifest.runs for entry in self._entries(reader, run)]
        with remote.reporter.phase("read index", bytes_total=sum(entry.size_bytes for entry in entries)) as phase:
            for entry in entries:
                self.objects[entry.name] = entry.ref
                with self._noting(entry.name), phase.moving(entry.size_bytes) as moved, metered(moved):
                    self._merged.add(_rows_of(remote, entry))
                phase.advance(0, entry.size_bytes)
        with self._noting(""):
            if root.tail:
                self._merged.add(tail_rows(root.tail_block(), ObjectRef("", "", 0)))

    def check_history(self, remote: Remote, root: Root) -> None:
        """Reads the older history that a root names; notes what is wrong in `problems`."""
        history = HistoryReader(remote.store, remote.names)
        for ref in root.manifest.histories:
            with self._noting(ref.name):
                history.part(ref)

    def _entries(self, reader: IndexReader, run: Run) -> list[IndexEntry]:
        if not isinstance(run, RunList):
            return list(run)
        self.objects[run.ref.name] = run.ref
        with self._noting(run.ref.name):
            return reader.all_entries(run)
        return []

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Notes what is wrong with a part, and goes on with the next."""
        try:
            yield
        except ObjectMissingError as error:
            missing = RemoteIntegrityError(
                f"it is missing, although the root names it: {error}", object_name=name
            )
            self.problems.append(IndexProblem(name, missing, missing=True))
        except RemoteIntegrityError as error:
            self.problems.append(IndexProblem(name, error))

    def packs(self) -> Iterator[LivePack]:
        """Yields the packs that live rows lie in, in order of name."""
        for ref, record_count, record_bytes, key_count in self._merged.objects():
            yield LivePack(ref, live_bytes(record_count, record_bytes), key_count)

    def values_in(self, ref: ObjectRef) -> list[RemoteValue]:
        """Returns the live values in a pack, from front to back, one for each key."""
        return self._merged.values_in(ref)

    def places(self, name: str) -> Iterator[LivePlace]:
        """Yields the places of the live values in a pack, from front to back, each once."""
        return self._merged.places(name)

    def amount_in(self, name: str) -> tuple[int, int]:
        """Returns how many live values a pack has, and how many bytes of them."""
        return self._merged.amount_in(name)

    def keys_in(self, name: str, limit: int, place: LivePlace | None = None) -> list[str]:
        """Returns the first of the keys whose values lie in a pack, or at one place of it."""
        return self._merged.keys_in(name, limit, place)

    def key_count(self) -> int:
        """Returns how many keys have a value, the metadata not among them."""
        return self._merged.key_count()
