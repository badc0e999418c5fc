"""SQLite's write-ahead log, read by its checksums without SQLite.

SQLite ends a WAL at the first frame whose checksum fails, and says nothing: to it a changed
bit is the torn end of what was never acknowledged. The invariant of what is told here: a fix is given only
where one single bit explains the checksum, and exactly one does; damage is told only where a transaction
that had ended has another one behind it, which only begins when the first was durable.

Layout (sqlite.org/fileformat2.html, "The Write-Ahead Log"): a header of 32 bytes, then frames of 24 bytes
and a page. Each frame's checksum goes on from that of the frame before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import TypeAlias

WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC = 0x377F0682
"""With the last bit set where checksums are over big-endian words."""
_VERSION = 3_007_000
_MASK = 0xFFFFFFFF

Log: TypeAlias = bytes | mmap
Checksum: TypeAlias = tuple[int, int]
Fix: TypeAlias = tuple[int, bytes]


@dataclass(slots=True)
class WalReading:
    """What the frames of a WAL say.

    Attributes:
        fixes: (offset, right bytes) of single bits that have changed.
        sound_frames: How many frames SQLite finds once the fixes are made.
        damaged: Whether what comes behind them was acknowledged.
    """

    fixes: list[Fix] = field(default_factory=list)
    sound_frames: int = 0
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame as it lies in the file."""

    offset_bytes: int
    salts: bytes
    stored: Checksum
    summed: bytes
    commits: bool


class _Log:
    """A WAL whose header is known, and its frames by number."""

    def __init__(self, data: Log, header: bytes) -> None:
        magic, _, self.page_bytes, _ = struct.unpack_from(">4I", header)
        self.order = ">" if magic & 1 else "<"
        self.salts = header[16:24]
        self.begin: Checksum = struct.unpack_from(">2I", header, 24)
        self._data = data

    def frame(self, number: int) -> _Frame | None:
        offset = WAL_HEADER_BYTES + number * (FRAME_HEADER_BYTES + self.page_bytes)
        frame = self._data[offset : offset + FRAME_HEADER_BYTES + self.page_bytes]
        if len(frame) < FRAME_HEADER_BYTES + self.page_bytes:
            return None
        return _Frame(
            offset_bytes=offset,
            salts=frame[8:16],
            stored=struct.unpack_from(">2I", frame, 16),
            summed=frame[:8] + frame[FRAME_HEADER_BYTES:],
            commits=any(frame[4:8]),
        )

    def checksum(self, before: Checksum, frame: _Frame) -> Checksum:
        return _checksum(self.order, frame.summed, before)

    def continues(self, before: Checksum, frame: _Frame | None) -> bool:
        """True of a frame of this log that goes on from a checksum."""
        return frame is not None and frame.salts == self.salts and self.checksum(before, frame) == frame.stored


def read_wal(data: Log) -> WalReading:
    """Reads a WAL as SQLite's recovery does, and beyond where that ends."""
    reading = WalReading()
    header = _sound_header(data, reading)
    if header is None:
        # Not even its salts are known; SQLite takes no frame from it.
        reading.damaged = len(data) > WAL_HEADER_BYTES
        return reading
    log = _Log(data, header)
    running = log.begin
    while (frame := log.frame(reading.sound_frames)) is not None:
        if log.continues(running, frame):
            running = frame.stored
        else:
            explanations = _fitting(log, running, frame, log.frame(reading.sound_frames + 1))
            if len(explanations) != 1:
                # No torn end is one bit away from a checksum.
                reading.damaged = bool(explanations)
                break
            ((fix, running),) = explanations
            reading.fixes.append(fix)
        reading.sound_frames += 1
    reading.damaged = reading.damaged or _goes_on(log, reading.sound_frames)
    return reading


def _sound_header(data: Log, reading: WalReading) -> bytes | None:
    header = bytes(data[:WAL_HEADER_BYTES])
    if len(header) < WAL_HEADER_BYTES:
        return None
    if _is_header(header):
        return header
    # A bit of the last salt and one of the checksum can explain the same: the first frame says which.
    found = list(_header_explanations(header))
    if len(found) > 1:
        found = [one for one in found if _begins(data, one[1])]
    if len(found) != 1:
        return None
    reading.fixes.append(found[0][0])
    return found[0][1]


