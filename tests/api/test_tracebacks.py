"""Tracebacks: a user sees the own lines, the call and one cause, and never loses a line of the own code."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.errors import TransientStoreError
from ebooklet_tx.tracebacks import FULL_TRACEBACKS_VARIABLE
from tests.pairs import Bench
from tests.store_wrappers import PassingStore

OUR_FRAMES = 4
"""Of an error and its cause together."""


_STORE = """
class Switched(PassingStore):
    # Lets no request through while a list holds anything.

    def __init__(self, inner, away):
        super().__init__(inner)
        self._away = away

    def _pass(self, kind, key, send):
        if not self._away:
            return super()._pass(kind, key, send)
        try:
            raise ConnectionRefusedError(111, "refused")
        except OSError as error:
            raise TransientStoreError(f"{kind} {key!r}: refused", may_have_applied=False) from error
"""
_names: dict[str, Any] = {
    "__name__": "urllib3.switched",
    "PassingStore": PassingStore,
    "TransientStoreError": TransientStoreError,
}
# As a library's own code: frames of this file would count as the caller's.
exec(compile(_STORE, "switched.py", "exec"), _names)
Switched = _names["Switched"]


def unreachable(store: Any) -> Any:
    return Switched(store, [True])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer="orjson") as db:
        db.update({"small": 1, "large": "x" * 100_000})
        db.changes().push()
    return bench


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def causes(error: BaseException) -> int:
    text = shown(error)
    return text.count("was the direct cause of") + text.count("During handling of")


def our_frames(error: BaseException) -> int:
    return shown(error).count(f'File "{Path(ebooklet_tx.__file__).parent}')


def check_short(error: BaseException) -> None:
    assert causes(error) <= 1, shown(error)
    assert our_frames(error) <= OUR_FRAMES, shown(error)
    assert "tenacity" not in shown(error)
    assert f'File "{__file__}"' in shown(error)


def test_a_push_that_is_offline(bench: Bench) -> None:
    away: list[bool] = []
    with bench.open("a", "w", wrap_store=lambda store: Switched(store, away)) as db:
        db["small"] = 2
        away.append(True)
        with pytest.raises(ebooklet_tx.OfflineError) as raised:
            db.changes().push()
        away.clear()
    check_short(raised.value)


def test_an_open_that_is_offline(bench: Bench) -> None:
    with pytest.raises(ebooklet_tx.OfflineError) as raised:
        bench.open("a", "r", wrap_store=unreachable)
    check_short(raised.value)


@pytest.mark.parametrize(
    "read",
    [
        lambda db: db["large"],
        lambda db: db.get("large"),
        lambda db: list(db.items()),
        lambda db: list(db.values()),
        lambda db: list(db.get_items(["large"])),
        lambda db: list(db.timestamps(True)),
        lambda db: ("large", 1) in db.items(),
    ],
)
def test_a_read_that_is_offline(bench: Bench, read: Callable[[ebooklet_tx.Database], object]) -> None:
    away: list[bool] = []
    with bench.open("b", "r", wrap_store=lambda store: Switched(store, away)) as db:
        away.append(True)
        with pytest.raises(ebooklet_tx.OfflineError) as raised:
            read(db)
    check_short(raised.value)


def test_a_key_that_is_missing(bench: Bench) -> None:
    with bench.open("a", "r") as db, pytest.raises(KeyError) as raised:
        db["nothing"]
    assert causes(raised.value) == 0
    assert our_frames(raised.value) == 1


def test_what_a_serializer_raises_keeps_its_lines(tmp_path: Path) -> None:
    with (
        ebooklet_tx.open(f"file://{tmp_path}/remote/a", tmp_path / "a.blt", "c", value_serializer=Refusing) as db,
        pytest.raises(ebooklet_tx.InvalidValueError) as raised,
    ):
        db["a"] = 1
    assert "refuse_in_a_helper(value)" in shown(raised.value)
    assert "no ones here" in shown(raised.value)
    assert "deeper reason" in shown(raised.value)


def test_what_a_resolver_raises_comes_out_with_its_lines(bench: Bench) -> None:
    with bench.open("b", "w", lock=None) as db:
        db["small"] = 3
        with bench.open("a", "w", lock=None) as other:
            other["small"] = 4
            other.changes().push()
        with pytest.raises(ZeroDivisionError) as raised:
            db.changes().push(on_conflict=divides_by_zero)
        assert "1 // 0" in shown(raised.value)
        with pytest.raises(ebooklet_tx.InvalidArgumentError) as ours:
            db.changes().push(on_conflict=raises_one_of_ours)
        assert "the_line_that_counts" in shown(ours.value)


def test_what_the_caller_was_handling_is_still_shown(bench: Bench) -> None:
    def call_while_handling() -> None:
        try:
            raise LookupError("the caller's own")
        except LookupError:
            bench.open("a", "r", wrap_store=unreachable)

    with pytest.raises(ebooklet_tx.OfflineError) as raised:
        call_while_handling()
    assert "the caller's own" in shown(raised.value)


def test_everything_can_be_shown(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FULL_TRACEBACKS_VARIABLE, "1")
    with pytest.raises(ebooklet_tx.OfflineError) as raised:
        bench.open("a", "r", wrap_store=unreachable)
    assert our_frames(raised.value) > OUR_FRAMES


class Refusing:
    """A serializer that takes nothing."""

    @staticmethod
    def dumps(value: object) -> bytes:
        try:
            raise OSError("a deeper reason")
        except OSError as error:
            raise ValueError(refuse_in_a_helper(value)) from error

    @staticmethod
    def loads(value: bytes) -> bytes:
        return value


def refuse_in_a_helper(value: object) -> str:
    return f"no ones here, such as {value}"


def divides_by_zero(conflict: object) -> int:
    return 1 // 0


def raises_one_of_ours(conflict: object) -> int:
    the_line_that_counts = "not this one"
    raise ebooklet_tx.InvalidArgumentError(the_line_that_counts)
