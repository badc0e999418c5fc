"""A child whose disk fills up under its hands, and who goes on when there is room again."""

from __future__ import annotations

import socket

from ebooklet_tx.errors import LocalStorageError
from tests.faults.scenarios import FILE, Child, Content, Step, content_of


class Survivor:
    """Takes steps like any child; when one fails for want of room it checks, waits, and tries again."""

    def __init__(self, child: Child, report: socket.socket) -> None:
        self._child = child
        self._report = report
        self._state = Content()

    def take(self, child: Child, step: Step) -> None:
        """Takes a step, twice if the disk is full the first time.

        Raises:
            AssertionError: The failure was not told as it should be, or something is lost by it.
        """
        try:
            step.run(child)
        except LocalStorageError as error:
            self._check_message(str(error))
            self._check_still_readable(step)
            self._report.sendall(b"stopped\n")
            if self._report.recv(1) != b"g":
                raise AssertionError("nobody made room") from None
            self._try_again(step)
        self._after(step)

    def _check_message(self, message: str) -> None:
        if FILE not in message or "last commit is intact" not in message:
            raise AssertionError(f"names no file, or no way out: {message}")

    def _check_still_readable(self, step: Step) -> None:
        """What was committed is there, and what was not still waits to be."""
        if step.name == "sync":
            self._expect(self._changed(step))
            # A second failure does no more harm than the first.
            try:
                self._child.database.sync()
            except LocalStorageError:
                self._expect(self._changed(step))
        elif step.name == "transaction":
            self._expect(self._state)

    def _try_again(self, step: Step) -> None:
        if step.name == "sync":
            self._child.database.sync()
        elif step.name == "close":
            self._child.open()
            self._expect(self._state)
            step.run(self._child)
        else:
            step.run(self._child)

    def _after(self, step: Step) -> None:
        if step.name == "open":
            self._state = content_of(self._child.database)
            return
        self._state = self._changed(step)
        if step.name != "close":
            self._expect(self._state)

    def _changed(self, step: Step) -> Content:
        state = self._state.copy()
        if step.change is not None:
            step.change(state)
        return state

    def _expect(self, state: Content) -> None:
        found = content_of(self._child.database)
        if not found.same_as(state):
            raise AssertionError(f"on the full disk: {found.difference(state)}")
