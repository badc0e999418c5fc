"""Columns of numbers and texts in one checked frame: what blocks, directories, lists and histories are made of.

A frame is a header, one zlib stream with the columns one after another, and plain bytes that no compression
helps (digests, ids). docs/reference/FORMAT.md gives the layout.

The invariant: a reader allocates nothing that its caller's limits do not allow, reads each byte of a frame once,
and raises `RemoteIntegrityError` or `UnsupportedFormatError`, naming the object, for anything that does not hold.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import sub
from typing import TYPE_CHECKING, NamedTuple, overload

from ebooklet_tx.errors import InvalidArgumentError, RemoteIntegrityError, UnsupportedFormatError
from ebooklet_tx.formats.checks import short
from ebooklet_tx.formats.fences import common_length
from ebooklet_tx.limits import MAX_KEY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME_VERSION = 2
FRAME_HEADER_BYTES = 24

_HEADER = struct.Struct("<8sHHIII")
_NUMBER = struct.Struct("<Q")
_PLAIN_HEAD = struct.Struct("<Bq")
_DELTA_HEAD = struct.Struct("<Bqq")
_TEXT_HEAD = struct.Struct("<II")
_DELTA = 0x10

# Chosen by measurement: level 1 takes as long, and 9 gains less than 1 %.
_COMPRESSION_LEVEL = 3

_UNPACKED_WIDTHS = (0, 1, 2, 4, 4, 8, 8, 8, 8)
_UNPACKED_CODES = {2: "H", 4: "I", 8: "Q"}


class FrameKind(NamedTuple):
    """What a frame is: its magic, what messages call it, and the limits of reader and writer alike."""

    magic: bytes
    what: str
    most_rows: int
    most_raw_bytes: int
    most_bytes: int


class FrameWriter:
    """Gathers columns and makes a frame of them."""

    def __init__(self, kind: FrameKind) -> None:
        self._kind = kind
        self._packed: list[bytes] = []
        self._plain: list[bytes] = []
        self._text_bytes = 0

    def number(self, value: int) -> None:
        """Adds one number of 0 to 2**64 - 1."""
        self._packed.append(_NUMBER.pack(value))

    def integers(self, values: Sequence[int]) -> None:
        """Adds a column of numbers of 0 to 2**63 - 1.

        They are kept as differences to the least of them, or as differences of one to the next where
        these are narrower. A column of equal numbers takes 9 bytes, and so does one with an even stride.
        """
        if not values:
            return
        least = min(values)
        width = _width(max(values) - least)
        if width:
            steps = list(map(sub, values[1:], values))
            if steps:
                least_step = min(steps)
                step_width = _width(max(steps) - least_step)
                if step_width < width:
                    self._packed.append(_DELTA_HEAD.pack(step_width | _DELTA, least_step, values[0]))
                    self._planes(steps, least_step, step_width)
                    return
        self._packed.append(_PLAIN_HEAD.pack(width, least))
        self._planes(values, least, width)

    def texts(self, values: Sequence[str]) -> None:
        """Adds a column of texts; what all begin with is kept once."""
        if not values:
            return
        # The least and the greatest differ soonest of any two.
        least = min(values)
        cut = common_length(least, max(values))
        prefix = least[:cut]
        if cut:
            values = [text[cut:] for text in values]
        encoded_prefix, encoded = prefix.encode(), "".join(values).encode()
        self._text_bytes += len(encoded_prefix) * len(values) + len(encoded)
        self._packed.append(_TEXT_HEAD.pack(len(encoded_prefix), len(encoded)) + encoded_prefix)
        self.integers(list(map(len, values)))
        self._packed.append(encoded)

    def blob(self, data: bytes) -> None:
        """Adds bytes whose length the reader knows; they are compressed with the columns."""
        self._packed.append(data)

    def plain(self, data: bytes) -> None:
        """Adds bytes whose length the reader knows, and that are not worth compressing."""
        self._plain.append(data)

    def finish(self, row_count: int) -> bytes:
        """Returns the frame.

        Raises:
            InvalidArgumentError: It is past a limit of its readers.
        """
        kind = self._kind
        raw = b"".join(self._packed)
        packed = zlib.compress(raw, _COMPRESSION_LEVEL)
        head = _HEADER.pack(kind.magic, FRAME_VERSION, 0, row_count, len(packed), len(raw))
        frame = b"".join((head, packed, *self._plain))
        for size, most, unit in (
            (row_count, kind.most_rows, "rows"),
            (max(len(raw), self._text_bytes), kind.most_raw_bytes, "bytes before compression"),
            (len(frame), kind.most_bytes, "bytes"),
        ):
            if size > most:
                raise InvalidArgumentError(
                    f"{kind.what} of {size} {unit} can't be written: no reader takes more than {most}"
                )
        return frame

    def _planes(self, values: Sequence[int], least: int, width: int) -> None:
        """Adds the numbers byte by byte: first the lowest byte of each, then the next of each."""
        if width == 0:
            return
        if least:
            values = [value - least for value in values]
        if width == 1:
            self._packed.append(bytes(values))
            return
        size = _UNPACKED_WIDTHS[width]
        data = struct.pack(f"<{len(values)}{_UNPACKED_CODES[size]}", *values)
        self._packed += [data[plane::size] for plane in range(width)]


class Texts(Sequence[str]):
    """A column of texts as a frame has it, cut apart where one is asked for.

    Attributes:
        prefix: What all of them begin with.
    """

    __slots__ = ("_count", "_ends", "_joined", "_length", "prefix")

    def __init__(self, count: int, prefix: str, joined: str, length: int, ends: array[int] | None) -> None:
        """Takes the texts without their prefix, joined.

        Args:
            count: How many they are.
            prefix: The prefix.
            joined: The rest of each, one after another.
            length: How long each of these is, where all are of one length.
            ends: Otherwise a 0, and where in `joined` each of them ends.
        """
        self._count = count
        self.prefix = prefix
        self._joined = joined
        self._length = length
        self._ends = ends

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> str: ...

    @overload
    def __getitem__(self, number: slice) -> list[str]: ...

    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return self.unpacked()[number]
        if number < 0:
            number += self._count
        if not 0 <= number < self._count:
            raise IndexError(number)
        if self._ends is not None:
            return self.prefix + self._joined[self._ends[number] : self._ends[number + 1]]
        start = number * self._length
        return self.prefix + self._joined[start : start + self._length]

    def __iter__(self) -> Iterator[str]:
        return iter(self.unpacked())

    def unpacked(self) -> list[str]:
        """Returns all of them."""
        prefix, texts = self.prefix, self.without_prefix()
        return [prefix + text for text in texts] if prefix else texts

    def comparable(self) -> Sequence[str] | Sequence[bytes]:
        """Returns what compares as they do, one for each, made in one step where that can be."""
        joined, length = self._joined, self._length
        if self._ends is None and length and joined.isascii():
            return struct.unpack(f"{length}s" * self._count, joined.encode())
        return self.without_prefix()

    def without_prefix(self) -> list[str]:
        """Returns the rest of each behind the prefix."""
        joined, length = self._joined, self._length
        if self._ends is not None:
            return [joined[start:end] for start, end in pairwise(self._ends)]
        if not length:
            return [""] * self._count
        return [joined[start : start + length] for start in range(0, self._count * length, length)]


class FrameReader:
    """Reads the columns of a frame in the order in which they were written.

    Attributes:
        row_count: The number of rows that the header announces, within the kind's limit.
    """

    def __init__(self, data: bytes | memoryview, kind: FrameKind, name: str) -> None:
        self._kind = kind
        self._name = name
        if data[:8] != kind.magic:
            raise self.damaged("it does not begin as one")
        if len(data) < FRAME_HEADER_BYTES:
            raise self.damaged(f"it is cut off after {len(data)} bytes")
        _, version, flags, self.row_count, packed_bytes, raw_bytes = _HEADER.unpack_from(data)
        if version > FRAME_VERSION or (version == FRAME_VERSION and flags):
            said = f"{version} with flags {flags:#x}" if flags else str(version)
            raise UnsupportedFormatError(
                f"{name} holds {kind.what} of format {said}; this version of ebooklet_tx reads up to "
                f"{FRAME_VERSION}. Upgrade ebooklet_tx"
            )
        if version != FRAME_VERSION:
            raise self.damaged(f"it says that its format is {version}, which has none")
        if len(data) > kind.most_bytes:
            raise self.damaged(f"it is {len(data)} bytes long; the limit is {kind.most_bytes}")
        if self.row_count > kind.most_rows:
            raise self.damaged(f"it announces {self.row_count} rows; the limit is {kind.most_rows}")
        if raw_bytes > kind.most_raw_bytes:
            raise self.damaged(
                f"it announces {raw_bytes} bytes when decompressed; the limit is {kind.most_raw_bytes}"
            )
        body = memoryview(data)[FRAME_HEADER_BYTES:]
        if packed_bytes > len(body):
            raise self.damaged(f"it has {len(body)} bytes and announces {packed_bytes}")
        self._plain = body[packed_bytes:]
        self._plain_at = 0
        self._text_bytes = 0
        self._raw = self._inflate(body[:packed_bytes], raw_bytes)
        self._at = 0

    def number(self, least: int, most: int, what: str) -> int:
        """Returns one number, held to its range; `what` is how messages call it."""
        (value,) = _NUMBER.unpack(self._take(_NUMBER.size))
        if not least <= value <= most:
            raise self.damaged(f"its {what} is {value}; {least} to {most} is possible")
        return int(value)

    def integers(self, count: int, least: int, most: int, what: str) -> Sequence[int]:
        """Returns a column of numbers, each held to the range.

        It never changes, and is of a type that Python's search for garbage does not go through again and again:
        the columns of the blocks that a session keeps have millions of numbers.
        """
        if count == 0:
            return ()
        head = self._take(1)[0]
        width = head & ~_DELTA
        if width > 8:
            raise self.damaged(f"its {what} have a width of {width} bytes")
        base = int.from_bytes(self._take(8), "little", signed=True)
        if head & _DELTA:
            first = int.from_bytes(self._take(8), "little", signed=True)
            values: Sequence[int]
            if width == 0 and base:
                values = range(first, first + base * count, base)
            else:
                values = tuple(accumulate(self._planes(count - 1, width, base), initial=first))
            # Where no step goes down, the first is the least and the last the greatest.
            ends = (first, values[-1]) if base >= 0 else None
        else:
            values = self._planes(count, width, base)
            # No number of this width leads further.
            ends = base, base + 2 ** (8 * width) - 1
        if ends is None or ends[0] < least or ends[1] > most:
            ends = min(values), max(values)
            if ends[0] < least or ends[1] > most:
                raise self.damaged(f"its {what} are {ends[0]} to {ends[1]}; {least} to {most} is possible")
        return values

    def texts(self, count: int, what: str, *, most_bytes: int = MAX_KEY_BYTES) -> list[str]:
        """Returns a column of texts, each of at most so many bytes in UTF-8."""
        return self.packed_texts(count, what, most_bytes=most_bytes).unpacked()

    def packed_texts(self, count: int, what: str, *, most_bytes: int = MAX_KEY_BYTES) -> Texts:
        """Likewise, as they were packed: a few objects instead of one for each text."""
        if count == 0:
            return Texts(0, "", "", 0, None)
        prefix_bytes, joined_bytes = _TEXT_HEAD.unpack(self._take(_TEXT_HEAD.size))
        # A long prefix, kept once, would make much of little.
        self._text_bytes += prefix_bytes * count + joined_bytes
        if self._text_bytes > self._kind.most_raw_bytes:
            raise self.damaged(f"its {what} would make its texts take over {self._kind.most_raw_bytes} bytes")
        try:
            prefix = self._take(prefix_bytes).decode()
            lengths = self.integers(count, 0, joined_bytes, f"lengths of {what}")
            joined = self._take(joined_bytes).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"its {what} are not UTF-8") from error
        announced, longest = sum(lengths), max(lengths)
        if announced != len(joined):
            raise self.damaged(f"its {what} have {len(joined)} characters and announce {announced}")
        same = longest * count == announced
        ends = None if same else array("I", accumulate(lengths, initial=0))
        texts = Texts(count, prefix, joined, longest, ends)
        longest += len(prefix)
        if longest * 4 > most_bytes and any(len(text.encode()) > most_bytes for text in texts.unpacked()):
            raise self.damaged(f"one of its {what} is over {most_bytes} bytes long")
        return texts

    def blob(self, size_bytes: int) -> bytes:
        """Returns bytes that were compressed with the columns."""
        return self._take(size_bytes)

    def plain(self, size_bytes: int) -> bytes:
        """Returns bytes that were not compressed."""
        end = self._plain_at + size_bytes
        if end > len(self._plain):
            raise self.damaged("it is cut off")
        data = bytes(self._plain[self._plain_at : end])
        self._plain_at = end
        return data

    def finish(self) -> None:
        """Checks that nothing is left over."""
        if self._at != len(self._raw) or self._plain_at != len(self._plain):
            raise self.damaged("it has bytes that belong to nothing")

    def damaged(self, problem: str) -> RemoteIntegrityError:
        """Returns the error for a frame that is not sound."""
        return damaged(self._name, self._kind.what, problem)

    def _inflate(self, packed: memoryview, raw_bytes: int) -> bytes:
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(packed, raw_bytes + 1)
        except zlib.error as error:
            raise self.damaged(f"it can't be decompressed ({short(str(error))})") from error
        if not inflate.eof or inflate.unused_data or len(raw) != raw_bytes:
            raise self.damaged(f"it does not decompress to the {raw_bytes} bytes announced")
        return raw

    def _take(self, size_bytes: int) -> bytes:
        end = self._at + size_bytes
        if end > len(self._raw):
            raise self.damaged("its columns are cut off")
        data = self._raw[self._at : end]
        self._at = end
        return data

    def _planes(self, count: int, width: int, base: int) -> Sequence[int]:
        if width == 0:
            return (base,) * count
        planes = self._take(count * width)
        if width == 1:
            numbers: Sequence[int] = planes
        else:
            size = _UNPACKED_WIDTHS[width]
            data = bytearray(count * size)
            for plane in range(width):
                data[plane::size] = planes[plane * count : (plane + 1) * count]
            numbers = struct.unpack(f"<{count}{_UNPACKED_CODES[size]}", data)
        return tuple([number + base for number in numbers]) if base else numbers


def damaged(name: str, what: str, problem: str) -> RemoteIntegrityError:
    """Returns the error for a part of the index that is not sound; `what` is how messages call the part."""
    return RemoteIntegrityError(
        f"{name} is not, or does not hold, {what} that is sound: {problem}. The download may have been cut "
        "short: try again. If it stays, run `python -m ebooklet_tx verify` for what is affected, and restore "
        "the object from the bucket's versions or a copy"
    )


def _width(span: int) -> int:
    return (span.bit_length() + 7) // 8
