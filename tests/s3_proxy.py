"""A proxy before an S3 store: it makes a well-behaved store differ, and fails chosen requests.

Listens on a free port of 127.0.0.1 and forwards what it gets, the Host header as it came, on a new
connection each. Nothing in it waits by the clock: an answer that is to come too late is held back until
the client has hung up.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import random
import select
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

PATIENCE_SECONDS = 60.0
_CONDITIONS = ("If-Match", "If-None-Match")
_CHECKSUMS = ("content-md5", "x-amz-checksum-crc32", "x-amz-checksum-sha256")
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


class Mode(enum.Enum):
    """How the store behind the proxy appears to treat conditional writes."""

    PLAIN = "as it is"
    REFUSES = "refuses conditions"
    """501 to a conditional PUT, as Backblaze B2."""

    UNQUOTED = "wants unquoted"
    """An ETag in quotes never matches in a PUT, as with Ceph; reads take both, as with Ceph."""

    FAILS_SOME_LOSERS = "500 to some losers"
    """A seeded share of the losers of conditional PUTs are told 500, as by Ceph."""

    FAILS_ALL_LOSERS = "500 to all losers"
    IGNORES = "ignores conditions"
    """Conditions on PUTs are stripped, as by Garage."""

    VERSIONED = "versioning switched on"
    """As Ceph then: root and lease refuse every ETag, and conditions on other objects are stripped."""

    SUSPENDED = "versioning suspended"
    """As Ceph then: root and lease refuse every ETag as before, and conditions on other objects work."""


class Fault(enum.Enum):
    """What befalls one request."""

    DROP_BEFORE = "dropped before"
    """The connection is cut and the request never forwarded."""

    DROP_AFTER = "dropped after"
    """The request takes effect, and the connection is cut instead of an answer."""

    ERROR_500 = "500"
    ERROR_500_AFTER = "500, applied"
    """The request takes effect, and the answer says that it failed."""

    ERROR_503 = "503 Retry-After 0"
    ERROR_503_WAIT = "503 Retry-After 1"
    ERROR_409 = "409"
    SLOW = "slow"
    """The request takes effect at once; its answer does not come before the client hangs up."""

    LATE = "late"
    """The client hangs up, looks at the object, and only then the request takes effect."""

    TRUNCATED = "truncated"
    """The answer's body, or in its lack the answer, ends before the length that it announces."""

    CUT_BODY = "body cut off"
    """The connection breaks after the headers. The store keeps what came, nothing, unless a checksum tells it
    that this is not all, as SeaweedFS does."""


_ANSWERS = {
    Fault.ERROR_500: (500, "InternalError", None),
    Fault.ERROR_503: (503, "SlowDown", "0"),
    Fault.ERROR_503_WAIT: (503, "SlowDown", "1"),
    Fault.ERROR_409: (409, "ConditionalRequestConflict", None),
}


@dataclass
class Rule:
    """Which request to fail, and how.

    Attributes:
        kind: The requests that are counted, as `kind_of` names them.
        fault: What happens.
        at: The number, from 1 and from the arming on, of the first request that it happens to.
        times: How many of them it happens to.
    """

    kind: str
    fault: Fault
    at: int = 1
    times: int = 1


@dataclass(frozen=True)
class Seen:
    """One request that came to the proxy."""

    kind: str
    method: str
    key: str
    fault: Fault | None = None


def kind_of(method: str, key: str, query: str) -> str:
    """Names a request: the method with what the object is to a database, as in `PUT root`."""
    if method == "GET" and "list-type=2" in query:
        return "LIST"
    if ".lock.probe-" in key:
        part = "probe"
    elif key.endswith(".lock") or ".lock." in key:
        part = "lock"
    elif ".d/pack/" in key:
        part = "pack"
    elif ".d/index/" in key:
        part = "index"
    elif ".d/history/" in key:
        part = "history"
    else:
        part = "root" if key else "bucket"
    return f"{method} {part}"


