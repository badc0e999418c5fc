"""Kills from within: at the n-th request to a store, or at the n-th of a process's own file calls.

The file calls stand in for strace where there is none. They cover what Python asks of the system for
the Booklet file and the folder, and each statement that SQLite runs; not the single writes that SQLite
makes within a statement.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import botocore.httpsession

from ebooklet_tx.local.journal import journal
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryingStore
from ebooklet_tx.sync import connecting as place
from tests.store_wrappers import PassingStore

_FILE_CALLS = ("pwrite", "fsync", "ftruncate", "replace", "link", "unlink", "utime")


class _Counter:
    """Counts events from 1 and ends the process at one of them."""

    def __init__(self, at: int, *, after: bool, tell: Callable[[str], None]) -> None:
        self._at = at
        self._after = after
        self._tell = tell
        self._count = 0
        self._mutex = threading.Lock()

    def around(self, what: str, act: Callable[[], Any]) -> Any:
        with self._mutex:
            self._count += 1
            here = self._count == self._at
            self._tell(f"event {self._count} {what}")
        if here and not self._after:
            _die()
        try:
            return act()
        finally:
            # An answer that says no is an answer, too.
            if here:
                _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


class _KillingStore(PassingStore):
    def __init__(self, inner: ObjectStore, counter: _Counter) -> None:
        super().__init__(inner)
        self._counter = counter

    def _pass(self, kind: str, key: str, send: Callable[[], Any]) -> Any:
        return self._counter.around(f"{kind} {key}", send)


def install(order: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Installs what an order asks for: `what` of "store", "http" or "files", `at`, `after`.

    For good: the process ends by it, or soon after.
    """
    counter = _Counter(order["at"], after=order.get("after", False), tell=tell)
    {"store": _install_store, "http": _install_http, "files": _install_files}[order["what"]](counter)


def _install_store(counter: _Counter) -> None:
    def killing(*arguments: Any, **options: Any) -> RetryingStore:
        store = open_store(*arguments, **options)
        store.inner = _KillingStore(store.inner, counter)
        return store

    mock.patch.object(place, "open_store", killing).start()


def _install_http(counter: _Counter) -> None:
    session = botocore.httpsession.URLLib3Session
    genuine = session.send

    def send(self: Any, request: Any) -> Any:
        path = request.url.partition("://")[2].partition("/")[2]
        return counter.around(f"{request.method} {path}", lambda: genuine(self, request))

    mock.patch.object(session, "send", send).start()


def _install_files(counter: _Counter) -> None:
    for name in _FILE_CALLS:
        mock.patch.object(os, name, _counted(name, getattr(os, name), counter)).start()
    genuine = journal._connected

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        raw = genuine(*arguments, **options)
        raw.set_trace_callback(lambda statement: counter.around(f"sql {statement[:30]!r}", lambda: None))
        return raw

    mock.patch.object(journal, "_connected", connect).start()


def _counted(name: str, genuine: Callable[..., Any], counter: _Counter) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        return counter.around(name, lambda: genuine(*arguments, **options))

    return call
