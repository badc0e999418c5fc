"""What databases and parts of forks do alike with many keys: the pairs of `update`, and `popitem`.

The invariant: pairs are checked and encoded before any is set; where one can't be, the caller sets none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import chain
from typing import Any

from ebooklet_tx.keys import check_key
from ebooklet_tx.timestamps import timestamp_us
from ebooklet_tx.values.serializers import Serializer

_MISSING = object()


def operations_of(
    serializer: Serializer, other: Any, more: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Yields for each key its encoded value and the present time; a key may come more than once.

    Args:
        serializer: What encodes the values.
        other: A mapping, an object with `keys`, or pairs.
        more: More pairs, which come last.

    Raises:
        InvalidKeyError, InvalidValueError: One of them can't be set.
    """
    pairs: Iterable[tuple[str, Any]] = other
    if type(other) is dict:
        # In one step, whatever another thread does to it.
        pairs = other.copy().items()
    elif isinstance(other, Mapping):
        pairs = list(other.items())
    elif hasattr(other, "keys"):
        pairs = [(key, other[key]) for key in other.keys()]  # noqa: SIM118
    stamp, dumps = timestamp_us(None), serializer.dumps
    for key, value in chain(pairs, more.items()):
        check_key(key)
        yield key, (dumps(key, value), stamp)


def pop_first(mapping: MutableMapping[str, Any]) -> tuple[str, Any]:
    """Deletes the first key of a mapping and returns it with its value; another thread may delete it first.

    Raises:
        KeyError: There is none.
    """
    while True:
        key = next(iter(mapping), None)
        if key is None:
            raise KeyError("the database is empty")
        value = mapping.pop(key, _MISSING)
        if value is not _MISSING:
            return key, value


__all__ = ["operations_of", "pop_first"]
