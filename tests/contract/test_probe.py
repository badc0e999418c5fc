"""The probe on real servers, and what opening makes of its answer."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx import WeakStoreWarning
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.stores.capabilities import Conditional, probe
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.stores.s3 import S3Store
from ebooklet_tx.sync.commit import commit_mode
from tests.contract.conftest import new_bucket, s3_connection
from tests.s3_proxy import Mode, S3Proxy

POLICY = RetryPolicy.without_backoff()
TREE = Path(__file__).parents[2]
SERVERS = {
    "ministack": Conditional.QUOTED,
    "rclone": Conditional.IGNORED,
    Mode.PLAIN: Conditional.QUOTED,
    Mode.REFUSES: Conditional.REFUSED,
    Mode.UNQUOTED: Conditional.UNQUOTED,
    Mode.FAILS_SOME_LOSERS: Conditional.QUOTED,
    Mode.FAILS_ALL_LOSERS: Conditional.QUOTED,
    Mode.IGNORES: Conditional.IGNORED,
}

ProxyIn = Callable[[Mode], S3Proxy]


def place(proxy_in: ProxyIn, mode: Mode, ministack_endpoint: str) -> tuple[S3Proxy, S3Connection]:
    proxy = proxy_in(mode)
    return proxy, s3_connection(proxy.endpoint, new_bucket(ministack_endpoint))


@pytest.fixture
def _unheard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process forget what it knows of stores, as a new one would not know it."""
    monkeypatch.setattr(commit_mode, "probe_results", {})


@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_each_server_is_named_and_left_as_it_was(server: str | Mode, request: pytest.FixtureRequest) -> None:
    upstream = request.getfixturevalue(f"{'ministack' if isinstance(server, Mode) else server}_endpoint")
    endpoint = request.getfixturevalue("proxy_in")(server).endpoint if isinstance(server, Mode) else upstream
    inner = S3Store(s3_connection(endpoint, new_bucket(upstream)))
    store = RetryingStore(inner, POLICY)
    try:
        assert probe(store, "db.lock", inner) is SERVERS[server]
        assert inner.quote_etags is (SERVERS[server] is not Conditional.UNQUOTED)
        assert list(store.list("")) == []
    finally:
        store.close()


@pytest.mark.usefixtures("_unheard_of")
@pytest.mark.parametrize("mode", [Mode.PLAIN, Mode.REFUSES, Mode.UNQUOTED], ids=str)
def test_a_second_process_asks_the_journal_and_not_the_store(
    proxy_in: ProxyIn, ministack_endpoint: str, tmp_path: Path, mode: Mode
) -> None:
    proxy, connection = place(proxy_in, mode, ministack_endpoint)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        for _ in range(2):
            with ebooklet_tx.open(connection, tmp_path / "a.blt", "c", lock=None, retry=POLICY) as db:
                db["a"] = b"first"
                db.changes().push()
                kept = json.loads(db._session.journal.get_meta("conditional_writes") or "{}")
                assert db._session.remote.mode.swaps is SERVERS[mode].works
    weak = [one for one in shown if one.category is WeakStoreWarning]
    assert len(weak) == (not SERVERS[mode].works)
    assert list(kept.values()) == [SERVERS[mode].value]
    assert proxy.count("PUT probe") > 0
    probes = proxy.count("PUT probe")
    # In a new process, where a warning is an error.
    code = (
        "import sys, ebooklet_tx\n"
        "connection = ebooklet_tx.S3Connection(*sys.argv[1:6], read_timeout=30)\n"
        "with ebooklet_tx.open(connection, sys.argv[6], 'w', lock=None) as db:\n"
        "    db['b'] = b'second'\n"
        "    assert db.changes().push()\n"
    )
    secrets = (str(connection.access_key_id), str(connection.access_key), "db", str(connection.bucket))
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *secrets, proxy.endpoint, str(tmp_path / "a.blt")],
        env={**os.environ, "PYTHONPATH": str(TREE)},
        check=True,
        timeout=60,
    )
    assert proxy.count("PUT probe") == probes
    with ebooklet_tx.open(connection, tmp_path / "b.blt", retry=POLICY) as reader:
        assert dict(reader.items()) == {"a": b"first", "b": b"second"}


@pytest.mark.usefixtures("_unheard_of")
@pytest.mark.parametrize(("said", "mode"), [(True, Mode.PLAIN), (False, Mode.PLAIN), (False, Mode.REFUSES)])
def test_whoever_says_how_it_is_is_not_asked(
    proxy_in: ProxyIn, ministack_endpoint: str, tmp_path: Path, said: bool, mode: Mode
) -> None:
    proxy, connection = place(proxy_in, mode, ministack_endpoint)
    with ebooklet_tx.open(
        connection, tmp_path / "a.blt", "c", lock=None, retry=POLICY, conditional_writes=said
    ) as db:
        db["a"] = b"1"
        assert db.changes().push()
        assert db._session.journal.get_meta("conditional_writes") is None
    assert proxy.count("PUT probe") == 0
    # Tickets are what is used where conditions are said not to work.
    assert (proxy.count("DELETE lock") > 0) is not said


@pytest.mark.usefixtures("_unheard_of")
@pytest.mark.parametrize("lock", [None, "exclusive"])
def test_who_says_that_conditions_work_need_not_know_of_quotes(
    proxy_in: ProxyIn, ministack_endpoint: str, tmp_path: Path, lock: str | None
) -> None:
    proxy, connection = place(proxy_in, Mode.UNQUOTED, ministack_endpoint)
    for number in range(2):
        with ebooklet_tx.open(
            connection, tmp_path / "a.blt", "c", lock=lock, retry=POLICY, conditional_writes=True
        ) as db:
            for round_number in range(2):
                db["a"] = b"%d %d" % (number, round_number)
                assert db.changes().push()
    assert proxy.count("PUT probe") == 0
    with ebooklet_tx.open(connection, tmp_path / "b.blt", retry=POLICY) as reader:
        assert reader["a"] == b"1 1"


@pytest.mark.usefixtures("_unheard_of")
def test_a_reader_does_not_probe(proxy_in: ProxyIn, ministack_endpoint: str, tmp_path: Path) -> None:
    proxy, connection = place(proxy_in, Mode.PLAIN, ministack_endpoint)
    with ebooklet_tx.open(
        connection, tmp_path / "a.blt", "c", lock=None, retry=POLICY, conditional_writes=True
    ) as db:
        db["a"] = b"1"
        db.changes().push()
    for _ in range(2):
        with ebooklet_tx.open(connection, tmp_path / "b.blt", retry=POLICY) as reader:
            assert reader["a"] == b"1"
    assert proxy.count("PUT probe") == 0


@pytest.mark.usefixtures("_unheard_of")
def test_another_endpoint_is_probed_anew(proxy_in: ProxyIn, ministack_endpoint: str, tmp_path: Path) -> None:
    _, connection = place(proxy_in, Mode.PLAIN, ministack_endpoint)
    with ebooklet_tx.open(connection, tmp_path / "a.blt", "c", lock=None, retry=POLICY) as db:
        db["a"] = b"1"
        db.changes().push()
    moved = dataclasses.replace(connection, endpoint_url=proxy_in(Mode.REFUSES).endpoint)
    with pytest.warns(WeakStoreWarning, match="refused"):
        db = ebooklet_tx.open(moved, tmp_path / "a.blt", "w", lock=None, retry=POLICY)
    with db:
        db["a"] = b"2"
        assert db.changes().push()
        kept = json.loads(db._session.journal.get_meta("conditional_writes") or "{}")
    assert sorted(kept.values()) == ["quoted", "refused"]
