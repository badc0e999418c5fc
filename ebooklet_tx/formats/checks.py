"""Checks of single foreign values, and how messages show them; for every codec.

The invariant: a text that passes one of these checks may go where its name says, into a request's header, an
object's name or a terminal, without another look.
"""

from __future__ import annotations

import re

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.limits import MAX_MESSAGE_BYTES

MAX_TEXT_CHARS = 1024
MAX_ETAG_CHARS = 1024

_OBJECT_NAME = re.compile(r"(pack|index|history)/[0-9a-f]{32}", re.ASCII)
_SNAPSHOT_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}", re.ASCII)
_NO_SNAPSHOT = re.compile(r"deleted-.*|[0-9]+|[0-9a-f]{32}", re.ASCII)
_HEX_128 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_ETAG = re.compile(r"[\x20-\x7e]{1,1024}", re.ASCII)


def is_object_name(text: object) -> bool:
    """Tells whether this is the name of an immutable object: `pack/<id>`, `index/<id>` or `history/<id>`."""
    return isinstance(text, str) and _OBJECT_NAME.fullmatch(text) is not None


def is_snapshot_name(text: object) -> bool:
    """Tells whether a snapshot may have this name, which is none of a deletion's note, a seq or a commit id."""
    return (
        isinstance(text, str)
        and _SNAPSHOT_NAME.fullmatch(text) is not None
        and _NO_SNAPSHOT.fullmatch(text) is None
    )


def is_hex_128(text: object) -> bool:
    """Tells whether this is a 128-bit id or digest as 32 lower-case hexadecimal digits."""
    return isinstance(text, str) and _HEX_128.fullmatch(text) is not None


def is_etag(text: object) -> bool:
    """Tells whether this may go into a request's If-Match header: printable ASCII, not empty."""
    return isinstance(text, str) and _ETAG.fullmatch(text) is not None


def is_plain_text(text: object) -> bool:
    """Tells whether this may be shown to a user as it is: short, and printable throughout."""
    return isinstance(text, str) and len(text) <= MAX_TEXT_CHARS and text.isprintable()


def is_message(text: object) -> bool:
    """Tells whether this may be a commit's message: short, and printable but for line breaks and tabs."""
    if not isinstance(text, str) or len(text) > MAX_MESSAGE_BYTES:
        return False
    return text.replace("\n", "").replace("\t", "").isprintable() and len(text.encode()) <= MAX_MESSAGE_BYTES


def message_of(text: object) -> str:
    """Returns a message that a user gives to a commit or a snapshot.

    Raises:
        InvalidArgumentError: It can't be kept; nothing was done.
    """
    if not isinstance(text, str) or not is_message(text):
        raise InvalidArgumentError(
            f"a message must be a str of at most {MAX_MESSAGE_BYTES} bytes without control characters but line "
            f"breaks and tabs, not {short(text)}"
        )
    return text


def short(text: object) -> str:
    """Returns what a message may show of foreign text: quoted, escaped, and not endless."""
    shown = repr(text)
    return shown if len(shown) <= 200 else shown[:200] + "..."
