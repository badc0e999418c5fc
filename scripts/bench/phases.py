"""The phases: what is measured, at which sizes, for whom.

Owns no state. The invariant: a phase that fails for one adapter or size is noted and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from scripts.bench.runner import (
    ALL_ADAPTERS,
    BARE,
    EMPTY,
    FSMAP,
    GROUPED,
    MAPPINGS,
    OURS,
    PER_KEY,
    Runner,
)

VALUE_BYTES = 100
KIB = 1024
CHANGED_KEYS = (1, 10, 1000)
RANDOM_KEYS = 1000
GETS = 100_000
SMALL_PACK_STEPS = 50
SMALL_PACK_BYTES = 40_000
"""Values of a push below 32 KiB in all ride in the index, and lie in no pack."""

LARGE_VALUE_BYTES = 16 * 1024
FSMAP_KEYS = 10_000
"""One object for each key, a few milliseconds each: more keys only take longer."""


def bulk_set(runner: Runner) -> None:
    """Many sets and a sync, with no push."""
    for n in _from_main(runner):
        for adapter in runner.adapters(OURS, GROUPED):

            def work(adapter: str = adapter, n: int = n) -> None:
                for _ in range(_repeats(runner, n)):
                    runner.stub.restore(EMPTY)
                    path = runner.new_folder() / "db.blt"
                    measured, _ = runner.run(
                        adapter, "bulk_set", path=path, n=n, value_bytes=VALUE_BYTES, local_only=True
                    )
                    runner.leave(path)
                    for label, one in measured.items():
                        runner.add(f"bulk {label}", adapter, n, "", one)

            runner.guarded(f"bulk set, {adapter}, {n}", work)


def first_push(runner: Runner) -> None:
    """The first push of a database, at two sizes of it and two of its values."""
    main = runner.options.main_size
    for n, value_bytes in ((max(main // 10, 1), VALUE_BYTES), (main, VALUE_BYTES), (main, KIB)):
        for adapter in runner.adapters(*ALL_ADAPTERS):
            if adapter == FSMAP and n > FSMAP_KEYS:
                continue

            def work(adapter: str = adapter, n: int = n, value_bytes: int = value_bytes) -> None:
                state = runner.state(adapter, n, value_bytes)
                if adapter in (OURS, GROUPED, BARE):
                    for _ in range(_repeats(runner, n) - 1):
                        runner.stub.restore(EMPTY)
                        measured, _ = runner.run(adapter, "first_push", n=n, value_bytes=value_bytes)
                        runner.add("first push", adapter, n, f"{value_bytes} B", measured["push"])
                if value_bytes != VALUE_BYTES or adapter == BARE:
                    runner.drop(state)

            runner.guarded(f"first push, {adapter}, {n} x {value_bytes}", work)


def push(runner: Runner) -> None:
    """A few changed keys pushed into databases of all sizes."""
    for n in runner.options.sizes:
        for adapter in runner.adapters(*MAPPINGS, FSMAP):
            if adapter == FSMAP and n > FSMAP_KEYS:
                continue
            for k in (k for k in CHANGED_KEYS if k <= n):

                def work(adapter: str = adapter, n: int = n, k: int = k) -> None:
                    for _ in range(_repeats(runner, n)):
                        path = runner.enter(runner.state(adapter, n))
                        measured, facts = runner.run(
                            adapter, "push_changed", path=path, n=n, k=k, value_bytes=VALUE_BYTES
                        )
                        runner.leave(path)
                        runner.add("push", adapter, n, f"k={k}", measured["push"], **facts)

                runner.guarded(f"push, {adapter}, {n}, k={k}", work)


def session(runner: Runner) -> None:
    """Open for writing, one changed key, push, close: with and without latency."""
    n = runner.options.main_size
    for adapter in runner.adapters(*MAPPINGS):
        for latency_ms in (0.0, runner.options.latency_ms):

            def work(adapter: str = adapter, latency_ms: float = latency_ms) -> None:
                for _ in range(runner.options.repeats):
                    path = runner.enter(runner.state(adapter, n))
                    runner.stub.set_latency(latency_ms)
                    measured, _ = runner.run(adapter, "session", path=path, n=n, k=1, value_bytes=VALUE_BYTES)
                    runner.stub.set_latency(0)
                    runner.leave(path)
                    runner.add("session", adapter, n, f"{latency_ms:g} ms", measured["session"])

            runner.guarded(f"session, {adapter}, {latency_ms:g} ms", work)


def warm_open(runner: Runner) -> None:
    """An unchanged database opened for reading, and its keys counted, at all sizes."""
    for n in runner.options.sizes:
        for adapter in runner.adapters(*MAPPINGS):

            def work(adapter: str = adapter, n: int = n) -> None:
                path = runner.enter(runner.state(adapter, n))
                for _ in range(runner.options.repeats):
                    measured, _ = runner.run(adapter, "warm_open", path=path, n=n)
                    runner.add("warm open", adapter, n, "", measured["open"])
                    runner.add("warm len", adapter, n, "", measured["len"])
                runner.leave(path)

            runner.guarded(f"warm open, {adapter}, {n}", work)


def pull(runner: Runner) -> None:
    """What a reader pays for another writer's push of ten keys, at all sizes."""
    for n in runner.options.sizes:
        for adapter in runner.adapters(*MAPPINGS):

            def work(adapter: str = adapter, n: int = n) -> None:
                state = runner.state(adapter, n)
                for _ in range(_repeats(runner, n)):
                    path = runner.enter(state)
                    other = runner.enter(state)
                    changed: dict[str, Any] = {"n": n, "k": 10, "value_bytes": VALUE_BYTES}
                    push_first = partial(runner.run, adapter, "push_changed", path=other, **changed)
                    measured, _ = runner.run(adapter, "pull_waiting", path=path, before=push_first, **changed)
                    runner.add("pull", adapter, n, "k=10", measured["pull"])
                    runner.leave(path)
                    runner.leave(other)

            runner.guarded(f"pull, {adapter}, {n}", work)


