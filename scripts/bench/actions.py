"""What a measured process can do: one function for each kind of work.

Owns no state. The invariants: what is measured is inside `watch`, and everything that was read is compared with
what was written, outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.bench import data
from scripts.bench.actions_index import ACTIONS_OF_THE_INDEX
from scripts.bench.adapters import BareUpload, FSMap, bodies_of
from scripts.bench.adapters import Mapping as MappingAdapter
from scripts.bench.child import Watch

Spec = dict[str, Any]
Facts = dict[str, Any] | None
Action = Callable[[Any, Spec, Watch], Facts]


def adapter_of(spec: Spec) -> Any:
    """Returns the adapter that a specification names."""
    kinds: dict[str, Any] = {"fsmap": FSMap, "bare": BareUpload}
    return kinds.get(spec["adapter"], MappingAdapter)(spec)


def bulk_set(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Sets many keys of a new database and syncs."""
    pairs = list(data.pairs(spec["n"], spec["value_bytes"]))
    db = adapter.open("c")
    with watch("set"):
        for key, value in pairs:
            db[key] = value
        db.sync()
    with watch("close"):
        db.close()
    return None


def first_push(adapter: Any, spec: Spec, watch: Watch) -> Facts:
    """Pushes a new database; the values are set and synced before."""
    pairs = data.pairs(spec["n"], spec["value_bytes"])
    if isinstance(adapter, BareUpload):
        bodies = bodies_of(pairs)
        with watch("push"):
            adapter.upload(bodies)
        return None
    if isinstance(adapter, FSMap):
        values = dict(pairs)
        mapping = adapter.open()
        with watch("push"):
            mapping.setitems(values)
        return None
    with adapter.open("c") as db:
        for key, value in pairs:
            db[key] = value
        db.sync()
        with watch("push"):
            _push(db)
    return None


