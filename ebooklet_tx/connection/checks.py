"""Checks of the arguments that connections are made of.

A message never shows a value that may hold a credential: it names the argument and the value's type.
"""

from __future__ import annotations

from ebooklet_tx.errors import InvalidArgumentError

MAX_DATABASE_KEY_BYTES = 900
"""S3 allows 1,024 bytes; what the database appends to its key must fit as well."""

RESERVED_NAME_PREFIX = ".ebooklet_tx"
"""File names that a directory store keeps for itself."""


def check_object_key(key: str, what: str = "object key") -> str:
    """Returns `key` if its parts can stand in a path as well as in a bucket.

    Raises:
        InvalidArgumentError: The key is empty, absolute, has an empty, `.` or `..` part, or can't
            be written as UTF-8 without NUL.
    """
    if not isinstance(key, str) or not key:
        raise InvalidArgumentError(f"{what} must be a non-empty str, not {shown(key)}")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{what} {key!r} can't be written as UTF-8") from None
    if "\0" in key:
        raise InvalidArgumentError(f"{what} {key!r} contains a NUL character")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise InvalidArgumentError(
            f"{what} {key!r} begins or ends with '/', or has an empty, '.' or '..' part; "
            "write it like 'folder/name'"
        )
    return key


def check_database_key(key: object, what: str) -> None:
    """Refuses a database's key that no store could hold with the suffixes of its objects."""
    checked = check_object_key(key, what)  # type: ignore[arg-type]  # the check is of foreign input
    if len(checked.encode("utf-8")) > MAX_DATABASE_KEY_BYTES:
        raise InvalidArgumentError(f"{what} is longer than {MAX_DATABASE_KEY_BYTES} bytes of UTF-8")


def check_optional_text(value: object, what: str) -> None:
    """Refuses anything but None and a non-empty str."""
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidArgumentError(f"{what} must be a non-empty str or None")


def check_number(value: object, what: str, *, minimum: float, whole: bool) -> None:
    """Refuses anything but a number of at least `minimum`, an int if `whole`."""
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value >= minimum:  # type: ignore[operator]
        raise InvalidArgumentError(f"{what} must be {'an int' if whole else 'a number'} of at least {minimum}")


def shown(value: object) -> str:
    """Describes a refused value by its type: the value itself may be a credential."""
    return "an empty str" if value == "" else f"a {type(value).__name__}"
