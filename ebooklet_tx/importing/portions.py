"""Portions of what is imported: places and values, so many together as are looked up or compared at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ebooklet_tx.importing.source_root import Place
from ebooklet_tx.importing.source_values import SourceValue

PAGE_KEYS = 10_000
"""How many keys are looked up in the target together."""

VERIFIED_KEYS = 1000
"""How many values are compared together at most."""


def pages(places: Sequence[Place], page_keys: int) -> Iterator[Sequence[Place]]:
    """Yields so many places together."""
    rest = iter(places)
    while page := list(islice(rest, page_keys)):
        yield page


def key_pages(places: Sequence[Place]) -> Iterator[list[str]]:
    """Yields so many keys together as are looked up."""
    for page in pages(places, PAGE_KEYS):
        yield [place.key for place in page]


def parts(values: Iterable[SourceValue], part_bytes: int) -> Iterator[list[SourceValue]]:
    """Yields so many values together as are compared at a time."""
    part: list[SourceValue] = []
    size = 0
    for found in values:
        part.append(found)
        size += len(found.value) if isinstance(found.value, bytes) else 0
        if size >= part_bytes or len(part) == VERIFIED_KEYS:
            yield part
            part, size = [], 0
    if part:
        yield part


__all__ = ["PAGE_KEYS", "key_pages", "pages", "parts"]
