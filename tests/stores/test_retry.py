"""Retrying: what is sent again, how long is waited, and how it ends; on a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebooklet_tx.errors import (
    Error,
    ObjectMissingError,
    OfflineError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.object_store import StoredObject, UploadState
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from tests.store_wrappers import CountingStore, Fault, FaultyStore


class Time:
    """A clock that moves only when somebody sleeps or a request takes its time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Source:
    def __init__(self, size: int) -> None:
        self.size_bytes = size
        self.reads: list[int] = []

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        self.reads.append(offset_bytes)
        return bytes(length_bytes)


def failing(times: int, error: Exception | None = None) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def func() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error or TransientStoreError("503 slow down")
        return "done"

    return func, calls


def policy_on(time: Time, **changes: object) -> RetryPolicy:
    # The draw is the bound itself, so that waits can be told exactly.
    base = RetryPolicy(clock=time.clock, sleep=time.sleep, random=lambda: 1.0)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_failure_that_passes_is_not_seen() -> None:
    time = Time()
    func, calls = failing(3)
    assert policy_on(time).call("get", func) == "done"
    assert len(calls) == 4
    assert time.slept == pytest.approx([0.1, 0.2, 0.4])


def test_waits_grow_to_the_cap() -> None:
    time = Time()
    func, _ = failing(9)
    policy_on(time, attempts=10, cap_seconds=2.0).call("get", func)
    assert time.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2, 2])


def test_waits_are_drawn_from_zero_to_the_bound() -> None:
    time = Time()
    draw = random.Random(7)
    policy = policy_on(
        time, attempts=200, base_seconds=1.0, cap_seconds=1.0, deadline_seconds=1e6, random=draw.random
    )
    func, _ = failing(199)
    policy.call("get", func)
    assert len(time.slept) == 199
    assert min(time.slept) < 0.1
    assert 0.9 < max(time.slept) <= 1.0


def test_very_many_attempts_do_not_overflow() -> None:
    time = Time()
    func, _ = failing(1500)
    policy_on(time, attempts=2000, deadline_seconds=1e9).call("get", func)
    assert time.slept[-1] == 10.0


def test_retry_after_is_the_least_that_is_waited() -> None:
    time = Time()
    func, _ = failing(2, TransientStoreError("503", retry_after_seconds=7.0))
    policy_on(time).call("get", func)
    assert time.slept == [7.0, 7.0]


def test_retry_after_past_the_deadline_is_not_waited_for() -> None:
    time = Time()
    func, calls = failing(2, TransientStoreError("503", retry_after_seconds=121.0))
    with pytest.raises(OfflineError):
        policy_on(time).call("get", func)
    assert (len(calls), time.slept) == (1, [])


def test_the_attempts_have_an_end_and_the_error_tells_all() -> None:
    time = Time()
    func, calls = failing(100, TransientStoreError("the last failure"))
    with pytest.raises(OfflineError) as caught:
        policy_on(time, attempts=3).call("head", func, location="s3://bkt", key="my db")
    assert len(calls) == 3
    for part in ("head", "'my db'", "s3://bkt", "3 attempts", "0.3 s", "the last failure"):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, TransientStoreError)


def test_the_deadline_ends_it_before_a_wait_that_would_pass_it() -> None:
    time = Time()

    def slow() -> None:
        time.now += 50.0
        raise TransientStoreError("timed out")

    with pytest.raises(OfflineError, match=r"3 attempts in 150\.3 s"):
        policy_on(time).call("get", slow)
    assert time.slept == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    "error", [ObjectMissingError("x"), PreconditionFailedError("x"), RemoteAccessError("x"), KeyError("x")]
)
def test_answers_are_not_retried(error: Exception) -> None:
    func, calls = failing(1, error)
    with pytest.raises(type(error)):
        RetryPolicy.without_backoff().call("get", func)
    assert len(calls) == 1


def test_a_keyboard_interrupt_is_let_through() -> None:
    calls: list[int] = []

    def func() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RetryPolicy.without_backoff().call("get", func)
    assert len(calls) == 1


def test_without_backoff_never_waits() -> None:
    func, calls = failing(5, TransientStoreError("503", retry_after_seconds=60.0))
    assert RetryPolicy.without_backoff().call("get", func) == "done"
    assert len(calls) == 6


def test_the_loop_form_ends_with_the_first_success() -> None:
    time = Time()
    func, calls = failing(2)
    for attempt in policy_on(time).attempts_for("commit"):
        with attempt:
            answer = func()
    assert (answer, len(calls), len(time.slept)) == ("done", 3, 2)


def test_the_loop_form_gives_up_as_the_call_does() -> None:
    func, calls = failing(9)

    def commit() -> None:
        policy = RetryPolicy.without_backoff(attempts=2)
        for attempt in policy.attempts_for("commit", location="s3://bkt", key="db"):
            with attempt:
                func()

    with pytest.raises(OfflineError, match=r"commit of 'db' at s3://bkt was given up after 2 attempts"):
        commit()
    assert len(calls) == 2


def test_the_loop_form_lets_answers_through() -> None:
    func, calls = failing(9, PreconditionFailedError("412"))

    def commit() -> None:
        for attempt in RetryPolicy.without_backoff().attempts_for("commit"):
            with attempt:
                func()

    with pytest.raises(PreconditionFailedError):
        commit()
    assert len(calls) == 1


