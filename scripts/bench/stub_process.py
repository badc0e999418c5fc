"""The stub of S3 as a process of its own, and the way to speak to its control paths.

Owns the process. The invariant: it ends with its context, and with the process that started it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]


def child_environment() -> dict[str, str]:
    """Returns the environment of a measured process: what it compiles is kept, as it is by default."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(TREE), "PYTHONWARNINGS": "ignore"}


_READS = frozenset({"GET", "HEAD", "LIST", "INFO", "PARTS"})


@dataclass(frozen=True)
class Counts:
    """Requests, bytes up and bytes down, by what was done and to what kind of object."""

    by_kind: dict[str, tuple[int, int, int]]

    def _sum(self, place: int) -> int:
        return sum(count[place] for count in self.by_kind.values())

    @property
    def requests(self) -> int:
        """All requests."""
        return self._sum(0)

    @property
    def writes(self) -> int:
        """The requests that change something."""
        return sum(count[0] for kind, count in self.by_kind.items() if kind.split()[0] not in _READS)

    @property
    def bytes_up(self) -> int:
        """The bytes of all bodies that were sent."""
        return self._sum(1)

    @property
    def bytes_down(self) -> int:
        """The bytes of all bodies that were answered."""
        return self._sum(2)

    def of(self, *kinds: str) -> int:
        """Returns the number of requests of some kinds, like `PUT root`."""
        return sum(self.by_kind.get(kind, (0, 0, 0))[0] for kind in kinds)

    def since(self, earlier: Counts) -> Counts:
        """Returns what was counted after another count."""
        grown: dict[str, tuple[int, int, int]] = {}
        for kind, now in self.by_kind.items():
            before = earlier.by_kind.get(kind, (0, 0, 0))
            if now != before:
                grown[kind] = (now[0] - before[0], now[1] - before[1], now[2] - before[2])
        return Counts(grown)


class StubControl:
    """Speaks to a running stub.

    Attributes:
        endpoint: Its URL.
        pid: Its process id.
    """

    def __init__(self, port: int, pid: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.pid = pid
        self._port = port

    def _ask(self, method: str, command: str, **query: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        try:
            path = f"/-/{command}?{urllib.parse.urlencode(query)}" if query else f"/-/{command}"
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the stub answers {answer.status} to {path}: {text[:500]!r}")
            return json.loads(text)
        finally:
            connection.close()

    def counts(self) -> Counts:
        """Returns what was counted since the start or the last reset."""
        return Counts({kind: (n, up, down) for kind, (n, up, down) in self._ask("GET", "counts").items()})

    def reset(self) -> None:
        """Begins counting anew."""
        self._ask("POST", "reset")

    def set_latency(self, milliseconds: float) -> None:
        """Lets every answer from here on come so much later."""
        self._ask("POST", "latency", ms=milliseconds)

    def save(self, name: str) -> None:
        """Notes the state of all buckets under a name."""
        self._ask("POST", "save", name=name)

    def restore(self, name: str) -> None:
        """Goes back to a noted state."""
        if not self._ask("POST", "restore", name=name):
            raise RuntimeError(f"no state {name!r} was saved in the stub")

    def forget(self, name: str) -> None:
        """Lets go of a noted state."""
        self._ask("POST", "forget", name=name)

    def hold(self, kind: str, at: int = 1) -> None:
        """Lets the at-th request of a kind, like `PUT root`, neither take effect nor be answered."""
        self._ask("POST", "hold", kind=kind, at=at)

    def wait_until_held(self) -> None:
        """Returns once a request is held."""
        self._ask("GET", "held")

    def release(self) -> None:
        """Answers all requests from here on; a held one never is."""
        self._ask("POST", "release")

    def objects(self, bucket: str) -> dict[str, int]:
        """Returns the sizes of a bucket's objects, by key."""
        found: dict[str, int] = self._ask("GET", "objects", bucket=bucket)
        return found

    def create_bucket(self, name: str) -> None:
        """Makes an empty bucket, uncounted in effect: the counts begin anew."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("PUT", f"/{name}", body=b"")
            connection.getresponse().read()
        finally:
            connection.close()
        self.reset()


@contextlib.contextmanager
def stub_server(*, memory_mib: int = 2048) -> Iterator[StubControl]:
    """Runs a stub on a free port of loopback."""
    command = [sys.executable, "-m", "scripts.bench.stub", "--memory-mib", str(memory_mib)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TREE)},
    )
    try:
        if process.stdout is None:
            raise RuntimeError("the stub has no output to read its port from")
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command!r} ended at once")
        yield StubControl(int(line), process.pid)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
