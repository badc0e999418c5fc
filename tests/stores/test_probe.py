"""The probe names what a store does with conditions, whatever happens to its requests meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import pytest

from ebooklet_tx.errors import (
    OfflineError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.capabilities import CREATORS, LEFT_BEHIND_SECONDS, Conditional, probe
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from tests.memory_store import Conditions, MemoryStore
from tests.store_wrappers import CountingStore, Fault, FaultyStore, PassingStore

T = TypeVar("T")
KEY = "db.lock"
POLICY = RetryPolicy.without_backoff()


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class KilledError(BaseException):
    """Ends a probe as a kill would: the store takes no request after it."""


class FailsLosers(PassingStore):
    """Says 500 to those who lose a conditional write, as Ceph does."""

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        try:
            return send()
        except PreconditionFailedError as error:
            raise TransientStoreError(f"500 instead of: {error}") from error


class Racy(MemoryStore):
    """Checks, waits for the others, and then writes: creates at once all win."""

    def __init__(self) -> None:
        super().__init__()
        self._barrier = threading.Barrier(CREATORS)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        if not data.startswith(b"creator"):
            return super().put(key, data, if_match=if_match, if_absent=if_absent, metadata=metadata)
        absent = key not in self.objects
        self._barrier.wait(30)
        if not absent:
            raise PreconditionFailedError("412")
        return super().put(key, data)


def left(store: MemoryStore) -> list[str]:
    return sorted(store.objects)


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ("work", Conditional.QUOTED),
        ("want unquoted", Conditional.UNQUOTED),
        ("refused", Conditional.REFUSED),
        ("ignored", Conditional.IGNORED),
    ],
)
def test_each_treatment_is_named(conditions: Conditions, answer: Conditional) -> None:
    store = MemoryStore(conditions)
    assert probe(store, KEY, store) is answer
    assert left(store) == []
    assert store.quote_etags is (answer is not Conditional.UNQUOTED)
    assert answer.works is (answer in (Conditional.QUOTED, Conditional.UNQUOTED))


def test_a_store_without_a_choice_of_quotes_is_not_asked_for_it() -> None:
    store = MemoryStore("want unquoted")
    assert probe(store, KEY, None) is Conditional.REFUSED
    assert left(store) == []
    store = MemoryStore("want unquoted")
    store.quote_etags = False
    assert probe(store, KEY, store) is Conditional.UNQUOTED


def test_errors_for_losers_are_no_refusal() -> None:
    store = MemoryStore()
    assert probe(FailsLosers(store), KEY, store) is Conditional.QUOTED
    assert left(store) == []


def test_creates_at_once_that_all_win_disqualify() -> None:
    store = Racy()
    assert probe(store, KEY, store) is Conditional.RACY
    assert not Conditional.RACY.works
    assert left(store) == []


def _requests(conditions: Conditions) -> list[str]:
    inner = MemoryStore(conditions)
    counting = CountingStore(inner)
    probe(counting, KEY, inner)
    return [kind for kind, _ in counting.log]


@pytest.mark.parametrize("conditions", ["work", "want unquoted", "refused", "ignored"])
@pytest.mark.parametrize("after", [False, True])
def test_one_lost_request_or_answer_changes_nothing(conditions: Conditions, after: bool) -> None:
    expected = probe(quiet := MemoryStore(conditions), KEY, quiet)
    for at in range(1, len(_requests(conditions)) + 1):
        inner = MemoryStore(conditions)
        faulty = FaultyStore(inner, [Fault(at, TransientStoreError("cut"), after=after)])
        store = RetryingStore(faulty, POLICY)
        assert probe(store, KEY, inner) is expected, f"request {at}"
        assert len(faulty.raised) == 1
        assert left(inner) == []


def test_a_store_that_fails_writes_for_a_while_is_not_taken_for_one_that_refuses() -> None:
    inner = MemoryStore()
    outage = [Fault(at, TransientStoreError("503"), kind="put") for at in range(1, 6)]
    assert probe(RetryingStore(FaultyStore(inner, outage), POLICY), KEY, inner) is Conditional.QUOTED


def test_a_store_that_takes_no_writes_at_all_is_offline_or_forbidden() -> None:
    inner = MemoryStore()
    outage = [Fault(at, TransientStoreError("503"), kind="put") for at in range(1, 100)]
    with pytest.raises(OfflineError):
        probe(RetryingStore(FaultyStore(inner, outage), POLICY), KEY, inner)
    forbidden = FaultyStore(inner, [Fault(1, RemoteAccessError("403"), kind="put")])
    with pytest.raises(RemoteAccessError):
        probe(RetryingStore(forbidden, POLICY), KEY, inner)


def test_a_store_that_fails_conditional_writes_alone_refuses_them() -> None:
    inner = MemoryStore("refused")

    class Failing(PassingStore):
        def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
            try:
                return send()
            except Exception as error:
                if type(error).__name__ == "ConditionUnsupportedError":
                    raise TransientStoreError("500") from error
                raise

    assert probe(RetryingStore(Failing(inner), POLICY), KEY, inner) is Conditional.REFUSED
    assert left(inner) == []


def test_what_a_killed_probe_left_is_removed_by_a_later_one() -> None:
    left_something = 0
    for at in range(1, len(_requests("work")) + 1):
        clock = Clock()
        inner = MemoryStore(clock=clock)
        dead = [Fault(number, KilledError()) for number in range(at, at + 100)]
        with pytest.raises(KilledError):
            probe(FaultyStore(inner, dead), KEY, inner)
        left_something += bool(left(inner))
        before = left(inner)
        clock.now = LEFT_BEHIND_SECONDS
        assert probe(inner, KEY, inner) is Conditional.QUOTED
        assert left(inner) == before
        clock.now = LEFT_BEHIND_SECONDS + 1
        assert probe(inner, KEY, inner) is Conditional.QUOTED
        assert left(inner) == []
    assert left_something > 10


def test_two_probes_at_once_do_not_disturb_each_other() -> None:
    for at in range(1, len(_requests("work")) + 1):
        inner = MemoryStore()
        seen = 0
        others: list[Conditional] = []

        def meet(kind: str, key: str, inner: MemoryStore = inner, at: int = at) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                inner.on_request = lambda kind, key: None
                others.append(probe(inner, KEY, inner))  # noqa: B023

        inner.on_request = meet
        assert probe(inner, KEY, inner) is Conditional.QUOTED, f"met at request {at}"
        assert others == [Conditional.QUOTED]
        assert left(inner) == []


def test_objects_of_the_lock_itself_and_of_other_databases_stay() -> None:
    clock = Clock()
    inner = MemoryStore(clock=clock)
    kept = ["db", "db.lock", "db.lock.choosing.x", "db.lock2", "db.lock.probe", "db2.lock.probe-1"]
    for key in kept:
        inner.put(key, b"x")
    clock.now = 10 * LEFT_BEHIND_SECONDS
    probe(inner, KEY, inner)
    assert left(inner) == sorted(kept)