def cold_open(runner: Runner) -> None:
    """A new machine reads one key, at all sizes."""
    for n in runner.options.sizes:
        for adapter in runner.adapters(*MAPPINGS, FSMAP):
            if adapter == FSMAP and n > FSMAP_KEYS:
                continue
            runner.guarded(
                f"cold open, {adapter}, {n}",
                partial(_cold, runner, adapter, n, "cold_get", "cold", "cold open"),
            )


def random_cold(runner: Runner) -> None:
    """A thousand keys drawn at random, none of them local: of few packs and of many."""
    main = runner.options.main_size
    sizes = sorted({max(main // 10, 1), main})
    read = ("random_cold", "read", "random keys")
    for adapter in runner.adapters(*MAPPINGS, FSMAP):
        for n in sizes:
            if adapter == FSMAP and n > FSMAP_KEYS:
                continue
            work = partial(_cold, runner, adapter, n, *read, k=min(RANDOM_KEYS, n))
            runner.guarded(f"random keys, {adapter}, {n}", work)
    for adapter in runner.adapters(OURS, GROUPED):
        work = partial(_cold, runner, adapter, main, *read, k=min(RANDOM_KEYS, main), value_bytes=KIB)
        runner.guarded(f"random keys, 1 KiB values, {adapter}, {main}", work)
        # Neighbours among those asked for are a hundred values apart: too far to fetch what lies between.
        n, k = max(main // 25, 10), max(main // 2500, 1)
        work = partial(_cold, runner, adapter, n, *read, k=k, value_bytes=LARGE_VALUE_BYTES)
        runner.guarded(f"random keys, large values, {adapter}, {n}", work)
        n = sizes[-1]
        steps = min(SMALL_PACK_STEPS, n * VALUE_BYTES // SMALL_PACK_BYTES)
        if steps < 2:
            runner.say("  too few keys for many small packs")
            continue
        work = partial(_cold, runner, adapter, n, *read, k=min(RANDOM_KEYS, n), steps=steps)
        runner.guarded(f"random keys, small packs, {adapter}, {n}", work)
        if adapter == OURS:
            work = partial(_compacted, runner, n, steps)
            runner.guarded(f"random keys, small packs compacted, {n}", work)


def load_all(runner: Runner) -> None:
    """A new machine brings everything here."""
    n = runner.options.main_size
    for adapter in runner.adapters(*MAPPINGS, FSMAP):
        if adapter == FSMAP and n > FSMAP_KEYS:
            continue
        work = partial(_cold, runner, adapter, n, "load_all", "load", "load all")
        runner.guarded(f"load all, {adapter}, {n}", work)


def local_rates(runner: Runner) -> None:
    """Reading values that are local."""
    n = runner.options.main_size
    for adapter in runner.adapters(OURS, GROUPED):

        def work(adapter: str = adapter) -> None:
            path = runner.enter(runner.state(adapter, n))
            for _ in range(runner.options.repeats):
                measured, facts = runner.run(
                    adapter, "local_rates", path=path, n=n, k=min(GETS, n), value_bytes=VALUE_BYTES
                )
                runner.add("local get", adapter, n, "", measured["get"], gets=facts["gets"])
                runner.add("local iteration", adapter, n, "", measured["iterate"], gets=n)
            runner.leave(path)

        runner.guarded(f"local rates, {adapter}", work)


def recovery(runner: Runner) -> None:
    """A push killed before its last request, and what finishing it takes."""
    n = runner.options.main_size
    k = min(1000, n)
    for adapter in runner.adapters(OURS, GROUPED):

        def work(adapter: str = adapter) -> None:
            path = runner.enter(runner.state(adapter, n))
            changed: dict[str, Any] = {"n": n, "k": k, "value_bytes": VALUE_BYTES}
            runner.stub.hold("PUT root")
            runner.run(adapter, "push_changed", path=path, kill_when=runner.stub.wait_until_held, **changed)
            runner.stub.release()
            measured, facts = runner.run(adapter, "recover", path=path, **changed)
            runner.add("recovery", adapter, n, f"k={k}", measured["recover"], **facts)
            runner.leave(path)

        runner.guarded(f"recovery, {adapter}", work)


Phase = Callable[[Runner], None]


def _cold(
    runner: Runner,
    adapter: str,
    n: int,
    action: str,
    label: str,
    phase: str,
    *,
    k: int = 0,
    value_bytes: int = VALUE_BYTES,
    steps: int = 0,
) -> None:
    state = runner.state(adapter, n, value_bytes, steps)
    for _ in range(_repeats(runner, n) if adapter != PER_KEY else 1):
        path = runner.enter(state, local=False)
        measured, facts = runner.run(adapter, action, path=path, n=n, k=k, value_bytes=value_bytes)
        runner.leave(path)
        variant = f"k={k}" if k else ""
        variant += {KIB: ", 1 KiB values", LARGE_VALUE_BYTES: ", large values"}.get(value_bytes, "")
        variant += ", small packs" if steps else ""
        runner.add(phase, adapter, n, variant, measured[label], **facts)
    if value_bytes != VALUE_BYTES or (steps and adapter != OURS):
        runner.drop(state)


def _compacted(runner: Runner, n: int, steps: int) -> None:
    """The same keys of the same small packs, once `compact` has joined those."""
    state = runner.state(OURS, n, VALUE_BYTES, steps)
    path = runner.enter(state)
    measured, facts = runner.run(OURS, "compact", path=path, n=n)
    runner.add("compact", OURS, n, f"{steps} small packs", measured["compact"], **facts)
    runner.leave(path)
    k = min(RANDOM_KEYS, n)
    path = runner.new_folder() / "db.blt"
    measured, facts = runner.run(OURS, "random_cold", path=path, n=n, k=k, value_bytes=VALUE_BYTES)
    runner.leave(path)
    runner.add("random keys", OURS, n, f"k={k}, small packs compacted", measured["read"], **facts)
    runner.drop(state)


def _repeats(runner: Runner, n: int) -> int:
    """Large databases are measured once: what is copied and looked through takes longer than the work."""
    return runner.options.repeats if n <= 100_000 else 1


def _from_main(runner: Runner) -> list[int]:
    return [n for n in runner.options.sizes if n >= runner.options.main_size]
