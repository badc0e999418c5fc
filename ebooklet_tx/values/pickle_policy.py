"""Pickle: whether the values of a database may be unpickled here.

Owns the set of addresses that this process has warned of. The invariant: where pickle is refused, no byte of a
database is unpickled.
"""

from __future__ import annotations

import os
import warnings

from ebooklet_tx.errors import InvalidArgumentError, PickleRefusedError, PickleWarning

ALLOW_PICKLE_VARIABLE = "EBOOKLET_TX_ALLOW_PICKLE"
"""The environment variable that says for a whole process whether pickle may be read: 1 or 0."""

_PICKLING = frozenset({"pickle", "pickle_zstd"})
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_warned: set[str] = set()


def pickle_allowed(argument: bool | None) -> bool | None:
    """Returns whether pickle was allowed or refused, by argument or environment; None when neither says."""
    if argument is not None:
        if not isinstance(argument, bool):
            raise InvalidArgumentError(f"allow_pickle must be True, False or None, not {argument!r}")
        return argument
    word = os.environ.get(ALLOW_PICKLE_VARIABLE, "").strip().lower()
    if word and word not in _WORDS:
        raise InvalidArgumentError(f"{ALLOW_PICKLE_VARIABLE} must be 1 or 0, not {word!r}")
    return _WORDS.get(word)


def is_pickling(serializer_name: str | None) -> bool:
    """True of the name of a serializer whose decoding can run code."""
    return serializer_name in _PICKLING


def check_pickle(serializer_name: str | None, address: str, *, allowed: bool | None) -> None:
    """Makes sure that values of a serializer may be unpickled.

    Args:
        serializer_name: Booklet's name of the database's serializer.
        address: The database's name in messages.
        allowed: What `pickle_allowed` said.

    Raises:
        PickleRefusedError: The values are pickled, and pickle is refused.
    """
    if serializer_name in _PICKLING and allowed is False:
        raise PickleRefusedError(
            f"the values of {address} are pickled ({serializer_name}), and unpickling runs whatever code their "
            f"writer put in; nothing was unpickled. Give allow_pickle=True (or {ALLOW_PICKLE_VARIABLE}=1) if "
            "you trust all who can write there"
        )


def warn_of_pickle(serializer_name: str | None, address: str, *, stacklevel: int) -> None:
    """Warns, once in a process, that values which others may have written are pickled.

    Args:
        serializer_name: Booklet's name of the database's serializer.
        address: The database's name in messages.
        stacklevel: Which caller's line the warning names.
    """
    if serializer_name in _PICKLING and address not in _warned:
        warnings.warn(
            f"the values of {address} are pickled ({serializer_name}): all who can write there can run code on "
            f"this machine. Give allow_pickle=True or value_serializer={serializer_name!r} if you trust them, "
            f"allow_pickle=False (or {ALLOW_PICKLE_VARIABLE}=0) to refuse",
            PickleWarning,
            stacklevel=stacklevel + 1,
        )
        # After the warning, so that where warnings are errors each opening raises.
        _warned.add(address)
