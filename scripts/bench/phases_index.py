"""The phases that show what an index costs that is read by the block, up to ten million keys.

Owns no state. The invariant: as in `phases`. Above a million keys the remote is written by the codecs alone, with
keys that share the values of one pack; the peer, which takes in all of its index, is measured up to `PEER_KEYS`.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from ebooklet_tx.formats.pack import PACK_BYTES
from scripts.bench.phases import CHANGED_KEYS, KIB, RANDOM_KEYS, VALUE_BYTES
from scripts.bench.runner import EMPTY, GROUPED, OURS, Measured, Runner, State
from scripts.bench.stub_process import TREE, Counts, child_environment

REPEATS_AFTER = PACK_BYTES // (VALUE_BYTES + 64)
"""As many keys as one pack has values for; see `synthetic_remote`."""

SYNTHETIC_FROM = 1_000_000
PEER_KEYS = 100_000
MORE_PUSHES = 2000
LARGE_KEYS, LARGE_VALUE_BYTES = 1000, 2**20

_UNTIL_CONNECT = """
import os, socket, tempfile, time
def connect(*_):
    print(time.process_time(), flush=True)
    os._exit(0)
socket.socket.connect = connect
"""
_BOTO3 = """
import boto3
boto3.client("s3", endpoint_url="http://127.0.0.1:9", aws_access_key_id="k", aws_secret_access_key="s",
    region_name="us-east-1").head_object(Bucket="b", Key="k")
