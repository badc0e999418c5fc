"""Children that push or load over a slow line, to be stopped by signals."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import ebooklet_tx
from ebooklet_tx.cli import care, commands, sessions, syncing
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.progress import Progress
from ebooklet_tx.sync.commit import packing


def command(pipe: Pipe, arguments: list[str], pack_bytes: int, environment: dict[str, str], begin: int) -> None:
    """Runs a command of the command line; tells when so many bytes are under way, then how it ended."""
    os.environ.update(environment)
    # As a shell starts it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    packing.PACK_BYTES = pack_bytes
    told = False

    def tell(event: Progress) -> None:
        nonlocal told
        if not told and event.phase in ("send", "load") and event.bytes_done >= begin:
            told = True
            pipe.send(("said", event.bytes_done))

    for module in (care, sessions, syncing):
        module.bars = lambda: tell  # type: ignore[assignment]
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = commands.main(arguments)
    pipe.send(("said", (code, time.monotonic(), out.getvalue(), errors.getvalue())))


def program(pipe: Pipe, url: str, path: str, pack_bytes: int, environment: dict[str, str], begin: int) -> None:
    """Loads all values in a program of a user's own, which goes on after Ctrl-C."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    told = False

    def tell(event: Progress) -> None:
        nonlocal told
        if not told and event.phase == "load" and event.bytes_done >= begin:
            told = True
            pipe.send(("said", event.bytes_done))

    with ebooklet_tx.open(url, path, "w", progress=tell) as db:
        try:
            db.load_items()
        except KeyboardInterrupt as error:
            pipe.send(("said", (time.monotonic(), error.__notes__)))
        db["afterwards"] = b"still usable"
        db.sync()
        here = sum(entry.local_length_bytes or 0 for entry in _held(db))
    pipe.send(("said", (here, time.monotonic())))


def _held(db: ebooklet_tx.Database) -> list[Any]:
    return list(entries_where(db._session.journal, "local_digest IS NOT NULL"))
