"""The model's copies of what the package says in SQL: held against the SQL, for every combination."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator

import pytest

from ebooklet_tx.local.journal.known import drop_done
from ebooklet_tx.local.journal.operations import BASE_SAID, record_deletes
from ebooklet_tx.local.journal.pending.conflicts import AGREEING, CONFLICTING
from ebooklet_tx.local.journal.schema import CREATE
from tests.model.explorer import BoundExceededError, explore
from tests.model.push_model import NEVER, Version, digest, in_conflict, is_agreeing, is_done

OPERATIONS = (None, 1100, 1011, 2011, 1022)
VERSIONS: tuple[Version, ...] = (NEVER, (1, 1), (2, 1011), (3, 2011), (3, 1100), (4, 1022))


@pytest.fixture
def journal() -> Iterator[sqlite3.Connection]:
    """A journal's database, with nothing in it."""
    connection = sqlite3.connect(":memory:")
    for statement in CREATE:
        connection.execute(statement)
    yield connection
    connection.close()


def write(journal: sqlite3.Connection, operation: int | None, base: Version, remote: Version) -> None:
    """Makes the one entry that is looked at, as the journal would have it."""
    journal.execute("DELETE FROM entry")
    pending = 0 if operation is None else 1 if digest(operation) else 2
    journal.execute(
        "INSERT INTO entry(key, known, pending, pending_digest, pending_timestamp_us, pending_number, "
        "remote_seq, remote_digest, remote_timestamp_us, base_kind, base_seq, base_digest, base_timestamp_us, "
        "local_digest) VALUES ('k', 1, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, x'00')",
        (pending, digest(operation) or None, operation, *columns(remote), BASE_SAID, *columns(base)),
    )


def columns(version: Version) -> tuple[int | None, int | None, int | None]:
    seq, value = version
    return seq or None, digest(value) or None, value or None


def test_conflicts_are_told_as_in_sql(journal: sqlite3.Connection) -> None:
    outcomes = set()
    for operation, base, remote in itertools.product(OPERATIONS, VERSIONS, VERSIONS):
        write(journal, operation, base, remote)
        said = journal.execute(f"SELECT {CONFLICTING}, {AGREEING} FROM entry").fetchone()
        # What the base holds means nothing without an operation; SQL may say NULL where nothing is pending.
        assert in_conflict(operation, base, remote) == bool(said[0]), (operation, base, remote)
        assert is_agreeing(operation, base, remote) == bool(said[1]), (operation, base, remote)
        outcomes.add((bool(said[0]), bool(said[1])))
    assert outcomes == {(False, False), (True, False), (False, True)}


def test_operations_are_done_as_in_sql(journal: sqlite3.Connection) -> None:
    outcomes = set()
    for operation, remote in itertools.product(OPERATIONS, VERSIONS):
        write(journal, operation, NEVER, remote)
        drop_done(journal)
        done = operation is not None and journal.execute("SELECT pending FROM entry").fetchone() == (0,)
        assert is_done(operation, remote) == done, (operation, remote)
        outcomes.add(done)
    assert outcomes == {True, False}


@pytest.mark.parametrize("on_its_way", [False, True])
def test_a_delete_leaves_a_trace_while_a_push_is_on_its_way(
    journal: sqlite3.Connection, on_its_way: bool
) -> None:
    write(journal, 1011, NEVER, NEVER)
    if on_its_way:
        open_push(journal)
    record_deletes(journal, [("k", 7)])
    assert journal.execute("SELECT pending FROM entry").fetchone() == (2 if on_its_way else 0,)


def open_push(journal: sqlite3.Connection) -> None:
    """A push of the operations so far, whose answer has not come."""
    journal.execute(
        "INSERT INTO intent(commit_id, seq, last_number, replaces, begun_at_us) VALUES ('c', 2, 1, 0, 0)"
    )


def test_nothing_counts_as_done_while_a_push_is_on_its_way(journal: sqlite3.Connection) -> None:
    write(journal, 1011, NEVER, (2, 1011))
    open_push(journal)
    drop_done(journal)
    assert journal.execute("SELECT pending FROM entry").fetchone() == (1,)


class _Circle:
    """Numbers that go round; nothing is ever at rest in it, unless it is told so."""

    def __init__(self, rest: int | None) -> None:
        self.rest = rest

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[tuple[str, int]]:
        yield "on", (state + 1) % 5
        if state == 2:
            yield "into the trap", 9

    def problem(self, state: int) -> str | None:
        return None

    def at_rest(self, state: int) -> bool:
        return state == self.rest


def test_the_explorer_finds_where_there_is_no_way_on() -> None:
    class Trapped(_Circle):
        def steps(self, state: int) -> Iterator[tuple[str, int]]:
            return super().steps(state) if state != 9 else iter(())

    found = explore(Trapped(rest=0))
    assert (found.states, found.transitions, found.stuck) == (6, 6, 1)
    assert [label for label, _ in found.trace] == ["", "on", "on", "into the trap"]
    assert explore(Trapped(rest=9)).problem is None


def test_the_explorer_says_when_it_is_not_exhaustive() -> None:
    with pytest.raises(BoundExceededError, match="more than 3 states"):
        explore(_Circle(rest=0), most_states=3)