def push_in_steps(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Pushes a new database a share at a time, so that its values lie in many packs."""
    share = spec["n"] // spec["steps"]
    with adapter.open("c") as db, watch("push"):
        for number, (key, value) in enumerate(data.pairs(spec["n"], spec["value_bytes"]), start=1):
            db[key] = value
            if number % share == 0:
                _push(db)
    return None


def push_changed(adapter: Any, spec: Spec, watch: Watch) -> Facts:
    """Changes some keys and pushes them."""
    changed = _changed(spec)
    facts = {"changed_bytes": sum(len(key) + len(value) for key, value in changed.items())}
    if isinstance(adapter, FSMap):
        mapping = adapter.open()
        with watch("push"):
            mapping.setitems(changed)
        return facts
    with adapter.open("w") as db:
        _set_all(db, changed)
        db.sync()
        with watch("push"):
            _push(db)
    return facts


def session(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Opens for writing, changes some keys, pushes and closes."""
    changed = _changed(spec)
    with watch("session"), adapter.open("w") as db:
        _set_all(db, changed)
        _push(db)
    return None


def settle(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Opens for writing and closes: a copied file is looked through once, and then known."""
    del spec
    with watch("settle"):
        adapter.open("w").close()
    return None


def warm_open(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Opens an up-to-date copy and counts its keys."""
    with watch("open"):
        db = adapter.open("r")
    with watch("len"):
        count = len(db)
    db.close()
    if count != spec["n"]:
        raise ValueError(f"{count} keys instead of {spec['n']}")
    return None


def pull_waiting(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Pulls in an open session what another writer pushes before the clock starts."""
    db = adapter.open("r")
    with watch("pull"):
        db.changes().pull()
    _compare(dict(db.get_items(list(_changed(spec)))), _changed(spec))
    db.close()
    return None


def cold_get(adapter: Any, spec: Spec, watch: Watch) -> Facts:
    """Opens with nothing local and reads one key, in a process that has made a client before."""
    number = spec["n"] // 2
    # In a remote whose keys share the values of one pack, those repeat.
    key, expected = data.key(number), data.value(number % spec.get("repeats_after", 2**32), spec["value_bytes"])
    if isinstance(adapter, FSMap):
        with watch("cold"):
            value = adapter.open()[key]
    else:
        adapter.warm_up()
        with watch("cold"):
            db = adapter.open("r")
            value = db[key]
        db.close()
    _compare({key: value}, {key: expected})
    return None


def random_cold(adapter: Any, spec: Spec, watch: Watch) -> Facts:
    """Reads keys drawn at random, with nothing but the index local."""
    numbers = data.some_numbers(spec["k"], spec["n"], seed=7)
    expected = {data.key(number): data.value(number, spec["value_bytes"]) for number in numbers}
    if isinstance(adapter, FSMap):
        mapping = adapter.open()
        with watch("read"):
            found = mapping.getitems(list(expected))
    else:
        db = adapter.open("r")
        with watch("read"):
            found = dict(db.get_items(list(expected)))
        db.close()
    _compare(found, expected)
    return {"asked_bytes": sum(map(len, expected.values()))}


def load_all(adapter: Any, spec: Spec, watch: Watch) -> Facts:
    """Opens with nothing local and brings every value here."""
    if isinstance(adapter, FSMap):
        with watch("load"):
            mapping = adapter.open()
            found = mapping.getitems(list(mapping))
        _compare(found, dict(data.pairs(spec["n"], spec["value_bytes"])))
        return None
    with watch("load"):
        db = adapter.open("r")
        failures = db.load_items()
        db.close()
    if failures:
        raise ValueError(f"{len(failures)} values could not be loaded: {list(failures.items())[:3]}")
    return None


def local_rates(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Reads local values: one by one in random order, then all in the order of iteration."""
    numbers = data.some_numbers(spec["k"], spec["n"], seed=11)
    keys = [data.key(number) for number in numbers]
    db = adapter.open("r")
    with watch("get"):
        for key in keys:
            db[key]
    count = 0
    with watch("iterate"):
        for _ in db.items():
            count += 1
    _compare({keys[0]: db[keys[0]]}, {keys[0]: data.value(numbers[0], spec["value_bytes"])})
    db.close()
    if count != spec["n"]:
        raise ValueError(f"{count} keys instead of {spec['n']}")
    return {"gets": len(keys)}


def recover(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Finishes what a killed push had begun."""
    if adapter.is_ours:
        with watch("recover"):
            report = adapter.module.recover(spec["path"], adapter.connection())
        facts = {"actions": list(report.actions)}
    else:
        with watch("recover"):
            # Its `force_lock` leaves a lock younger than two hours; its message names this way.
            adapter.connection().open("w").break_other_locks(datetime.now(UTC))
            db = adapter.open("w")
            _push(db)
            db.close()
        facts = {}
    with adapter.open("r") as db:
        changed = _changed(spec)
        _compare(dict(db.get_items(list(changed))), changed)
    return facts


def many_pushes(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Pushes one changed key after another in one session."""
    changed_bytes = 0
    with adapter.open("w") as db, watch("pushes"):
        for number in range(spec["k"]):
            key, value = data.key(number % spec["n"]), data.value(number, spec["value_bytes"], 1 + number)
            db[key] = value
            _push(db)
            changed_bytes += len(key) + len(value)
    return {"changed_bytes": changed_bytes}


def read_root(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Tells how long our root is, and how many runs of the index it names."""
    from ebooklet_tx.formats.root import decode_root
    from ebooklet_tx.stores.s3 import S3Store

    del watch
    store = S3Store(adapter.connection())
    blob = store.get(spec["db_key"])
    store.close()
    if blob is None:
        raise ValueError("the store gave no root")
    root = decode_root(blob.data, name=spec["db_key"])
    return {
        "tail_bytes": len(root.tail),
        "runs": len(root.manifest.runs),
        "root_bytes": len(blob.data),
    }


def compact(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Writes anew what is worth it."""
    with adapter.open("w") as db, watch("compact"):
        report = db.compact()
    return {"packs": report.packs}


def collect(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Deletes what no root names, however young."""
    work = getattr(adapter.module, "collect", None)
    if work is None:
        return {"there": False}
    with watch("collect"):
        work(adapter.connection(), grace_seconds=0)
    return {"there": True}


def set_huge(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Sets one very large value."""
    content = data.value(1, spec["value_bytes"])
    with adapter.open("c") as db, watch("set"):
        db["huge"] = content
        db.sync()
    return None


def push_huge(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Pushes what waits."""
    del spec
    with adapter.open("w") as db, watch("push"):
        _push(db)
    return None


def load_huge(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Brings the very large value here, checked, without holding it."""
    del spec
    with adapter.open("r") as db, watch("load"):
        failures = db.load_items(["huge"])
    if failures:
        raise ValueError(f"not loaded: {failures}")
    return {"local_bytes": Path(adapter.spec["path"]).stat().st_size}


ACTIONS: dict[str, Action] = {
    action.__name__: action
    for action in (
        bulk_set,
        first_push,
        push_in_steps,
        compact,
        push_changed,
        session,
        settle,
        warm_open,
        pull_waiting,
        cold_get,
        random_cold,
        load_all,
        local_rates,
        recover,
        many_pushes,
        read_root,
        collect,
        set_huge,
        push_huge,
        load_huge,
    )
} | ACTIONS_OF_THE_INDEX


def _changed(spec: Spec) -> dict[str, bytes]:
    numbers = data.some_numbers(spec["k"], spec["n"], seed=3)
    return {data.key(number): data.value(number, spec["value_bytes"], 1) for number in numbers}


def _set_all(db: Any, pairs: Mapping[str, bytes]) -> None:
    for key, value in pairs.items():
        db[key] = value


def _push(db: Any) -> None:
    if not db.changes().push():
        raise ValueError("the push changed nothing")


def _compare(found: Mapping[str, Any], expected: Mapping[str, bytes]) -> None:
    wrong: Iterable[str] = [key for key, value in expected.items() if found.get(key) != value]
    if wrong or len(found) != len(expected):
        raise ValueError(f"{len(list(wrong))} of {len(expected)} values are wrong, of {len(found)} found")