class S3Proxy:
    """One running proxy.

    Attributes:
        endpoint: Its URL.
        mode: How the store appears; may be changed at any time.
        seen: Every request since the arming, in the order in which they came.
    """

    def __init__(self, upstream: str, mode: Mode = Mode.PLAIN, *, seed: int = 1) -> None:
        self.mode = mode
        self.seen: list[Seen] = []
        self.endpoint = ""
        host, _, port = upstream.removeprefix("http://").partition(":")
        self._upstream = (host, int(port))
        self._random = random.Random(seed)
        self._rules: list[Rule] = []
        self._counts: Counter[str] = Counter()
        self._answered: list[str] = []
        self._changed = threading.Condition()

    def arm(self, *rules: Rule) -> None:
        """Forgets what was armed and seen, and fails the requests that the rules name from here on."""
        with self._changed:
            self._rules = list(rules)
            self._counts.clear()
            self.seen = []

    def reset(self) -> None:
        """Lets everything pass."""
        self.arm()

    def fired(self) -> int:
        """Returns how many requests were failed since the arming."""
        with self._changed:
            return sum(seen.fault is not None for seen in self.seen)

    def count(self, kind: str) -> int:
        """Returns how many requests of a kind have come since the arming."""
        with self._changed:
            return self._counts[kind]

    def wait_for(self, kind: str, number: int) -> None:
        """Returns once so many requests of a kind have come since the arming."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._counts[kind] >= number, PATIENCE_SECONDS):
                raise TimeoutError(f"{kind} did not come {number} times")

    # -- for the handler -------------------------------------------------------------------

    def next_fault(self, kind: str, method: str, key: str) -> Fault | None:
        """Counts a request and tells what is to befall it."""
        with self._changed:
            self._counts[kind] += 1
            number = self._counts[kind]
            fits = (r for r in self._rules if r.kind == kind and r.at <= number < r.at + r.times)
            rule = next(fits, None)
            fault = rule.fault if rule is not None else None
            self.seen.append(Seen(kind, method, key, fault))
            self._changed.notify_all()
            return fault

    def note_answered(self, method: str, key: str) -> None:
        """Records a request at its end."""
        with self._changed:
            self._answered.append(f"{method} {key}")
            self._changed.notify_all()

    def wait_for_look(self, key: str) -> None:
        """Returns once a later read of the object has been answered."""
        with self._changed:
            known = len(self._answered)
            self._changed.wait_for(lambda: f"GET {key}" in self._answered[known:], PATIENCE_SECONDS)

    def is_failed_loser(self) -> bool:
        """Whether this loser is one of those that are told 500."""
        with self._changed:
            return self.mode is Mode.FAILS_ALL_LOSERS or self._random.random() < 0.5

    def ask(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Forwards a request and returns the answer's status, headers and body."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=PATIENCE_SECONDS)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: S3Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        # A client may hang up at any moment; that is its right.
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _serve(self) -> None:
        proxy = cast("_Server", self.server).proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urllib.parse.urlsplit(self.path)
        _, _, key = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
        kind = kind_of(self.command, key, parts.query)
        fault = proxy.next_fault(kind, self.command, key)
        try:
            self._answer_with(proxy, fault, body, key)
        finally:
            proxy.note_answered(self.command, key)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

    def _answer_with(self, proxy: S3Proxy, fault: Fault | None, body: bytes, key: str) -> None:
        if fault is Fault.DROP_BEFORE:
            self.close_connection = True
            return
        if fault is Fault.CUT_BODY:
            if not any(name.lower() in _CHECKSUMS for name in self.headers):
                self._forward(proxy, b"", [("Content-Length", "0")])
            self.close_connection = True
            return
        if fault in _ANSWERS:
            self._refuse(*_ANSWERS[fault])
            return
        if fault is Fault.LATE:
            self._wait_until_hung_up()
            proxy.wait_for_look(key)
        answer = self._forward(proxy, body)
        if fault is Fault.SLOW:
            self._wait_until_hung_up()
        if fault in (Fault.DROP_AFTER, Fault.SLOW, Fault.LATE):
            self.close_connection = True
        elif fault is Fault.ERROR_500_AFTER:
            self._refuse(500, "InternalError", None)
        else:
            self._pass_on(*answer, truncated=fault is Fault.TRUNCATED)

    def _forward(
        self, proxy: S3Proxy, body: bytes, instead: Sequence[tuple[str, str]] = ()
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        replaced = {"expect", *(name.lower() for name, _ in instead)}
        headers = [(name, value) for name, value in self.headers.items() if name.lower() not in replaced]
        headers += instead
        conditional = self.command == "PUT" and any(self.headers.get(name) for name in _CONDITIONS)
        if conditional and proxy.mode is Mode.REFUSES:
            return 501, [], _error_body("NotImplemented", "A header you provided is not implemented")
        if proxy.mode in (Mode.VERSIONED, Mode.SUSPENDED) and self.headers.get("If-Match") and self._is_stuck():
            return 412, [], _error_body("PreconditionFailed", "the ETag does not match")
        if conditional and proxy.mode in (Mode.IGNORES, Mode.VERSIONED):
            headers = [(n, v) for n, v in headers if n.title() not in _CONDITIONS]
        if proxy.mode is Mode.UNQUOTED:
            if conditional and any(v.startswith('"') for n, v in headers if n.title() in _CONDITIONS):
                return 412, [], _error_body("PreconditionFailed", "the ETag does not match")
            headers = [(n, _quoted(v) if n.title() in _CONDITIONS else v) for n, v in headers]
        status, answered, data = proxy.ask(self.command, self.path, headers, body)
        lost = conditional and status == 412
        if lost and proxy.mode in (Mode.FAILS_SOME_LOSERS, Mode.FAILS_ALL_LOSERS) and proxy.is_failed_loser():
            return 500, [], _error_body("InternalError", "the write did not succeed")
        return status, answered, data

    def _is_stuck(self) -> bool:
        _, _, key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/").partition("/")
        return self.command == "PUT" and kind_of("PUT", key, "") in ("PUT root", "PUT lock")

    def _pass_on(self, status: int, headers: list[tuple[str, str]], body: bytes, *, truncated: bool) -> None:
        bodiless = self.command == "HEAD" or status in (204, 304)
        if truncated and (bodiless or not body) and self.command != "PUT":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP or (bodiless and name.lower() == "content-length"):
                self.send_header(name, value)
        if not bodiless:
            self.send_header("Content-Length", str(len(body) + (1 if truncated and not body else 0)))
        self.end_headers()
        if not bodiless:
            self.wfile.write(body[: len(body) // 2] if truncated else body)
        if truncated:
            self.close_connection = True

    def _refuse(self, status: int, code: str, retry_after: str | None) -> None:
        body = b"" if self.command == "HEAD" else _error_body(code, "on purpose")
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wait_until_hung_up(self) -> None:
        ready, _, _ = select.select([self.connection], [], [], PATIENCE_SECONDS)
        if not ready or self.connection.recv(1):
            raise TimeoutError("the client did not hang up")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _quoted(etag: str) -> str:
    return etag if etag == "*" or etag.startswith('"') else f'"{etag}"'


def _error_body(code: str, message: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    ).encode()


@contextlib.contextmanager
def s3_proxy(upstream: str, mode: Mode = Mode.PLAIN, *, seed: int = 1) -> Iterator[S3Proxy]:
    """Runs a proxy before the store at a URL."""
    proxy = S3Proxy(upstream, mode, seed=seed)
    server = _Server(proxy)
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
