"""Checks of keys.

The invariant: a key that passes `check_key` can be written as UTF-8, fits Booklet's limit, and is not reserved by
booklet.
"""

from __future__ import annotations

from collections.abc import Iterable

from ebooklet_tx.errors import InvalidKeyError, InvalidTypeError
from ebooklet_tx.limits import MAX_KEY_BYTES, RESERVED_TEXTS


def text_of(key: object) -> str:
    """Returns a key that is text, although it may not be one that can be set.

    Raises:
        InvalidKeyError: It is no str, or can't be written as UTF-8.
    """
    if type(key) is str and key.isascii():
        return key
    if not isinstance(key, str):
        raise InvalidKeyError(f"a key must be a str, not {type(key).__name__}: {key!r}")
    if not is_text(key):
        raise InvalidKeyError(
            f"the key {key!r} has a lone surrogate in it, so it can't be written as UTF-8", key=key
        )
    return key


def several(keys: Iterable[str], what: str) -> Iterable[str]:
    """Returns several keys as they were given to `what`.

    Raises:
        InvalidTypeError: It is a single str, whose letters would count as keys, or can't be iterated over.
    """
    if isinstance(keys, str | bytes):
        raise InvalidTypeError(
            f"{what} takes several keys, and not the letters of {keys!r}; give [{keys!r}]", operation=what
        )
    if not isinstance(keys, Iterable):
        raise InvalidTypeError(
            f"{what} takes several keys, such as a list of them, not {type(keys).__name__}", operation=what
        )
    return keys


def is_text(key: str) -> bool:
    """True of a str that can be written as UTF-8."""
    try:
        return key.isascii() or bool(key.encode())
    except UnicodeEncodeError:
        return False


def check_key(key: object) -> None:
    """Makes sure that a key may be set.

    Raises:
        InvalidKeyError: The key can't be set; the message says why.
    """
    if type(key) is str and 0 < len(key) <= MAX_KEY_BYTES and key.isascii() and key not in RESERVED_TEXTS:
        return
    text = text_of(key)
    if not text:
        raise InvalidKeyError("a key must not be empty; give at least one character", key=text)
    encoded = text.encode()
    if len(encoded) > MAX_KEY_BYTES:
        raise InvalidKeyError(
            f"the key {text[:40]!r}... is {len(encoded)} bytes in UTF-8; the limit is {MAX_KEY_BYTES}", key=text
        )
    if text in RESERVED_TEXTS:
        raise InvalidKeyError(f"the key {text!r} is one that booklet keeps for itself; choose another", key=text)
