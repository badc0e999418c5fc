"""A root's whole index: the live rows, and what is wrong with the objects that hold them.

The invariant: a row is live when no other row of its key has a higher seq, as for any reader; what could not be
read is among `problems`, so that an index with none of them is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from ebooklet_tx.errors import Error, ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.pack import PACK_HEADER_BYTES, RECORD_HEAD_BYTES
from ebooklet_tx.formats.root import Root
from ebooklet_tx.formats.segment import read_segment
from ebooklet_tx.local.merged_index import LivePlace, MergedIndex
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.sync.pull.segments import fetch_segment
from ebooklet_tx.sync.remote import Remote


class LivePack(NamedTuple):
    """A pack that live rows lie in.

    Attributes:
        ref: The pack, as the index has it.
        live_bytes: Those of its bytes that live rows use, with the heads of the records.
    """

    ref: ObjectRef
    live_bytes: int

    @property
    def live_share(self) -> float:
        """The part of its bytes that live rows use; 1 where all are."""
        size_bytes = self.ref.size_bytes
        return min(1.0, self.live_bytes / size_bytes) if size_bytes else 1.0


@dataclass(frozen=True, slots=True)
class SegmentProblem:
    """A segment, or the tail, that can't be read or says what it must not.

    Attributes:
        name: The segment's relative name; "" for the tail.
        error: What is wrong with it.
        missing: Whether it is not there at all.
    """

    name: str
    error: Error
    missing: bool = False


def live_bytes(record_count: int, record_bytes: int) -> int:
    """Returns the size of a pack that holds some records, given the bytes of their keys and values."""
    return PACK_HEADER_BYTES + record_count * RECORD_HEAD_BYTES + record_bytes


class RemoteIndex:
    """The live rows of one root.

    Attributes:
        problems: What is wrong with its segments; the rows of one that can't be read are not here.
    """

    def __init__(self) -> None:
        self.problems: list[SegmentProblem] = []
        self._merged = MergedIndex()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._merged.close()

    @property
    def complete(self) -> bool:
        """Whether every segment was read, so that what is not in here is surely dead."""
        return not self.problems

    def add_root(self, remote: Remote, root: Root) -> None:
        """Adds what a root names, a segment at a time; notes what is wrong in `problems`.

        Raises:
            UnsupportedFormatError: A newer version wrote a part of it.
            OfflineError: The remote can't be reached.
        """
        manifest = root.manifest
        for segment in manifest.segments:
            try:
                image = fetch_segment(remote, segment)
            except RemoteIntegrityError as error:
                missing = isinstance(error.__cause__, ObjectMissingError)
                self.problems.append(SegmentProblem(segment.name, error, missing))
                continue
            self._add(image, remote, segment.name, segment.first_seq, segment.last_seq)
        if not root.tail:
            return
        first_seq = manifest.segments[-1].last_seq + 1 if manifest.segments else 1
        try:
            image = read_segment(root.tail, name=f"the tail of {remote.root_place}")
        except RemoteIntegrityError as error:
            self.problems.append(SegmentProblem("", error))
        else:
            self._add(image, remote, "", first_seq, manifest.seq)

    def _add(self, image: bytes, remote: Remote, name: str, first_seq: int, last_seq: int) -> None:
        strayed = self._merged.add(image, first_seq, last_seq)
        if strayed:
            shown = repr(remote.names.object(name)) if name else f"the tail of {remote.root_place}"
            error = RemoteIntegrityError(
                f"{shown} has {strayed} rows of commits outside {first_seq} to {last_seq}, which is what the "
                "root says it holds; restore it from a backup"
            )
            self.problems.append(SegmentProblem(name, error))

    def packs(self) -> Iterator[LivePack]:
        """Yields the packs that live rows lie in, in order of name."""
        for ref, record_count, record_bytes in self._merged.objects():
            yield LivePack(ref, live_bytes(record_count, record_bytes))

    def places(self, name: str) -> Iterator[LivePlace]:
        """Yields the places of the live values in a pack, from front to back, each once."""
        return self._merged.places(name)

    def keys_in(self, name: str, limit: int, place: LivePlace | None = None) -> list[str]:
        """Returns the first of the keys whose values lie in a pack, or at one place of it."""
        return self._merged.keys_in(name, limit, place)

    def key_count(self) -> int:
        """Returns how many keys have a value, the metadata not among them."""
        return self._merged.key_count()
