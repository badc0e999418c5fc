"""What a push says of the keys whose values it has just sent, kept so that the journal is not read for it again.

A first push sends all its values, and mostly in the order of key. Then the rows of its commit are known once the
last value is packed, and reading them from the journal anew would cost more than all else about them.

The invariant: rows are given only where they are all that the push is to say of values in packs, in strict order
of key. Whether the operations are still pending is for the commit to find out, as of rows that it has read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from operator import lt
from typing import NamedTuple

from ebooklet_tx.index.row_batches import RowBatch
from ebooklet_tx.records import DIGEST_BYTES, ObjectRef
from ebooklet_tx.sync.forks.spill import Held, Spill

HELD_BYTES = 16 * 2**20
"""Of more rows than fit into this, the rest is kept in a temporary file; four bytes of each are in memory."""

_ROWS_AT_ONCE = 2000


class _Part(NamedTuple):
    """Some rows: how many, how many bytes their keys take, and where they are kept."""

    row_count: int
    key_bytes: int
    held: Held


class _Rows(NamedTuple):
    """Some rows, a list for each field."""

    keys: list[str]
    stamps: list[int]
    digests: list[bytes]
    lengths: list[int]


class SentRows:
    """Keeps rows in the order in which they are packed, and where the packs have their values.

    Attributes:
        row_count: How many rows it was given.
        first_key: The first of their keys; None where there are no rows.
    """

    def __init__(self) -> None:
        self.row_count = 0
        self.first_key: str | None = None
        self._spill = Spill(HELD_BYTES)
        self._parts: list[_Part] = []
        self._packs: list[tuple[str, array[int]]] = []
        self._waiting = _Rows([], [], [], [])
        self._last_key: str | None = None
        self._is_usable = True

    def add(
        self,
        keys: Sequence[str],
        stamps: Sequence[int],
        digests: Sequence[bytes],
        lengths_bytes: Sequence[int],
    ) -> None:
        """Takes rows, of which there is at least one, before their values are packed in the same order."""
        if not self._is_usable:
            return
        if (self._last_key is not None and keys[0] <= self._last_key) or not _ascend(keys):
            self.give_up()
            return
        self.first_key = keys[0] if self.first_key is None else self.first_key
        self._last_key = keys[-1]
        self.row_count += len(keys)
        waiting = self._waiting
        waiting.keys.extend(keys)
        waiting.stamps.extend(stamps)
        waiting.digests.extend(digests)
        waiting.lengths.extend(lengths_bytes)
        if len(waiting.keys) >= _ROWS_AT_ONCE:
            self._keep()

    def add_pack(self, name: str, offsets_bytes: Iterable[int]) -> None:
        """Takes where the next values lie in the next pack."""
        if self._is_usable:
            self._packs.append((name, array("I", offsets_bytes)))

    def is_whole(self, count: int, packs: Mapping[str, ObjectRef]) -> bool:
        """Whether it has so many rows, all of them in these packs, and none was out of order.

        It is asked before `batches`, when all rows are here: the last of them may find no room.
        """
        self._keep()
        placed = sum(len(offsets) for _, offsets in self._packs)
        named = all(name in packs for name, _ in self._packs)
        return self._is_usable and named and self.row_count == placed == count > 0

    def batches(self, seq: int, packs: Mapping[str, ObjectRef]) -> Iterator[RowBatch]:
        """Yields the rows, as of a commit; right where `is_whole` said so.

        Args:
            seq: The number of the commit.
            packs: The packs, which have arrived.
        """
        places = _Places(self._packs, packs)
        for part in self._parts:
            keys, stamps, digests, lengths = _unpacked(self._spill.read(part.held), part)
            refs, names, offsets = places.take(part.row_count)
            seqs, values = [seq] * part.row_count, [None] * part.row_count
            yield RowBatch((keys, seqs, stamps, digests, names, offsets, lengths, values), refs)

    def give_up(self) -> None:
        """Forgets all rows, and takes no more."""
        self._is_usable = False
        self._parts, self._packs, self._waiting = [], [], _Rows([], [], [], [])
        self.close()

    def close(self) -> None:
        """Removes the temporary file."""
        self._spill.close()

    def _keep(self) -> None:
        keys, stamps, digests, lengths = self._waiting
        if not keys:
            return
        text = "".join(keys).encode("utf-8", "surrogatepass")
        numbers = array("I", map(len, keys)), array("Q", stamps), array("Q", lengths)
        data = b"".join((*(column.tobytes() for column in numbers), *digests, text))
        try:
            self._parts.append(_Part(len(keys), len(text), self._spill.put(data)))
        except OSError:
            # Without room for it, the journal is read.
            self.give_up()
        self._waiting = _Rows([], [], [], [])


def _ascend(keys: Sequence[str]) -> bool:
    return all(map(lt, keys, islice(keys, 1, None)))


def _unpacked(data: bytes, part: _Part) -> _Rows:
    count, at = part.row_count, 0
    numbers: list[list[int]] = []
    for code in "IQQ":
        column = array(code)
        size = column.itemsize * count
        column.frombytes(data[at : at + size])
        numbers.append(column.tolist())
        at += size
    key_lens, stamps, lengths = numbers
    end = len(data) - part.key_bytes
    digests = [data[begin : begin + DIGEST_BYTES] for begin in range(at, end, DIGEST_BYTES)]
    text = data[end:].decode("utf-8", "surrogatepass")
    keys = [text[begin:stop] for begin, stop in pairwise(accumulate(key_lens, initial=0))]
    return _Rows(keys, stamps, digests, lengths)


class _Places:
    """Gives the places of values in their order."""

    def __init__(self, noted: Sequence[tuple[str, array[int]]], packs: Mapping[str, ObjectRef]) -> None:
        self._noted = iter(noted)
        self._packs = packs
        self._ref = ObjectRef("", "", 0)
        self._left: array[int] = array("I")
        self._at = 0

    def take(self, count: int) -> tuple[list[ObjectRef], list[str], list[int]]:
        """Returns pack, its name, and offset of each of the next values."""
        refs: list[ObjectRef] = []
        names: list[str] = []
        offsets: list[int] = []
        while len(offsets) < count:
            if self._at == len(self._left):
                name, self._left = next(self._noted)
                self._ref, self._at = self._packs[name], 0
            some = self._left[self._at : self._at + count - len(offsets)]
            self._at += len(some)
            offsets += some
            refs += [self._ref] * len(some)
            names += [self._ref.name] * len(some)
        return refs, names, offsets


__all__ = ["SentRows"]