def _header_explanations(header: bytes) -> Iterator[tuple[Fix, bytes]]:
    for byte in range(WAL_HEADER_BYTES):
        for bit in range(8):
            right = bytes([header[byte] ^ 1 << bit])
            changed = header[:byte] + right + header[byte + 1 :]
            if _is_header(changed):
                yield (byte, right), changed


def _begins(data: Log, header: bytes) -> bool:
    log = _Log(data, header)
    return log.continues(log.begin, log.frame(0))


def _is_header(header: bytes) -> bool:
    magic, version, page_bytes, _ = struct.unpack_from(">4I", header)
    if magic & ~1 != _MAGIC or version != _VERSION or page_bytes & (page_bytes - 1) or page_bytes < 512:
        return False
    order = ">" if magic & 1 else "<"
    return page_bytes <= 65536 and _checksum(order, header[:24], (0, 0)) == struct.unpack_from(">2I", header, 24)


def _checksum(order: str, data: bytes, before: Checksum) -> Checksum:
    first, second = before
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = first + even + second & _MASK
        second = second + odd + first & _MASK
    return first, second


def _goes_on(log: _Log, number: int) -> bool:
    """True when a transaction ends at or behind a frame that does not fit, and another frame follows it."""
    before: _Frame | None = None
    while (frame := log.frame(number)) is not None:
        if before is not None and before.commits and log.continues(before.stored, frame):
            return True
        before = frame if frame.salts == log.salts else None
        number += 1
    return False


# -- single bits -------------------------------------------------------------------------------


def _fitting(log: _Log, before: Checksum, frame: _Frame, following: _Frame | None) -> list[tuple[Fix, Checksum]]:
    """Returns the single bits whose change explains a frame, each with the checksum to go on from.

    The checksum is weak in the upper bits of its words, so there may be many.
    """
    found = list(_explanations(log, before, frame))
    if len(found) > 1 and following is not None:
        return [(fix, checksum) for fix, checksum in found if log.continues(checksum, following)] or found
    return found


def _explanations(log: _Log, before: Checksum, frame: _Frame) -> Iterator[tuple[Fix, Checksum]]:
    computed = log.checksum(before, frame)
    if frame.salts != log.salts:
        if _is_one_bit(frame.salts, log.salts) and computed == frame.stored:
            yield (frame.offset_bytes + 8, log.salts), computed
        return
    stored, right = struct.pack(">2I", *frame.stored), struct.pack(">2I", *computed)
    if _is_one_bit(stored, right):
        yield (frame.offset_bytes + 16, right), computed
    for offset, word in _changed_words(log.order, frame.summed, computed, frame.stored):
        # The first eight bytes stand before the salts and the checksum, the page behind them.
        place = offset if offset < 8 else offset - 8 + FRAME_HEADER_BYTES
        yield (frame.offset_bytes + place, word), frame.stored


def _is_one_bit(one: bytes, other: bytes) -> bool:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count() == 1


def _changed_words(order: str, data: bytes, computed: Checksum, stored: Checksum) -> Iterator[Fix]:
    """Yields each word of which one bit, changed back, gives the stored checksum.

    The checksum is linear: what a word adds to it is the word times two factors that only depend on how many
    words follow. They are found from the end backwards.
    """
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    missing = (stored[0] - computed[0]) & _MASK, (stored[1] - computed[1]) & _MASK
    even, odd = (1, 1), (0, 1)
    for number in range(len(words) - 2, -1, -2):
        for index, (first, second) in ((number, even), (number + 1, odd)):
            for bit in range(32):
                change = -(1 << bit) if words[index] >> bit & 1 else 1 << bit
                if (first * change & _MASK, second * change & _MASK) == missing:
                    yield index * 4, struct.pack(f"{order}I", words[index] + change)
        even = even[0] + even[1] & _MASK, even[0] + 2 * even[1] & _MASK
        odd = odd[0] + odd[1] & _MASK, odd[0] + 2 * odd[1] & _MASK
