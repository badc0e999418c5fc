"""Connections to web servers: used again by one request at a time, and a closed one is no error."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ebooklet_tx.errors import (
    ObjectMissingError,
    ObjectTooLargeError,
    RemoteAccessError,
    TransientStoreError,
    UnreachableStoreError,
)
from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.http.connections import IDLE_SECONDS, MOST_IDLE, Connections
from ebooklet_tx.stores.http.opener import http_only_opener
from ebooklet_tx.stores.stopping import Stop, StoppedError, stop_by
from tests.processes import fork
from tests.servers import http_server

BODY = bytes(range(256)) * 4
WAIT_SECONDS = 60.0


class Exchange(BaseHTTPRequestHandler):
    """One connection as the server sees it; a site answers its requests."""

    protocol_version = "HTTP/1.1"
    site: Site

    def setup(self) -> None:
        super().setup()
        self.number = self.site.accepted(self)
        self.asked = 0

    def do_GET(self) -> None:
        self.asked += 1
        self.site.requests.append((self.number, self.path))
        self.site.seen_headers.append({name.lower(): value for name, value in self.headers.items()})
        self.site.answer(self)

    do_HEAD = do_CONNECT = do_GET  # noqa: N815

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.site.ended[self.number].set()

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answers with a body of a known length."""
        head = {"Content-Length": str(len(body))}
        head |= {name.replace("_", "-"): text for name, text in headers.items()}
        lines = [f"HTTP/1.1 {status} -", *(f"{name}: {text}" for name, text in head.items()), "", ""]
        with contextlib.suppress(OSError):
            self.wfile.write("\r\n".join(lines).encode() + (b"" if self.command == "HEAD" else body))

    def hang_up(self) -> None:
        """Closes the connection after this request, and does not say so."""
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


Answering = Callable[[Exchange], object]


