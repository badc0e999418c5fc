"""The log of requests: each attempt, with what it moved and how long it took, at the level DEBUG.

Owns a context variable: which attempt of a commit or a lock this thread makes. The invariant: of a request only
its kind and the object's name are told, never a header, a query or a credential; and of a foreign failure only
its type, as its message may hold any of these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from ebooklet_tx.errors import Error
from ebooklet_tx.stores.object_store import Blob

T = TypeVar("T")

_log = logging.getLogger("ebooklet_tx")

attempt_number: ContextVar[int] = ContextVar("ebooklet_tx_attempt", default=1)
"""Which attempt of several a request that is sent once belongs to."""


def logged(
    operation: str,
    key: str,
    send: Callable[[], T],
    *,
    attempt: int,
    clock: Callable[[], float],
    sent_bytes: int | None = None,
) -> T:
    """Sends a request, returns its answer, and logs both, as one line.

    Args:
        operation: The kind of request.
        key: The object's name, or a prefix of names.
        send: Sends it.
        attempt: Which attempt it is.
        clock: Returns seconds.
        sent_bytes: How many bytes its body has.
    """
    if not _log.isEnabledFor(logging.DEBUG):
        return send()
    began = clock()
    try:
        answer = send()
    except Exception as error:
        why = f"{type(error).__name__}: {error}" if isinstance(error, Error) else type(error).__name__
        _log.debug("%s of %r failed in %.0f ms, attempt %d: %s", operation, key, _ms(clock, began), attempt, why)
        raise
    moved = sent_bytes if sent_bytes is not None else _size(answer)
    size = "" if moved is None else f" {moved:,} bytes"
    _log.debug("%s of %r:%s in %.0f ms, attempt %d", operation, key, size, _ms(clock, began), attempt)
    return answer


def _ms(clock: Callable[[], float], began: float) -> float:
    return (clock() - began) * 1000


def _size(answer: object) -> int | None:
    data = answer.data if isinstance(answer, Blob) else answer
    return len(data) if isinstance(data, bytes) else None


__all__ = ["attempt_number", "logged"]
