"""A disk that fails at the n-th write, fsync or journal transaction, and then works again."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from sqlalchemy import Connection

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.journal.journal import Journal


@dataclass
class Fault:
    """Counts down to the one call that fails, or is killed.

    Attributes:
        at: Which call, from 1.
        raised: Whether it has come to that.
    """

    at: int
    raised: bool = False
    count: int = 0

    def now(self) -> bool:
        self.count += 1
        if self.count == self.at:
            self.raised = True
            return True
        return False


def _no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _die() -> None:
    os.kill(os.getpid(), 9)


@contextlib.contextmanager
def failing_disk(fault: Fault, *, kill: bool = False) -> Iterator[Fault]:
    """Within the block the n-th call fails with ENOSPC, a longer pwrite after half of its bytes.

    With `kill` the process ends there instead.
    """
    pwrite, fsync, transaction = os.pwrite, os.fsync, Journal.transaction

    def fail(error: Callable[[], Exception]) -> None:
        if kill:
            _die()
        raise error()

    def failing_pwrite(fd: int, data: Any, offset: int, /) -> int:
        if fault.now():
            # The 16 bytes of a guard lie in one sector: they are written or they are not.
            with memoryview(data) as view, view[: len(view) // 2 if len(view) > 16 else 0] as half:
                pwrite(fd, half, offset)
            fail(_no_space)
        return pwrite(fd, data, offset)

    def failing_fsync(fd: int, /) -> None:
        if fault.now():
            fail(_no_space)
        fsync(fd)

    @contextlib.contextmanager
    def failing_transaction(self: Journal, *, durable: bool = True) -> Iterator[Connection]:
        def refused() -> Exception:
            return LocalStorageError(errno.ENOSPC, f"can't use the journal {self.path}: injected")

        if fault.now():
            fail(refused)
        with transaction(self, durable=durable) as connection:
            yield connection
            if fault.now():
                fail(refused)

    with (
        mock.patch.object(os, "pwrite", failing_pwrite),
        mock.patch.object(os, "fsync", failing_fsync),
        mock.patch.object(Journal, "transaction", failing_transaction),
    ):
        yield fault
