"""Values at a command line: what `get` prints of an encoded value, and what `put` makes of what it is given.

The invariant: what `get` prints, `put` takes, and makes the same value of it. No pickle is loaded unless the
caller has allowed it.
"""

from __future__ import annotations

import base64
import json
import pprint
from typing import Any, NamedTuple

import ebooklet_tx
from ebooklet_tx.cli.terminal import json_line
from ebooklet_tx.values.pickle_policy import is_pickling, pickle_allowed
from ebooklet_tx.values.serializers import CUSTOM, resolve

_BYTES = (None, "bytes", "zstd")
_TEXT = ("str",)
_JSON = ("json", "orjson", "orjson_zstd", "msgpack", "msgpack_zstd")
_INTS = tuple(f"{sign}int{size}" for sign in ("", "u") for size in (1, 2, 4, 5, 8))
_ARRAYS = tuple(f"numpy_int{size}{way}" for size in (1, 2, 4, 8) for way in ("", "_zstd"))


class Shown(NamedTuple):
    """A value as it is printed.

    Attributes:
        data: What is printed where the value stands alone.
        form: `bytes`, `text`, `json` or `python`.
        value: The value as JSON; bytes in Base64, and what JSON does not have as Python writes it.
    """

    data: bytes
    form: str
    value: Any


def shown(key: str, encoded: bytes, serializer: str | None, *, raw: bool, allow_pickle: bool) -> Shown:
    """Returns what is printed of a value.

    Args:
        key: Its key, for messages.
        encoded: Its bytes, as they are stored.
        serializer: The name of the serializer that has encoded it.
        raw: Whether the encoded bytes are wanted.
        allow_pickle: Whether it may be unpickled.

    Raises:
        PickleRefusedError: It is pickled, and may not be unpickled.
        Error: It can't be shown.
    """
    if raw:
        return _bytes(encoded)
    _check_shown(key, serializer, allow_pickle=allow_pickle)
    try:
        value = resolve(serializer).loads(key, encoded)
    except ebooklet_tx.LocalIntegrityError as error:
        # The bytes are what was stored: nothing is damaged.
        raise ebooklet_tx.Error(str(error), key=key) from error
    if serializer in _BYTES:
        return _bytes(value)
    if serializer in _TEXT:
        return Shown(value.encode(), "text", value)
    if serializer in _ARRAYS:
        value = value.tolist()
    try:
        return Shown(f"{json_line(value)}\n".encode(), "json", value)
    except (TypeError, ValueError) as error:
        if not is_pickling(serializer):
            raise ebooklet_tx.Error(
                f"the value of key {key!r} can't be shown as JSON ({error}); --raw shows its encoded bytes",
                key=key,
            ) from error
        text = pprint.pformat(value)
        return Shown(f"{text}\n".encode(), "python", text)


def _bytes(data: bytes) -> Shown:
    return Shown(data, "bytes", base64.b64encode(data).decode())


def _check_shown(key: str, serializer: str | None, *, allow_pickle: bool) -> None:
    if is_pickling(serializer):
        if not allow_pickle and pickle_allowed(None) is not True:
            raise ebooklet_tx.PickleRefusedError(
                f"the value of key {key!r} is pickled, and unpickling runs whatever code its writer put in; "
                "nothing was unpickled. --allow-pickle shows it if you trust all who can write there; --raw "
                "shows its bytes",
                key=key,
            )
    elif serializer not in (*_BYTES, *_TEXT, *_JSON, *_INTS, *_ARRAYS):
        raise ebooklet_tx.Error(
            f"the values are of the serializer {serializer!r}, which has no text form; --raw shows the encoded "
            "bytes",
            key=key,
        )


def encoded(key: str, data: bytes, serializer: str | None, *, raw: bool, allow_pickle: bool) -> bytes:
    """Returns the bytes to store for what `put` was given.

    Args:
        key: The key, for messages.
        data: What was given.
        serializer: The name of the database's serializer.
        raw: Whether these are the encoded bytes.
        allow_pickle: Whether JSON is to be pickled.

    Raises:
        InvalidValueError: It is not what the serializer takes.
        Error: The serializer takes nothing that could be given.
    """
    if raw:
        return _sound(key, data, serializer)
    if serializer in _BYTES:
        return resolve(serializer).dumps(key, data)
    if serializer not in (*_TEXT, *_JSON, *_INTS) and not (is_pickling(serializer) and allow_pickle):
        way = ", --allow-pickle to pickle what JSON says" if is_pickling(serializer) else ""
        raise ebooklet_tx.Error(
            f"the values are of the serializer {serializer!r}, which has no text form; give --raw and the "
            f"encoded bytes{way}",
            key=key,
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ebooklet_tx.InvalidValueError(
            f"what was given for key {key!r} is no UTF-8 text ({error}), which values of the serializer "
            f"{serializer!r} are made of; nothing was set",
            key=key,
        ) from error
    if serializer in _TEXT:
        return resolve(serializer).dumps(key, text)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ebooklet_tx.InvalidValueError(
            f"what was given for key {key!r} is no JSON ({error}), as values of the serializer {serializer!r} "
            'are; nothing was set. A text stands in double quotes: "text"',
            key=key,
        ) from error
    return resolve(serializer).dumps(key, value)


def _sound(key: str, data: bytes, serializer: str | None) -> bytes:
    """Returns encoded bytes that the serializer takes back; what a custom or a pickling one does is not tried."""
    if serializer != CUSTOM and not is_pickling(serializer):
        try:
            resolve(serializer).loads(key, data)
        except ebooklet_tx.LocalIntegrityError as error:
            raise ebooklet_tx.InvalidValueError(
                f"what was given for key {key!r} are no bytes that the serializer {serializer!r} decodes; "
                "nothing was set",
                key=key,
            ) from error
    return data


__all__ = ["Shown", "encoded", "shown"]
