"""An interrupt at any moment of opening a file of a directory store leaves no descriptor open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from ebooklet_tx.stores.directory.files import open_object
from ebooklet_tx.stores.directory.temporary_files import TemporaryFolder
from tests.interrupts import Interrupter

Opening = Callable[[], BinaryIO]


def open_once(opening: Opening) -> None:
    opening().close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def check_every_bytecode(opening: Opening) -> None:
    counting = Interrupter()
    counting.run(lambda: open_once(opening))
    assert counting.count > 20
    before = descriptors()
    for at in range(1, counting.count + 1):
        interrupter = Interrupter(at)
        # Python ignores what a finalizer raises.
        with contextlib.suppress(KeyboardInterrupt):
            interrupter.run(lambda: open_once(opening))
        assert descriptors() == before, interrupter.where


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
class TestInterruptedOpens:
    def test_an_object(self, tmp_path: Path) -> None:
        (tmp_path / "object").write_bytes(b"value")
        check_every_bytecode(lambda: open_object(tmp_path / "object"))

    def test_a_temporary_file(self, tmp_path: Path) -> None:
        with TemporaryFolder(tmp_path / "made").new_file() as file:
            file.open("x+b").close()
            check_every_bytecode(lambda: file.open("r+b"))

    def test_something_that_is_no_object(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")

        def refused() -> BinaryIO:
            try:
                return open_object(tmp_path / "pipe")
            except FileNotFoundError:
                return open_object(tmp_path / "object")

        (tmp_path / "object").write_bytes(b"value")
        check_every_bytecode(refused)
