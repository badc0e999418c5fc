"""Mutations of a file's bytes, as a disk, a network or a copy makes them; each can be done again by its seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SECTOR_BYTES = 512
PAGE_BYTES = 4096


def _flip_bit(data: bytearray, chance: random.Random) -> str:
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    data[at] ^= 1 << bit
    return f"bit {bit} of byte {at} flipped"


def _flip_early_bit(data: bytearray, chance: random.Random) -> str:
    """Most of a file is values; what leads to them often lies at the front."""
    at, bit = chance.randrange(min(len(data), 1024)), chance.randrange(8)
    data[at] ^= 1 << bit
    return f"bit {bit} of byte {at} flipped"


def _set_bytes(data: bytearray, chance: random.Random) -> str:
    at = chance.randrange(len(data))
    new = chance.choice([b"\0", b"\xff", chance.randbytes(1), chance.randbytes(4), b"\xff" * 8])
    data[at : at + len(new)] = new[: len(data) - at]
    return f"bytes from {at} set to {new.hex()}"


def _sector(data: bytearray, chance: random.Random) -> slice:
    start = chance.randrange(0, len(data), SECTOR_BYTES)
    return slice(start, min(start + SECTOR_BYTES, len(data)))


def _zero_sector(data: bytearray, chance: random.Random) -> str:
    where = _sector(data, chance)
    data[where] = bytes(where.stop - where.start)
    return f"bytes {where.start} to {where.stop} zeroed"


def _fill_sector(data: bytearray, chance: random.Random) -> str:
    where = _sector(data, chance)
    data[where] = chance.randbytes(where.stop - where.start)
    return f"bytes {where.start} to {where.stop} filled at random"


def _two(data: bytearray, chance: random.Random, unit_bytes: int) -> tuple[slice, slice]:
    """Two places of one length; the same where there is only one."""
    units = max(1, len(data) // unit_bytes)
    first, second = chance.randrange(units), chance.randrange(units)
    length = min(unit_bytes, len(data))
    return tuple(slice(at * unit_bytes, at * unit_bytes + length) for at in (first, second))  # type: ignore[return-value]


def _swap(unit_bytes: int) -> Callable[[bytearray, random.Random], str]:
    def swap(data: bytearray, chance: random.Random) -> str:
        first, second = _two(data, chance, unit_bytes)
        data[first], data[second] = data[second], data[first]
        return f"{unit_bytes} bytes at {first.start} and {second.start} swapped"

    return swap


def _misplace(unit_bytes: int) -> Callable[[bytearray, random.Random], str]:
    def misplace(data: bytearray, chance: random.Random) -> str:
        first, second = _two(data, chance, unit_bytes)
        data[second] = data[first]
        return f"{unit_bytes} bytes at {first.start} written over those at {second.start}"

    return misplace


def _truncate(data: bytearray, chance: random.Random) -> str:
    size = chance.choice([0, chance.randrange(len(data)), len(data) // PAGE_BYTES * PAGE_BYTES, len(data) - 1])
    del data[size:]
    return f"truncated to {size}"


def _extend(data: bytearray, chance: random.Random) -> str:
    length = chance.choice([1, SECTOR_BYTES, PAGE_BYTES, 100_000])
    data += chance.choice([bytes(length), chance.randbytes(length)])
    return f"extended by {length}"


KINDS: dict[str, Callable[[bytearray, random.Random], str]] = {
    "bit": _flip_bit,
    "early bit": _flip_early_bit,
    "bytes": _set_bytes,
    "sector zeroed": _zero_sector,
    "sector filled": _fill_sector,
    "sectors swapped": _swap(SECTOR_BYTES),
    "pages swapped": _swap(PAGE_BYTES),
    "sector misplaced": _misplace(SECTOR_BYTES),
    "page misplaced": _misplace(PAGE_BYTES),
    "truncated": _truncate,
    "extended": _extend,
}


@dataclass(frozen=True)
class Mutation:
    """One mutation of one file.

    Attributes:
        file: Which file, by a name of the harness.
        kind: One of `KINDS`.
        seed: What makes it the same again.
        noticed: Whether the file's time of change tells of it.
        flag: How the database is then opened.
    """

    file: str
    kind: str
    seed: int
    noticed: bool
    flag: str

    def apply(self, data: bytes) -> tuple[bytes, str]:
        """Returns the mutated bytes, and in words what was done; the same bytes where nothing changed."""
        changed = bytearray(data)
        told = KINDS[self.kind](changed, random.Random(f"{self.file} {self.kind} {self.seed}"))
        return bytes(changed), told

    def __str__(self) -> str:
        seen = "" if self.noticed else ", its time as before"
        return f"{self.file}, {self.kind}, seed {self.seed}, flag {self.flag}{seen}"


def planned(file: str, seed: int) -> Iterator[Mutation]:
    """Plans mutations of a file without an end, each kind as often."""
    kinds = list(KINDS)
    for number in itertools.count():
        noticed = number // 2 % 2 == 0
        yield Mutation(file, kinds[number % len(kinds)], seed * 100_000 + number, noticed, "wr"[number % 2])
