"""Each function and method that users call has an example in its docstring, and the example runs."""

from __future__ import annotations

import doctest
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.stores.wrapper import PassingStore
from tests.ebooklet_remotes import PLACE, bucket_in_memory, golden_objects, shelved

WITHOUT_EXAMPLE = {
    # The same function under another name.
    "Change.build_changelog",
    "EVariableLengthValue",
    # Refusals, and what `open` and `connect` show.
    "RemoteConnGroup.set",
    "RemoteConnGroup.setdefault",
    "RemoteConnGroup.update",
    # What this package calls itself.
    "RetryPolicy.attempts_for",
    "RetryPolicy.await_lock",
    "RetryPolicy.call",
    "RetryPolicy.without_backoff",
    # Told by the example of its class.
    "testing.CountingStore.reset",
    "testing.Fault",
    "testing.GatedStore.wait_until_stopped",
    # The interface of what is wrapped.
    "testing.ObjectStore",
}
"""Names of functions, methods and classes that need none."""

RECORDS = {
    *("CollectReport", "CommitRecord", "CompactReport", "Conflict", "CopyReport", "EraseReport", "FsckReport"),
    *("ImportReport", "KeyChange", "PullResult", "RestoreResult", "Snapshot"),
    *("PushResult", "RecoverReport", "Status", "VerifyReport", "Version"),
}
"""Plain results, which users read and never make."""

MODULE = "def doubled(key, value):\n    return key, 2 * value\n"


def targets() -> Iterator[tuple[str, Any]]:
    names = {name: getattr(ebooklet_tx, name) for name in ebooklet_tx.__all__}
    names |= {f"testing.{name}": getattr(testing, name) for name in testing.__all__}
    for name, value in names.items():
        if name in RECORDS or name in WITHOUT_EXAMPLE:
            continue
        if inspect.isclass(value) and not issubclass(value, BaseException):
            yield name, value
            for called, method in inspect.getmembers(value, inspect.isroutine):
                defined = getattr(method, "__module__", None) or ""
                # What a store passes on is told by the interface of stores.
                inherited = issubclass(value, PassingStore) and called not in vars(value)
                if not called.startswith("_") and not inherited and defined.startswith("ebooklet_tx"):
                    yield f"{name}.{called}", method
        elif inspect.isfunction(value):
            yield name, value


TARGETS = {name: value for name, value in targets() if name not in WITHOUT_EXAMPLE}
ADDRESS_METHODS = ("endpoint", "to_dict")
"""Of a connection: one line each, told by their types."""


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What examples use: `remote` and `db`, an open database of 1 and 2 under a and b that was pushed there.

    `old_remote` is one of ebooklet's.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "stations.py").write_text(MODULE)
    remote = f"file://{tmp_path}/remote/stations"
    with (
        bucket_in_memory(shelved(golden_objects("grouped"))),
        ebooklet_tx.open(remote, "db.blt", "c", "orjson", 1009, lock=None) as db,
    ):
        db.update({"a": 1, "b": 2})
        db.changes().push()
        yield {"ebooklet_tx": ebooklet_tx, "remote": remote, "old_remote": PLACE, "db": db, "testing": testing}
        testing.clear()
    sys.modules.pop("stations", None)


@pytest.mark.parametrize("name", [name for name in TARGETS if not name.endswith(ADDRESS_METHODS)])
def test_the_example_runs(name: str, names: dict[str, Any]) -> None:
    text = inspect.getdoc(TARGETS[name]) or ""
    assert "Examples:" in text, f"{name} has no example"
    found = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert found.examples, f"the example of {name} has no line that begins with >>>"
    output: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(found, out=output.append, clear_globs=False)
    assert runner.failures == 0, "".join(output)
