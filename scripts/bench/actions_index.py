"""What a measured process can do to show what an index costs that is read by the block.

Owns no state. The invariants: as in `actions`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scripts.bench import data
from scripts.bench.adapters import Mapping as MappingAdapter
from scripts.bench.child import Watch

Spec = dict[str, Any]
Facts = dict[str, Any] | None


def write_synthetic(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Writes a remote by the codecs alone, whose keys share the values of one pack."""
    from ebooklet_tx.formats.object_names import ObjectNames
    from ebooklet_tx.records import CommitWay
    from ebooklet_tx.stores.s3 import S3Store
    from scripts.synthetic_remote import write_remote

    store = S3Store(adapter.connection())
    with watch("write"):
        write_remote(
            store.put,
            ObjectNames(spec["db_key"]),
            spec["n"],
            value_bytes=spec["value_bytes"],
            shared=True,
            commits=CommitWay("quoted", spec["endpoint"], spec["bucket"]),
        )
    store.close()
    return None


def push_again(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Changes some keys, pushes, and measures a second push of them: what that needs of the index is at hand."""
    numbers = data.some_numbers(spec["k"], spec["n"], seed=3)
    with adapter.open("w") as db:
        for version in (1, 2, 3):
            for number in numbers:
                db[data.key(number)] = data.value(number, spec["value_bytes"], version)
            db.sync()
            if version < 3:
                _push(db)
        with watch("push"):
            _push(db)
    return {"changed_bytes": sum(len(data.key(number)) + spec["value_bytes"] for number in numbers)}


def push_fresh(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Opens for writing with nothing local, changes some keys and pushes them."""
    numbers = data.some_numbers(spec["k"], spec["n"], seed=3)
    changed = {data.key(number): data.value(number, spec["value_bytes"], 1) for number in numbers}
    with adapter.open("w") as db, watch("push"):
        for key, value in changed.items():
            db[key] = value
        _push(db)
    return None


def stream_keys(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Takes the keys in order, with nothing local."""
    db = adapter.open("r")
    with watch("first"):
        keys = iter(db.keys())
        first = next(keys)
    with watch("rest"):
        count = 1 + sum(1 for _ in keys)
    db.close()
    if (first, count) != (data.key(0), spec["n"]):
        raise ValueError(f"{count} keys from {first!r} on, of {spec['n']}")
    return None


def change_local(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Overwrites half of the local keys, drawn at random, and then deletes those; durable each time."""
    numbers = data.some_numbers(spec["n"] // 2, spec["n"], seed=5)
    changed = {data.key(number): data.value(number, spec["value_bytes"], 1) for number in numbers}
    with adapter.open("w") as db:
        with watch("overwrite"):
            db.update(changed)
            db.sync()
        with watch("delete"):
            for key in changed:
                del db[key]
            db.sync()
    return {"changed": len(numbers)}


def read_random(adapter: MappingAdapter, spec: Spec, watch: Watch) -> Facts:
    """Opens with nothing local and reads keys drawn at random; tells how long the journal is then."""
    numbers = data.some_numbers(spec["k"], spec["n"], seed=7)
    with watch("read"):
        db = adapter.open("r")
        found = dict(db.get_items([data.key(number) for number in numbers]))
        db.close()
    if len(found) != len(numbers):
        raise ValueError(f"{len(found)} keys of {len(numbers)}")
    path = Path(adapter.spec["path"])
    parts = path.parent.glob(f"{path.name}.journal*")
    return {"journal_bytes": sum(part.stat().st_size for part in parts)}


ACTIONS_OF_THE_INDEX = {
    action.__name__: action
    for action in (
        write_synthetic,
        push_again,
        push_fresh,
        stream_keys,
        change_local,
        read_random,
    )
}


def _push(db: Any) -> None:
    if not db.changes().push():
        raise ValueError("the push changed nothing")
