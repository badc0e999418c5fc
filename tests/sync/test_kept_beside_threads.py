"""What a read keeps, and the file that it reads, beside threads that write, follow or prune."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.local import open_pair
from ebooklet_tx.local.fetched_values import FetchedValues
from tests.pairs import Bench, make, many_large


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_empty_value_is_kept_under_the_mutex(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make(bench, {"a": b"", "b": b""})
    keep, found = FetchedValues.keep, []

    with bench.open("b", "r", buffer_size=1) as db:
        mutex = db._session.mutex

        def kept(self: FetchedValues, fetched: Any) -> None:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            keep(self, fetched)

        def look() -> None:
            found.append(mutex.acquire(blocking=False))
            if found[-1]:
                mutex.release()

        monkeypatch.setattr(FetchedValues, "keep", kept)
        assert (db["a"], db.get("b")) == (b"", b"")
    assert found
    assert not any(found)


class Signalling:
    """A mutex that tells when another thread than the one that made it wants it."""

    def __init__(self, mutex: Any, wanted: threading.Event) -> None:
        self.acquire, self.release = mutex.acquire, mutex.release
        self._wanted = wanted
        self._maker = threading.get_ident()

    def __enter__(self) -> None:
        if threading.get_ident() != self._maker:
            self._wanted.set()
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def test_a_reader_changes_to_a_pruned_file_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make(bench, many_large())
    with bench.open("a", "w", offline=True) as writer:
        writer["k00"] = b"newer"
        writer.sync()
        reader = bench.open("a", "r", offline=True)
        writer.prune()
        pair = reader._session.local._pair
        known, pair.mutex = pair.mutex, Signalling(pair.mutex, went_on := threading.Event())  # type: ignore[assignment]
        uuids: list[str] = []
        threads = [threading.Thread(target=lambda: uuids.append(reader.uuid))]
        open_unlocked, opened = open_pair.open_unlocked, []

        def open_again(*arguments: Any) -> Any:
            opened.append(threading.current_thread())
            if len(opened) > 1:
                went_on.set()
            else:
                threads[0].start()
                # Until it waits for this one, or has begun the same.
                assert went_on.wait(30)
            return open_unlocked(*arguments)

        monkeypatch.setattr(open_pair, "open_unlocked", open_again)
        with known:
            assert reader["k05"] == many_large()["k05"]
        threads[0].join()
        assert uuids == [writer.uuid]
        assert len(opened) == 1
        reader.close()
