"""A child that reads everything of a database some of whose bytes were changed, within bounds.

It holds what it finds against the truth, and tells of each difference. A value is right, or there is an error
of ours; where the opening told that something is lost or was set aside, what it named may be missing or older.
"""

from __future__ import annotations

import logging
import pickle
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ebooklet_tx
from ebooklet_tx.errors import Error
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.stores.retry import RetryPolicy
from tests.faults.scenarios import FILE, remote_of

MEMORY_BYTES = 256 * 2**20
"""How much more than at its start a child may take."""

TIMEOUT_SECONDS = 20
FRESH_FILE = "fresh.blt"


@dataclass
class Truth:
    """What a folder holds, by key, and what else was once true."""

    values: dict[str, bytes] = field(default_factory=dict)
    timestamps: dict[str, int] = field(default_factory=dict)
    metadata: Any = None
    older: dict[str, list[bytes]] = field(default_factory=dict)
    older_timestamps: dict[str, list[int]] = field(default_factory=dict)
    """Values and times that were replaced or deleted; right only where the loss of the newer one was told."""
    older_metadata: list[Any] = field(default_factory=list)
    only_in_journal: set[str] = field(default_factory=set)
    """Keys whose last change neither the Booklet file nor the remote knows."""


class Reader:
    """Reads, compares, and reports."""

    def __init__(self, order: dict[str, Any], report: socket.socket) -> None:
        self._folder = Path(order["folder"])
        self._flag = order["flag"]
        self._file = order.get("file", FILE)
        self._truth: Truth = pickle.loads(Path(order["truth"]).read_bytes())
        self._report = report
        self._told: list[str] = []
        self._excused: set[str] = set()
        self._not_pushed = False

    def run(self) -> None:
        handler = _Listener(self._told)
        logging.getLogger("ebooklet_tx").addHandler(handler)
        logging.getLogger("ebooklet_tx").propagate = False
        try:
            database = self._open(self._file, self._flag)
        except Error as error:
            self._say("error", f"{type(error).__name__}: {error}")
            return
        try:
            self._read_all(database, "")
            if self._flag != "r":
                self._not_pushed = self._guarded("push", lambda: [database.changes().push()]) is None
        finally:
            self._guarded("close", database.close)
        if self._flag != "r":
            self._read_fresh()

    def _read_fresh(self) -> None:
        """Another machine must not be given what is wrong, nor lose what this one could not read."""
        try:
            fresh = self._open(FRESH_FILE, "r")
        except Error as error:
            self._say("error", f"fresh: {type(error).__name__}: {error}")
            return
        with fresh:
            # All at once, which costs less than key by key; that way the first one has read already.
            self._guarded("load_items", fresh.load_items)
            self._read_all(fresh, "then another machine: ")

    def _open(self, file: str, flag: str) -> Any:
        return ebooklet_tx.open(
            remote_of(self._folder),
            self._folder / file,
            flag,
            lock=None,
            lock_timeout=0.3,
            retry=RetryPolicy.without_backoff(),
        )

    def _say(self, kind: str, text: str) -> None:
        self._report.sendall(f"event {kind} {text}".replace("\n", " ")[:600].encode() + b"\n")

    def _guarded(self, what: str, act: Callable[[], Any]) -> Any:
        """Returns what an act gives; None where it raises an error of ours, which is told."""
        try:
            return act()
        except Error as error:
            self._say("error", f"{what}: {type(error).__name__}: {error}")
            return None

    def _read_all(self, database: Any, who: str) -> None:
        truth = self._truth
        report = database._session.local.report
        told = [*report.actions, *self._told]
        if told:
            self._say("told", "; ".join(told)[:500])
            self._excused |= truth.only_in_journal
        self._excused.update(report.lost_keys, report.damaged_keys)
        if self._not_pushed:
            self._excused |= truth.values.keys() | truth.older.keys() | {""}
        for key in truth.values.keys() | truth.older.keys():
            found = self._guarded(f"get {key}", lambda key=key: [database.get(key)])
            if found is None:
                # Who was told that it can't be read can't blame anybody for not seeing it elsewhere.
                self._excused.add(key)
            self._compare(key, found, f"{who}get")
        keys = self._guarded("keys", lambda: list(database.keys()))
        if keys is not None:
            self._compare_keys(keys, who)
        length = self._guarded("len", lambda: len(database))
        if length is not None and length != len(truth.values) and not self._excused:
            self._say("problem", f"{who}len() is {length} and not {len(truth.values)}")
        items = self._guarded("items", lambda: list(database.items()))
        for key, value in items or []:
            self._compare(key, [value], f"{who}items")
        self._compare_stamps(database, who)
        metadata = self._guarded("metadata", lambda: [database.get_metadata()])
        older = truth.older_metadata if "" in self._excused else []
        if metadata is not None and metadata[0] not in [truth.metadata, *older]:
            self._say("problem", f"{who}metadata {metadata[0]!r}")
        self._guarded("history", lambda: self._read_history(database, who))
        failures = self._guarded("load_items", lambda: database.load_items())
        if failures:
            self._say("error", f"load_items: {len(failures)} failures")

    def _read_history(self, database: Any, who: str) -> None:
        index = database._session.index.of_base(read_base(database._session.journal))
        if index is not None:
            seqs = [record.seq for record in index.remote.history.records(index.manifest)]
            if seqs != list(range(index.manifest.seq, 0, -1)):
                self._say("problem", f"{who}the history tells of the commits {seqs}")

    def _compare_keys(self, keys: list[str], who: str) -> None:
        truth = self._truth
        if len(set(keys)) != len(keys):
            self._say("problem", f"{who}keys() repeats itself")
        for key in truth.values.keys() - set(keys):
            self._compare(key, [None], f"{who}keys")
        for key in set(keys) - truth.values.keys():
            if not (key in self._excused and key in truth.older):
                self._say("problem", f"{who}keys() has {key!r}, which is none")

    def _compare(self, key: str, found: list[bytes | None] | None, how: str) -> None:
        truth = self._truth
        if found is None:
            return
        value = found[0]
        if value == truth.values.get(key):
            return
        if key in self._excused and (value is None or value in truth.older.get(key, ())):
            self._say("older", f"{how} {key}")
            return
        if key not in truth.values and key not in truth.older:
            self._say("problem", f"{how} gives {key!r}, which is no key")
            return
        what = (
            "nothing"
            if value is None
            else "an older value"
            if value in truth.older.get(key, ())
            else "wrong bytes"
        )
        self._say("problem", f"{how} of {key!r} gives {what}")

    def _compare_stamps(self, database: Any, who: str) -> None:
        truth = self._truth
        stamps = self._guarded("timestamps", lambda: dict(database.timestamps()))
        for key, stamp in (stamps or {}).items():
            if stamp != truth.timestamps.get(key):
                if key in self._excused and stamp in truth.older_timestamps.get(key, ()):
                    continue
                self._say(
                    "problem", f"{who}the timestamp of {key!r} is {stamp} and not {truth.timestamps.get(key)}"
                )


class _Listener(logging.Handler):
    """Hears the warnings by which a loss is told."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(record.getMessage())


def run(order: dict[str, Any], report: socket.socket) -> None:
    """Reads what an order names, in this process, which ends when it takes too long."""
    report.sendall(b"ready\n")
    if report.recv(1) != b"g":
        return
    signal.alarm(TIMEOUT_SECONDS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, in_use + MEMORY_BYTES))
    Reader(order, report).run()
    report.sendall(b"end\n")