@pytest.fixture
def folder(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore(tmp_path)
    for number in range(5):
        store.put(f"db.d/pack/{number}", b"value")
    return store


def fault(at: int, kind: str, *, after: bool = False, error: Error | None = None) -> Fault:
    return Fault(at, error or TransientStoreError("broken on purpose"), after=after, kind=kind)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["get", "get_range", "head", "put", "put_parts", "list", "delete", "copy"])
def test_every_operation_is_retried(folder: DirectoryStore, kind: str, after: bool) -> None:
    counted = CountingStore(folder)
    store = RetryingStore(FaultyStore(counted, [fault(1, kind, after=after)]), RetryPolicy.without_backoff())
    key = "db.d/pack/0"
    operations: dict[str, Callable[[], object]] = {
        "get": lambda: store.get(key),
        "get_range": lambda: store.get_range(key, 0, 2),
        "head": lambda: store.head(key),
        "put": lambda: store.put(key, b"value"),
        "put_parts": lambda: store.put_parts(key, Source(10), part_bytes=5),
        "list": lambda: list(store.list("db.d/")),
        "delete": lambda: store.delete(key),
        "copy": lambda: store.copy(key, "db.d/pack/copy"),
    }
    operations[kind]()
    assert counted.requests[kind] == (2 if after else 1)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("condition", ["if_match", "if_absent"])
def test_a_conditional_put_is_sent_once(folder: DirectoryStore, condition: str, after: bool) -> None:
    counted = CountingStore(folder)
    store = RetryingStore(FaultyStore(counted, [fault(1, "put", after=after)]), RetryPolicy.without_backoff())
    puts: dict[str, Callable[[], object]] = {
        "if_match": lambda: store.put("db.d/pack/0", b"x", if_match=folder.head("db.d/pack/0").etag),
        "if_absent": lambda: store.put("db", b"x", if_absent=True),
    }
    with pytest.raises(TransientStoreError):
        puts[condition]()
    assert counted.requests["put"] == int(after)


class BreakingList(CountingStore):
    """Lists a few objects more at each try before it breaks."""

    def __init__(self, inner: DirectoryStore, step: int) -> None:
        super().__init__(inner)
        self._step = step

    def list(self, prefix: str) -> Iterator[StoredObject]:
        tries = self.requests["list"] = self.requests["list"] + 1
        for number, found in enumerate(self.inner.list(prefix)):
            if number == tries * self._step:
                raise TransientStoreError("the list broke off")
            yield found


def test_a_list_that_breaks_off_is_begun_anew_without_repeats(
    folder: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebooklet_tx.stores.retry._LIST_BATCH", 2)
    inner = BreakingList(folder, step=2)
    store = RetryingStore(inner, RetryPolicy.without_backoff(attempts=2))
    assert [found.key for found in store.list("db.d/")] == [f"db.d/pack/{number}" for number in range(5)]
    assert inner.requests["list"] == 3


def test_a_list_that_never_gets_on_is_given_up(folder: DirectoryStore) -> None:
    store = RetryingStore(BreakingList(folder, step=0), RetryPolicy.without_backoff(attempts=3))
    with pytest.raises(OfflineError, match=r"list of 'db\.d/'"):
        list(store.list("db.d/"))


def test_an_upload_goes_on_from_the_last_part_that_arrived(folder: DirectoryStore) -> None:
    source = Source(100)
    states: list[UploadState] = []
    faulty = FaultyStore(folder, [fault(3, "part"), fault(6, "part")])
    store = RetryingStore(faulty, RetryPolicy.without_backoff(attempts=3))
    store.put_parts("db", source, part_bytes=10, on_part=states.append)
    assert folder.head("db").size_bytes == 100
    assert len(faulty.raised) == 2
    # The answer to the third and to the sixth part was lost before it could be recorded.
    assert source.reads == [0, 10, 20, 20, 30, 40, 40, 50, 60, 70, 80, 90]
    assert len(states[-1].parts) == 10


def test_an_upload_that_gets_on_outlasts_the_attempts(folder: DirectoryStore) -> None:
    plan = [fault(number, "part") for number in range(2, 18, 2)]
    store = RetryingStore(FaultyStore(folder, plan), RetryPolicy.without_backoff(attempts=2))
    store.put_parts("db", Source(100), part_bytes=10)
    assert folder.head("db").size_bytes == 100


def test_an_upload_that_stands_still_is_given_up(folder: DirectoryStore) -> None:
    plan = [fault(number, "part") for number in range(3, 50)]
    faulty = FaultyStore(folder, plan)
    states: list[UploadState] = []
    store = RetryingStore(faulty, RetryPolicy.without_backoff(attempts=4))
    with pytest.raises(OfflineError, match="put_parts of 'db'"):
        store.put_parts("db", Source(100), part_bytes=10, on_part=states.append)
    # Four attempts that got on by two parts, and four that did not.
    assert len(faulty.raised) == 8
    with pytest.raises(ObjectMissingError):
        folder.get("db")
    # What had arrived is still good for a later try.
    source = Source(100)
    folder.put_parts("db", source, part_bytes=10, resume=states[-1])
    assert source.reads[0] == 20


def test_counting(folder: DirectoryStore) -> None:
    store = CountingStore(folder)
    store.put("db", b"12345")
    store.get("db")
    store.get_range("db", 1, 2)
    store.put_parts("db", Source(25), part_bytes=10)
    assert store.requests == {"put": 1, "get": 1, "get_range": 1, "put_parts": 1, "part": 3}
    assert (store.bytes_up, store.bytes_down, store.total) == (30, 7, 7)
