"""A stub of S3 in one process: objects in memory, requests counted, a latency on demand.

Owns the counts and the hold. The invariants: every request to a bucket is counted once, by what is done and
what kind of object it is done to, with the bytes of its body and of its answer's body; no request to the
control paths below `/-/` is counted or delayed.

    GET  /-/counts                          {"PUT root": [requests, bytes up, bytes down], ...}
    POST /-/reset                           counts begin anew
    POST /-/latency?ms=30                   every answer from here on comes that much later
    POST /-/save?name=x, /-/restore?name=x, /-/forget?name=x
                                            the state of all buckets
    POST /-/hold?kind=PUT%20root&at=1       the at-th such request from here on is neither applied nor answered
    GET  /-/held                            answers once a request is held
    POST /-/release                         requests are answered again; a held one never is
    GET  /-/objects?bucket=b                {key: bytes, ...}
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import traceback
import urllib.parse
from collections.abc import Callable

from scripts.bench.stub_http import Answer, Connection, Request, Respond
from scripts.bench.stub_objects import ObjectSpace, S3Error
from scripts.bench.stub_operations import Operations, error_answer

CONTROL = "/-/"


def kind_of(key: str) -> str:
    """Names what an object is: to a database of ebooklet_tx, or by the shape of its name."""
    if ".lock.probe-" in key:
        return "probe"
    if key.endswith(".lock") or ".lock." in key:
        return "lock"
    for kind in ("pack", "index", "snapshot"):
        if f".d/{kind}/" in key:
            return kind
    if not key:
        return "bucket"
    return "member" if "/" in key else "root"


class Stub:
    """Counts and delays what the operations answer."""

    def __init__(self, space: ObjectSpace) -> None:
        self._space = space
        self._operations = Operations(space)
        self._counts: dict[str, list[int]] = {}
        self._latency_seconds = 0.0
        self._hold: tuple[str, int] | None = None
        self._is_held = False
        self._waiting: list[Respond] = []

    def handle(self, request: Request, respond: Respond) -> None:
        """Answers a request, after the latency, or holds it."""
        path, _, query_text = request.target.partition("?")
        query = dict(urllib.parse.parse_qsl(query_text, keep_blank_values=True)) if query_text else {}
        if path.startswith(CONTROL):
            self._control(path[len(CONTROL) :], query, respond)
            return
        bucket, _, quoted_key = path[1:].partition("/")
        key = urllib.parse.unquote(quoted_key)
        name = self._operations.name_of(request, key, query)
        kind = f"{name} {kind_of(key or query.get('prefix', ''))}"
        count = self._counts.setdefault(kind, [0, 0, 0])
        count[0] += 1
        count[1] += len(request.body)
        if self._holds(kind):
            return
        try:
            answer = self._operations.answer(name, request, bucket, key, query)
        except S3Error as error:
            answer = error_answer(error, request)
        except Exception:
            traceback.print_exc()
            answer = error_answer(S3Error(500, "InternalError"), request)
        if request.method != "HEAD":
            count[2] += len(answer.body) if answer.length_bytes is None else answer.length_bytes
        if self._latency_seconds:
            asyncio.get_running_loop().call_later(self._latency_seconds, respond, answer)
        else:
            respond(answer)

    def _holds(self, kind: str) -> bool:
        if self._hold is None or self._hold[0] != kind:
            return False
        self._hold = (kind, self._hold[1] - 1)
        if self._hold[1] > 0:
            return False
        self._is_held = True
        for respond in self._waiting:
            respond(_json(True))
        self._waiting.clear()
        return True

    def _control(self, command: str, query: dict[str, str], respond: Respond) -> None:
        if command == "held" and not self._is_held:
            self._waiting.append(respond)
            return
        commands: dict[str, Callable[[], object]] = {
            "counts": lambda: self._counts,
            "held": lambda: True,
            "reset": self._counts.clear,
            "latency": lambda: self._set_latency(float(query["ms"])),
            "save": lambda: self._space.save(query["name"]),
            "restore": lambda: self._space.restore(query["name"]),
            "forget": lambda: self._space.forget(query["name"]),
            "hold": lambda: self._set_hold((query["kind"], int(query["at"]))),
            "release": lambda: self._set_hold(None),
            "objects": lambda: {
                key: stored.size_bytes for key, stored in self._space.bucket(query["bucket"]).items()
            },
        }
        if command not in commands:
            respond(Answer(404, body=f"no control {command!r}".encode()))
            return
        respond(_json(commands[command]()))

    def _set_latency(self, milliseconds: float) -> None:
        self._latency_seconds = milliseconds / 1000

    def _set_hold(self, hold: tuple[str, int] | None) -> None:
        self._hold, self._is_held = hold, False


def _json(value: object) -> Answer:
    return Answer(headers=(("Content-Type", "application/json"),), body=json.dumps(value).encode())


async def serve(port: int, memory_bytes: int, latency_ms: float) -> None:
    """Serves until it is cancelled; prints the port that it listens on."""
    stub = Stub(ObjectSpace(memory_bytes))
    stub._set_latency(latency_ms)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stub), "127.0.0.1", port, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Objects live long and make no cycles; looking through them all would show in the latencies.
    gc.freeze()
    gc.disable()
    async with server:
        # Whoever started it holds the other end of this pipe, and is gone when it closes.
        await loop.run_in_executor(None, sys.stdin.buffer.read)


def main() -> None:
    """Runs the stub from the command line."""
    parser = argparse.ArgumentParser(prog="bench-stub", description="A stub of S3 that counts.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--memory-mib", type=int, default=2048, help="bodies above this go to a file")
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.memory_mib << 20, options.latency_ms))


if __name__ == "__main__":
    main()