"""
_OURS = """
import ebooklet_tx
place = ebooklet_tx.S3Connection("k", "s", "db", "b", "http://127.0.0.1:9")
ebooklet_tx.open(place, tempfile.mkdtemp() + "/db.blt", "r")
"""


def state(runner: Runner, adapter: str, n: int) -> State:
    """Returns a pushed database; a large one of ours is a synthetic remote, with no local copy."""
    if adapter != OURS or n < SYNTHETIC_FROM:
        return runner.state(adapter, n)
    return runner.made_state(f"synthetic-{n}", OURS, "write_synthetic", n=n, value_bytes=VALUE_BYTES)


def cold(runner: Runner) -> None:
    """A new machine reads one key, at all sizes, from a database that was pushed once."""
    for n in runner.options.sizes:
        for adapter in runner.adapters(OURS, GROUPED):
            if adapter == OURS or n <= PEER_KEYS:
                runner.guarded(f"index: cold open, {adapter}, {n}", partial(_cold, runner, adapter, n))


def _cold(runner: Runner, adapter: str, n: int, variant: str = "", name: str | None = None) -> None:
    made = state(runner, adapter, n)
    for _ in range(runner.options.repeats):
        runner.stub.restore(name or made.name)
        path = runner.new_folder() / "db.blt"
        repeats_after = REPEATS_AFTER if made.name.startswith("synthetic") else 2**32
        measured, _ = runner.run(
            adapter, "cold_get", path=path, n=n, value_bytes=VALUE_BYTES, repeats_after=repeats_after
        )
        runner.leave(path)
        runner.add("index: cold open", adapter, n, variant, measured["cold"])


def cold_after_pushes(runner: Runner) -> None:
    """The same after two thousand more pushes of one key, at the largest size that is no more than a million."""
    n = max((size for size in runner.options.sizes if size <= SYNTHETIC_FROM), default=runner.options.sizes[0])

    def work() -> None:
        runner.stub.restore(state(runner, OURS, n).name)
        path = runner.new_folder() / "db.blt"
        measured, _ = runner.run(
            OURS, "many_pushes", path=path, n=n, k=min(MORE_PUSHES, n), value_bytes=VALUE_BYTES
        )
        facts = runner.run(OURS, "read_root", path=path, n=n)[1]
        runner.add("index: pushes in a row", OURS, n, f"k={MORE_PUSHES}", measured["pushes"], **facts)
        runner.leave(path)
        name = f"pushed-{n}"
        runner.stub.save(name)
        _cold(runner, OURS, n, f"after {MORE_PUSHES} pushes, {facts['runs']} runs", name)
        runner.stub.forget(name)

    runner.guarded(f"index: cold open after pushes, {n}", work)


def push(runner: Runner) -> None:
    """Keys pushed for the second time in a session, and a thousand of a fresh copy, at all sizes."""
    for n in runner.options.sizes:

        def work(n: int = n) -> None:
            made = state(runner, OURS, n)
            for k in (k for k in CHANGED_KEYS if k <= n):
                for _ in range(runner.options.repeats):
                    runner.stub.restore(made.name)
                    path = runner.new_folder() / "db.blt"
                    measured, facts = runner.run(OURS, "push_again", path=path, n=n, k=k, value_bytes=VALUE_BYTES)
                    runner.leave(path)
                    runner.add("index: push again", OURS, n, f"k={k}", measured["push"], **facts)
            runner.stub.restore(made.name)
            path = runner.new_folder() / "db.blt"
            k = min(RANDOM_KEYS, n)
            measured, _ = runner.run(OURS, "push_fresh", path=path, n=n, k=k, value_bytes=VALUE_BYTES)
            runner.leave(path)
            runner.add("index: push from a fresh copy", OURS, n, f"k={k}", measured["push"])

        runner.guarded(f"index: push, {n}", work)


def read(runner: Runner) -> None:
    """A thousand random keys, and all keys in order, with nothing local, at all sizes."""
    for n in runner.options.sizes:

        def work(n: int = n) -> None:
            made = state(runner, OURS, n)
            runner.stub.restore(made.name)
            path = runner.new_folder() / "db.blt"
            k = min(RANDOM_KEYS, n)
            measured, facts = runner.run(OURS, "read_random", path=path, n=n, k=k)
            runner.leave(path)
            runner.add("index: random keys", OURS, n, f"k={k}", measured["read"], k=k, **facts)
            path = runner.new_folder() / "db.blt"
            measured, _ = runner.run(OURS, "stream_keys", path=path, n=n)
            runner.leave(path)
            runner.add("index: first of all keys", OURS, n, "", measured["first"])
            runner.add("index: the rest of all keys", OURS, n, "", measured["rest"])

        runner.guarded(f"index: read, {n}", work)


def change(runner: Runner) -> None:
    """Half of the local keys overwritten, then deleted."""
    n = runner.options.main_size

    def work() -> None:
        for _ in range(runner.options.repeats):
            path = runner.enter(runner.state(OURS, n))
            measured, facts = runner.run(OURS, "change_local", path=path, n=n, value_bytes=VALUE_BYTES)
            runner.leave(path)
            for label, one in measured.items():
                runner.add(f"index: {label}", OURS, n, "half of them", one, **facts)

    runner.guarded(f"index: change, {n}", work)


def load(runner: Runner) -> None:
    """Everything brought here: many values of 1 KiB, and a thousand of 1 MiB."""
    for n, value_bytes in ((runner.options.main_size, KIB), (LARGE_KEYS, LARGE_VALUE_BYTES)):
        for adapter in runner.adapters(OURS, GROUPED):
            if adapter != OURS and value_bytes != KIB:
                continue

            def work(adapter: str = adapter, n: int = n, value_bytes: int = value_bytes) -> None:
                made = runner.state(adapter, n, value_bytes)
                path = runner.enter(made, local=False)
                measured, _ = runner.run(adapter, "load_all", path=path, n=n, value_bytes=value_bytes)
                runner.leave(path)
                runner.add("index: load all", adapter, n, f"{value_bytes} B", measured["load"])
                runner.drop(made)

            runner.guarded(f"index: load all, {adapter}, {n} x {value_bytes}", work)


def fixed(runner: Runner) -> None:
    """The processor time of a new process until it connects: ours, and that of boto3 with one client."""
    for what, program in (("boto3 and one client", _BOTO3), ("ebooklet_tx", _OURS)):

        def work(what: str = what, program: str = program) -> None:
            for _ in range(5):
                done = subprocess.run(
                    [sys.executable, "-c", _UNTIL_CONNECT + program],
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=TREE,
                    env=child_environment(),
                    timeout=60,
                )
                cpu_seconds = float(done.stdout)
                runner.add(
                    "index: until the first byte", what, 0, "", Measured(cpu_seconds, cpu_seconds, 0, Counts({}))
                )

        runner.guarded(f"index: fixed costs of {what}", work)


def first_push(runner: Runner) -> None:
    """The first push of the largest size."""
    n = max(runner.options.sizes)

    def work() -> None:
        runner.stub.restore(EMPTY)
        measured, _ = runner.run(OURS, "first_push", n=n, value_bytes=VALUE_BYTES)
        runner.add("index: first push", OURS, n, "", measured["push"])

    runner.guarded(f"index: first push, {n}", work)


def index(runner: Runner) -> None:
    """All of them."""
    for phase in (fixed, cold, push, read, cold_after_pushes, change, load, first_push):
        phase(runner)
