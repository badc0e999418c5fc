"""Those serializers of Booklet that need no package beyond what this one depends on.

Importing Booklet imports numpy and pandas where they are installed, which takes up to half a second and 45 MiB.
The invariant: each function here gives what Booklet's own of that name gives, and raises what it raises.
"""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

_PICKLE_PROTOCOL = 5
_ORJSON_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_OMIT_MICROSECONDS | orjson.OPT_SERIALIZE_NUMPY
_INT_SIZES_BYTES = (1, 2, 4, 5, 8)


class Codec(NamedTuple):
    """How values become bytes, and how they are read back. Both functions can be pickled."""

    dumps: Callable[[Any], Any]
    loads: Callable[[bytes], Any]


def _as_given(value: Any) -> Any:
    return value


def _text_to_bytes(value: Any) -> Any:
    return value.encode()


def _bytes_to_text(encoded: bytes) -> str:
    return encoded.decode()


def _to_pickle(value: Any) -> bytes:
    return pickle.dumps(value, _PICKLE_PROTOCOL)


def _from_pickle(encoded: bytes) -> Any:
    # Sessions ask `pickle_policy` before they decode.
    return pickle.loads(encoded)  # noqa: S301


def _to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _from_json(encoded: bytes) -> Any:
    return json.loads(encoded.decode())


def _to_orjson(value: Any) -> bytes:
    return orjson.dumps(value, option=_ORJSON_OPTIONS)


def _from_orjson(encoded: bytes) -> Any:
    return orjson.loads(encoded)


def _to_int_bytes(value: Any, *, size_bytes: int, signed: bool) -> bytes:
    return int(value).to_bytes(size_bytes, "little", signed=signed)


def _from_int_bytes(encoded: bytes, *, signed: bool) -> int:
    return int.from_bytes(encoded, "little", signed=signed)


def _int_codec(size_bytes: int, *, signed: bool) -> Codec:
    return Codec(
        functools.partial(_to_int_bytes, size_bytes=size_bytes, signed=signed),
        functools.partial(_from_int_bytes, signed=signed),
    )


_INTS: dict[str | None, Codec] = {
    f"{sign}int{size}": _int_codec(size, signed=not sign) for size in _INT_SIZES_BYTES for sign in ("u", "")
}
INT_NAMES = frozenset(_INTS)

PLAIN: dict[str | None, Codec] = {
    None: Codec(_as_given, _as_given),
    "bytes": Codec(_as_given, _as_given),
    "str": Codec(_text_to_bytes, _bytes_to_text),
    "pickle": Codec(_to_pickle, _from_pickle),
    "json": Codec(_to_json, _from_json),
    "orjson": Codec(_to_orjson, _from_orjson),
    **_INTS,
}
"""The functions by Booklet's names for them."""
