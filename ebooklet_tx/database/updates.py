"""What `update` is given: pairs, checked and encoded before any of them is set.

The invariant: where one pair can't be set the caller hears of it, and sets none of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from ebooklet_tx.keys import check_key
from ebooklet_tx.timestamps import timestamp_us
from ebooklet_tx.values.serializers import Serializer


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


__all__ = ["operations_of"]
