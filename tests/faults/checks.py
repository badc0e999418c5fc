"""What must hold after any death: the checks that every part of the kill matrix shares."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ebooklet_tx
from tests.faults.scenarios import BUCKETS, FILE, Content, content_of, plain_content_of

AFTER_KEY = "after the kill"


def one_of(found: Content, allowed: Iterable[Content], what: str) -> Content:
    """Raises unless what was found is one of the states that may be."""
    states = list(allowed)
    for state in states:
        if found.same_as(state):
            return state
    raise AssertionError(f"{what}: {'; or '.join(found.difference(state) for state in states)}")


def read_remote(remote: Any, path: Path) -> Content:
    """Reads the remote as another machine does, whose local file is at `path`."""
    with ebooklet_tx.open(remote, path) as reader:
        return content_of(reader)


def check_nothing_lost(database: Any) -> None:
    """Raises if opening reported any value as damaged or lost."""
    report = database._session.local.report
    if report.lost_keys or report.damaged_keys:
        raise AssertionError(f"lost {report.lost_keys}, damaged {report.damaged_keys}")


def check_files(folder: Path, may_leave: Iterable[str] = ()) -> None:
    """Raises if files are left beside the database that nobody will ever remove."""
    expected = (FILE, f"{FILE}.journal", *may_leave)
    found = [path.name for path in folder.iterdir() if path.name.startswith(FILE)]
    left = sorted(name for name in found if not any(fnmatch.fnmatchcase(name, pattern) for pattern in expected))
    if left:
        raise AssertionError(f"left behind: {left}")


def reopen_and_push(remote: Any, folder: Path, allowed: Iterable[Content], *, flag: str = "w") -> Content:
    """Opens what a killed process left, checks it, goes on working with it and pushes.

    Returns:
        What was found.
    """
    path = folder / FILE
    with ebooklet_tx.open(remote, path, flag, n_buckets=BUCKETS, lock=None, lock_timeout=0) as database:
        check_nothing_lost(database)
        found = one_of(content_of(database), allowed, "after the kill the file holds")
        database[AFTER_KEY] = b"written"
        expected = found.copy()
        expected[AFTER_KEY] = b"written"
        if not database.changes().push():
            raise AssertionError("the push after the kill did nothing")
        one_of(content_of(database), [expected], "after the next push the file holds")
    one_of(plain_content_of(path), [expected], "plain booklet finds")
    return expected
