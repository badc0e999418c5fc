"""Tracebacks at the public edge: the caller's lines, the call, and where it failed.

A failing request has passed a dozen frames of retries and wrappers that say nothing to a user. The invariant:
no line of a caller's code is dropped, neither below a call (a serializer, a resolver) nor in what was being
handled when the call was made; of the causes inside this package only the nearest one is shown. With
`EBOOKLET_TX_FULL_TRACEBACKS=1` in the environment nothing is dropped at all.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from ebooklet_tx.errors import Error, LetGoError, SessionClosedError

P = ParamSpec("P")
R = TypeVar("R")

FULL_TRACEBACKS_VARIABLE = "EBOOKLET_TX_FULL_TRACEBACKS"

_INSIDE = frozenset(
    {"ebooklet_tx", "alembic", "booklet", "boto3", "botocore", "s3transfer", "sqlalchemy", "tenacity", "urllib3"}
    | {
        "concurrent",
        "contextlib",
        "http",
        "json",
        "os",
        "pathlib",
        "shutil",
        "socket",
        "sqlite3",
        "ssl",
        "threading",
    }
)
"""Packages whose frames are this package's own affair."""

_full: ContextVar[bool] = ContextVar("ebooklet_tx_full_tracebacks", default=False)


@contextlib.contextmanager
def full_tracebacks(wanted: bool = True) -> Iterator[None]:
    """Drops nothing from what is raised in the block."""
    before = _full.set(wanted)
    try:
        yield
    finally:
        _full.reset(before)


def at_edge(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function or method that users call: what it raises shows no inner frames."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def iterate(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return (yield from function(*args, **kwargs))
            except LetGoError as error:
                raise _closed_meanwhile(error) from None
            except (Error, KeyError) as error:
                shorten(error)
                raise

        return cast("Callable[P, R]", iterate)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except LetGoError as error:
            raise _closed_meanwhile(error) from None
        except (Error, KeyError) as error:
            shorten(error)
            raise

    return call


def _closed_meanwhile(error: LetGoError) -> SessionClosedError:
    """Returns what a user is told where another thread, or the end of the program, has closed the session."""
    closed = SessionClosedError(error.strerror, path=error.path)
    shorten(closed.with_traceback(error.__traceback__))
    return closed


def shorten(error: BaseException) -> None:
    """Drops inner frames of an error that is being handled, and all of its inner causes but the nearest."""
    if _full.get() or os.environ.get(FULL_TRACEBACKS_VARIABLE) == "1":
        return
    trace = error.__traceback__
    # The first frame is the decorator's.
    error.__traceback__ = _shortened(trace.tb_next if trace is not None else None, keep_first=True)
    cause = _behind(error)
    if cause is None or _is_callers(cause):
        return
    cause.__traceback__ = _shortened(cause.__traceback__, keep_first=False)
    further = _behind(cause)
    while further is not None and not _is_callers(further):
        further = _behind(further)
    cause.__cause__ = None
    cause.__context__ = further
    cause.__suppress_context__ = further is None
    error.__cause__ = cause


def _behind(error: BaseException) -> BaseException | None:
    """Returns what Python would print before an error."""
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _is_callers(error: BaseException) -> bool:
    """Whether an error passed through code that is the caller's."""
    return any(not _is_inside(trace) for trace in _each(error.__traceback__))


def _shortened(trace: TracebackType | None, *, keep_first: bool) -> TracebackType | None:
    traces = _each(trace)
    kept = [
        each
        for index, each in enumerate(traces)
        if (keep_first and index == 0) or index == len(traces) - 1 or not _is_inside(each)
    ]
    chain: TracebackType | None = None
    for each in reversed(kept):
        chain = TracebackType(chain, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return chain


def _each(trace: TracebackType | None) -> list[TracebackType]:
    found = []
    while trace is not None:
        found.append(trace)
        trace = trace.tb_next
    return found


def _is_inside(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _INSIDE


__all__ = ["FULL_TRACEBACKS_VARIABLE", "at_edge", "full_tracebacks", "shorten"]