class Site:
    """A web server that counts connections.

    Attributes:
        answer: What answers a request.
        requests: Of each request the number of its connection, and the path.
        ended: For each connection, whether the server has seen its end.
    """

    def __init__(self, answer: Answering) -> None:
        self.answer = answer
        self.requests: list[tuple[int, str]] = []
        self.seen_headers: list[dict[str, str]] = []
        self.connections: list[Exchange] = []
        self.ended: list[threading.Event] = []
        self._mutex = threading.Lock()
        self.url = ""

    def accepted(self, connection: Exchange) -> int:
        with self._mutex:
            self.connections.append(connection)
            self.ended.append(threading.Event())
            return len(self.connections) - 1

    def close_all(self) -> None:
        """Closes what is open, as a server does with idle connections."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.connection.shutdown(socket.SHUT_RDWR)
        for ended in self.ended:
            assert ended.wait(WAIT_SECONDS)

    def store(self, **options: float) -> HTTPStore:
        return HTTPStore(f"{self.url}/db", **options)  # type: ignore[arg-type]


def whole(exchange: Exchange) -> None:
    exchange.send(200, BODY, ETag='"e"')


def once(then: threading.Event | Stop, over: threading.Event) -> Answering:
    """Answers the first request of a connection; at the next one sets something, and leaves it waiting."""

    def answer(exchange: Exchange) -> None:
        if exchange.asked == 1:
            whole(exchange)
        else:
            then.set()
            over.wait(WAIT_SECONDS)

    return answer


@contextlib.contextmanager
def serving(answer: Answering = whole, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    site = Site(answer)
    with http_server(type("Handler", (Exchange,), {"site": site}), tls) as site.url:
        try:
            yield site
        finally:
            site.close_all()


def data_of(store: HTTPStore) -> bytes:
    blob = store.get("db")
    assert blob is not None
    return blob.data


def missing(store: HTTPStore) -> None:
    with pytest.raises(ObjectMissingError):
        store.get("db.d/none")


# -- used again ------------------------------------------------------------------------------------


def test_requests_in_a_row_share_a_connection() -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.path == "/db.d/none":
            exchange.send(404, b"<Error>" * 50)
        elif exchange.headers.get("If-None-Match") == '"e"':
            exchange.wfile.write(b'HTTP/1.1 304 -\r\nETag: "e"\r\n\r\n')
        elif "Range" in exchange.headers:
            exchange.send(206, BODY[10:20], Content_Range=f"bytes 10-19/{len(BODY)}")
        else:
            whole(exchange)

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        for _ in range(3):
            assert data_of(store) == BODY
            assert store.get("db", if_none_match="e") is None
            assert store.get_range("db", 10, 10) == BODY[10:20]
            assert store.head("db").size_bytes == len(BODY)
            missing(store)
        assert [number for number, _ in site.requests] == [0] * 15


def test_a_short_rest_is_read_and_a_long_one_is_not() -> None:
    length = [len(BODY)]

    def answer(exchange: Exchange) -> None:
        exchange.send(200, bytes(length[0]))

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        for _ in range(2):
            assert store.get_range("db", 10, 10) == bytes(10)
        assert len(site.connections) == 1
        length[0] = 10_000_000
        for _ in range(2):
            assert store.get_range("db", 10, 10) == bytes(10)
        assert [number for number, _ in site.requests] == [0, 0, 0, 1]


def test_a_rest_that_does_not_come_fails_nothing() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 -\r\nContent-Length: 20\r\n\r\n0123456789")
        exchange.hang_up()

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        for _ in range(2):
            assert store.get_range("db", 0, 10) == b"0123456789"
        assert len(site.connections) == 2


def test_answers_in_chunks_are_read_to_their_end() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n")
        exchange.wfile.write(b"5\r\nhello\r\n3\r\n or\r\n0\r\n\r\n")

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        for _ in range(2):
            assert data_of(store) == b"hello or"
            assert store.get_range("db", 1, 7) == b"ello or"
            assert store.get_range("db", 0, 2) == b"he"
        assert len(site.connections) == 1


def test_what_fails_while_it_is_read_is_not_used_again() -> None:
    with serving() as site:
        with contextlib.closing(site.store(max_body_bytes=10)) as store:
            for _ in range(2):
                with pytest.raises(ObjectTooLargeError):
                    store.get("db")
        assert len(site.connections) == 2


def test_the_body_of_a_redirect_is_not_taken_in_and_a_short_one_keeps_the_connection() -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.path == "/db.d/long":
            exchange.wfile.write(b"HTTP/1.1 302 -\r\nLocation: /to\r\nContent-Length: 99999999999\r\n\r\n")
        elif exchange.path == "/to":
            whole(exchange)
        else:
            exchange.send(302, b"moved", Location="/to")

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        assert data_of(store) == BODY
        assert len(site.connections) == 1
        blob = store.get("db.d/long")
        assert blob is not None
        assert blob.data == BODY
        assert [number for number, _ in site.requests] == [0, 0, 0, 1]


def test_a_redirect_that_is_refused_keeps_the_connection() -> None:
    with serving(lambda exchange: exchange.send(302, b"moved", Location="/db")) as site:
        with contextlib.closing(site.store()) as store, pytest.raises(RemoteAccessError, match="in a circle"):
            store.get("db")
        assert len(site.connections) == 1


# -- closed by the server --------------------------------------------------------------------------


def test_a_server_that_says_that_it_closes_is_believed() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(200, BODY, Connection="close")
        exchange.hang_up()

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        for _ in range(3):
            assert data_of(store) == BODY
        assert [number for number, _ in site.requests] == [0, 1, 2]


def test_an_idle_connection_that_the_server_has_closed_costs_a_new_one() -> None:
    with serving() as site, contextlib.closing(site.store()) as store:
        for _ in range(2):
            assert data_of(store) == BODY
            site.close_all()
        assert data_of(store) == BODY
        assert data_of(store) == BODY
        assert [number for number, _ in site.requests] == [0, 1, 2, 2]


@pytest.mark.parametrize("last_words", [b"", b"HTTP/1.", b"nonsense\r\n\r\n"])
def test_a_connection_that_ends_under_a_request_costs_a_new_one(last_words: bytes) -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.asked == 1:
            whole(exchange)
        else:
            exchange.wfile.write(last_words)
            exchange.hang_up()

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        for _ in range(3):
            assert data_of(store) == BODY
        assert [number for number, _ in site.requests] == [0, 0, 1, 1, 2]


def test_a_server_that_answers_nothing_more_is_asked_once_more() -> None:
    def answer(exchange: Exchange) -> None:
        if len(site.requests) == 1:
            whole(exchange)
        else:
            exchange.hang_up()

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        assert data_of(store) == BODY
        with pytest.raises(TransientStoreError, match="RemoteDisconnected") as caught:
            store.get("db")
        assert not isinstance(caught.value, UnreachableStoreError)
        assert [number for number, _ in site.requests] == [0, 0, 1]


def test_a_server_that_is_gone_is_unreachable() -> None:
    with serving() as site:
        store = site.store()
        assert data_of(store) == BODY
        site.close_all()
    with contextlib.closing(store), pytest.raises(UnreachableStoreError):
        store.get("db")


def test_a_request_that_takes_too_long_is_not_sent_again() -> None:
    arrived, over = threading.Event(), threading.Event()
    with serving(once(arrived, over)) as site, contextlib.closing(site.store()) as store:
        assert data_of(store) == BODY
        store._timeout_seconds = 0.2
        with pytest.raises(TransientStoreError, match="TimeoutError") as caught:
            store.get("db")
        assert arrived.wait(WAIT_SECONDS)
        over.set()
        assert not isinstance(caught.value, UnreachableStoreError)
        assert [number for number, _ in site.requests] == [0, 0]


def test_a_stopped_request_is_not_sent_again() -> None:
    stop, over = Stop(), threading.Event()
    with serving(once(stop, over)) as site, contextlib.closing(site.store()) as store:
        assert data_of(store) == BODY
        with ThreadPoolExecutor(1, initializer=stop_by, initargs=(stop,)) as thread:
            error = thread.submit(store.get, "db").exception(WAIT_SECONDS)
        over.set()
        assert isinstance(error, StoppedError)
        assert len(site.connections) == 1


def test_a_connection_that_was_idle_for_long_is_not_trusted() -> None:
    now = [1000.0]
    connections = Connections(lambda: now[0])
    opener = http_only_opener(connections)

    def read() -> None:
        with opener.open(urllib.request.Request(site.url), timeout=WAIT_SECONDS) as answer:
            assert answer.read() == BODY
            answer.finish()

    with serving() as site, contextlib.closing(connections):
        read()
        now[0] += IDLE_SECONDS - 1
        read()
        now[0] += IDLE_SECONDS + 1
        read()
        assert [number for number, _ in site.requests] == [0, 0, 1]


# -- threads, processes, ends ----------------------------------------------------------------------


def test_threads_never_share_a_connection() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(200, exchange.path.encode() * 100)

    def read(thread: int) -> None:
        for number in range(10):
            key = f"db.d/{thread}/{number}"
            blob = store.get(key)
            assert blob is not None
            assert blob.data == f"/{key}".encode() * 100

    with serving(answer) as site, contextlib.closing(site.store()) as store:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(read, range(8)))
        assert len(site.requests) == 80
        # A few more than threads: one may be given back just after another thread has looked.
        assert len(site.connections) < 40


def test_a_bounded_number_of_connections_is_kept() -> None:
    all_there = threading.Barrier(MOST_IDLE + 3)

    def answer(exchange: Exchange) -> None:
        all_there.wait(WAIT_SECONDS)
        whole(exchange)

    with serving(answer) as site:
        store = site.store()
        with ThreadPoolExecutor(MOST_IDLE + 3) as threads:
            assert set(threads.map(lambda _: data_of(store), range(MOST_IDLE + 3))) == {BODY}
        assert len(site.connections) == MOST_IDLE + 3
        assert len(store._connections._idle) == MOST_IDLE
        store.close()
        for ended in site.ended:
            assert ended.wait(WAIT_SECONDS)


def test_after_close_nothing_is_kept() -> None:
    with serving() as site:
        store = site.store()
        store.close()
        for _ in range(2):
            assert data_of(store) == BODY
        assert len(site.connections) == 2
        for ended in site.ended:
            assert ended.wait(WAIT_SECONDS)


def test_a_store_that_is_not_closed_closes_its_connections() -> None:
    gc.collect()
    with serving() as site, warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        store = site.store()
        assert data_of(store) == BODY
        gone = weakref.ref(store)
        del store
        gc.collect()
        assert gone() is None
        assert site.ended[0].wait(WAIT_SECONDS)
    port = site.url.rpartition(":")[2]
    assert [one for one in shown if f"raddr=('127.0.0.1', {port})" in str(one.message)] == []


@pytest.mark.parametrize("close_in_child", [False, True])
def test_a_forked_child_opens_its_own(close_in_child: bool) -> None:
    with serving() as site, contextlib.closing(site.store()) as store:
        assert data_of(store) == BODY
        pid = fork()
        if pid == 0:
            right = False
            with contextlib.suppress(BaseException):
                signal.alarm(int(WAIT_SECONDS))
                right = all(data_of(store) == BODY for _ in range(2))
                if close_in_child:
                    store.close()
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert data_of(store) == BODY
        assert [number for number, _ in site.requests] == [0, 1, 1, 0]


# -- proxies and TLS -------------------------------------------------------------------------------


@pytest.fixture
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_a_proxy_is_asked_on_one_connection_and_only_it_sees_its_credentials(
    clear_environment: pytest.MonkeyPatch,
) -> None:
    def as_proxy(exchange: Exchange) -> None:
        if exchange.path.endswith("/moved"):
            exchange.send(302, Location=f"{site.url}/db")
        else:
            whole(exchange)

    with serving(as_proxy) as proxy, serving() as site:
        clear_environment.setenv("http_proxy", proxy.url.replace("://", "://user:secret@"))
        clear_environment.setenv("no_proxy", "127.0.0.1")
        with contextlib.closing(HTTPStore("http://data.invalid/db")) as store:
            assert data_of(store) == data_of(store) == BODY
        assert proxy.requests == [(0, "http://data.invalid/db")] * 2
        with contextlib.closing(HTTPStore("http://data.invalid/moved")) as store:
            blob = store.get("moved")
            assert blob is not None
            assert blob.data == BODY
        assert all(headers["proxy-authorization"].startswith("Basic ") for headers in proxy.seen_headers)
        assert [path for _, path in site.requests] == ["/db"]
        assert "proxy-authorization" not in site.seen_headers[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for loopback, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        f"{openssl} req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=test"
    )
    made = subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-"],
        capture_output=True,
        check=True,
    )
    path.write_bytes(made.stdout)
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_is_kept_and_trusts_what_the_environment_names(
    tls: ssl.SSLContext, certificate: Path, clear_environment: pytest.MonkeyPatch
) -> None:
    with serving(tls=tls) as site:
        with contextlib.closing(site.store()) as store:
            with pytest.raises(RemoteAccessError, match="certificate"):
                store.get("db")
            clear_environment.setenv("SSL_CERT_FILE", str(certificate))
            for _ in range(3):
                assert data_of(store) == BODY
            assert len({number for number, _ in site.requests}) == 1
            site.close_all()
            assert data_of(store) == BODY
        assert len({number for number, _ in site.requests}) == 2


def test_a_tunnel_is_kept_and_the_server_does_not_see_the_credentials_of_the_proxy(
    tls: ssl.SSLContext, certificate: Path, clear_environment: pytest.MonkeyPatch
) -> None:
    def tunnel(exchange: Exchange) -> None:
        host, port = exchange.path.split(":")
        with socket.create_connection((host, int(port))) as onward:
            exchange.wfile.write(b"HTTP/1.1 200 -\r\n\r\n")
            back = threading.Thread(target=relay, args=(onward, exchange.connection))
            back.start()
            relay(exchange.connection, onward)
            back.join()
        exchange.hang_up()

    def relay(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    with serving(tls=tls) as site, serving(tunnel) as proxy:
        clear_environment.setenv("https_proxy", proxy.url.replace("://", "://user:secret@"))
        clear_environment.setenv("SSL_CERT_FILE", str(certificate))
        with contextlib.closing(site.store()) as store:
            for _ in range(3):
                assert data_of(store) == BODY
        assert proxy.requests == [(0, site.url.removeprefix("https://"))]
        assert proxy.seen_headers[0]["proxy-authorization"].startswith("Basic ")
        assert len(site.requests) == 3
        assert len(site.connections) == 1
        assert all("proxy-authorization" not in headers for headers in site.seen_headers)
