"""What is done to a mapping to see whether it has the outcome that it has on a dict.

Each use is given the mapping and a function that makes values out of numbers; what it returns, or the builtin
kind of error that it raises, is its outcome.
"""

from __future__ import annotations

import collections
import types
from collections.abc import Callable, Iterator
from typing import Any

from tests.property.mapping_kinds import content_of


class KeysAndItems:
    """As little of a mapping as update() needs."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def keys(self) -> Iterator[str]:
        return iter(self._content)

    def __getitem__(self, key: str) -> Any:
        return self._content[key]


Valued = Callable[[int], Any]
Use = Callable[[Any, Valued], Any]


def _deleted(mapping: Any, key: str) -> None:
    del mapping[key]


def _set(mapping: Any, key: str, value: Any) -> None:
    mapping[key] = value


def _emptied(mapping: Any) -> list[Any]:
    return sorted(mapping.popitem() for _ in range(len(mapping)))


USES: dict[str, Use] = {
    "getitem": lambda m, v: m["a"],
    "getitem of a missing key": lambda m, v: m["x"],
    "getitem of the empty key": lambda m, v: m[""],
    "setitem": lambda m, v: _set(m, "a", v(9)),
    "setitem of a new key": lambda m, v: _set(m, "x", v(9)),
    "setitem of an equal value": lambda m, v: _set(m, "a", m["a"]),
    "delitem": lambda m, v: _deleted(m, "a"),
    "delitem of a missing key": lambda m, v: _deleted(m, "x"),
    "delitem and setitem": lambda m, v: (_deleted(m, "a"), _set(m, "a", v(5))),
    "setitem and delitem": lambda m, v: (_set(m, "x", v(5)), _deleted(m, "x")),
    "delitem twice": lambda m, v: (_deleted(m, "a"), _deleted(m, "a")),
    "contains": lambda m, v: ("a" in m, "x" in m, "" in m, 1 in m, None in m, ("a",) in m),
    "len": lambda m, v: len(m),
    "bool": lambda m, v: bool(m),
    "iter": lambda m, v: sorted(m),
    "iter twice": lambda m, v: [*sorted(m), *sorted(m)],
    "equal": lambda m, v: (m == dict(m), dict(m) == m, m == {}, m == {**m, "x": v(1)}),
    "not equal": lambda m, v: (m != dict(m), m != {}, m != [("a", v(1))], m != None, m == 0),  # noqa: E711
    "equal to other mappings": lambda m, v: (
        m == types.MappingProxyType(dict(m)),
        m == collections.OrderedDict(sorted(m.items(), reverse=True)),
        m == collections.ChainMap({}, dict(m)),
        m == m,
    ),
    "hash": lambda m, v: hash(m),
    "get": lambda m, v: (m.get("a"), m.get("a", v(7)), m.get("x"), m.get("x", v(7)), m.get("x", default_of(m))),
    "setdefault": lambda m, v: m.setdefault("a", v(9)),
    "setdefault of a new key": lambda m, v: m.setdefault("x", v(9)),
    "pop": lambda m, v: m.pop("a"),
    "pop with a default": lambda m, v: (m.pop("a", v(9)), m.pop("a", v(9)), m.pop("x", None)),
    "pop of a missing key": lambda m, v: m.pop("x"),
    "pop with too much": lambda m, v: m.pop("x", 1, 2),
    "popitem until it is empty": lambda m, v: _emptied(m),
    "popitem of nothing": lambda m, v: (m.clear(), m.popitem()),
    "clear": lambda m, v: (m.clear(), len(m), bool(m), list(m), "a" in m),
    "clear and set": lambda m, v: (m.clear(), _set(m, "a", v(3)), len(m)),
    "update of nothing": lambda m, v: m.update(),
    "update by a dict": lambda m, v: m.update({"a": v(9), "x": v(8)}),
    "update by pairs": lambda m, v: m.update([("a", v(9)), ("a", v(8)), ["x", v(7)]]),
    "update by an iterator": lambda m, v: m.update((key, v(9)) for key in "xyz"),
    "update by keywords": lambda m, v: m.update(a=v(9), x=v(8), self=v(7), other=v(6)),
    "update by both": lambda m, v: m.update({"x": v(9), "y": v(9)}, x=v(8)),
    "update by pairs and keywords": lambda m, v: m.update([("x", v(9))], x=v(8)),
    "update by keys and getitem": lambda m, v: m.update(KeysAndItems({"a": v(9), "x": v(8)})),
    "update by a proxy": lambda m, v: m.update(types.MappingProxyType({"x": v(8)})),
    "update by its own items": lambda m, v: m.update(m.items()),
    "update by itself": lambda m, v: m.update(m),
    "update by a number": lambda m, v: m.update(42),
    "update by a string": lambda m, v: m.update("ab"),
    "update by triples": lambda m, v: m.update([("x", v(1), v(2))]),
    "update by two mappings": lambda m, v: m.update({}, {}),
    "keys": lambda m, v: (sorted(m.keys()), len(m.keys()), "a" in m.keys(), "x" in m.keys(), 1 in m.keys()),  # noqa: SIM118
    "keys as a set": lambda m, v: (
        m.keys() & {"a", "x"},
        m.keys() | {"a", "x"},
        m.keys() - {"a", "x"},
        m.keys() ^ {"a", "x"},
        {"a", "x"} & m.keys(),
        {"a", "x"} | m.keys(),
        {"a", "x"} - m.keys(),
        {"a", "x"} ^ m.keys(),
    ),
    "keys compared": lambda m, v: (
        m.keys() == set(m),
        set(m) == m.keys(),
        m.keys() == dict(m).keys(),
        m.keys() <= {*m, "x"},
        m.keys() < set(m),
        m.keys() >= {"a"},
        m.keys() > {"a"},
        m.keys() != {"a"},
        m.keys() == list(m),
        m.keys().isdisjoint({"x"}),
        m.keys().isdisjoint(["a"]),
    ),
    "items": lambda m, v: (
        sorted(m.items()),
        len(m.items()),
        ("a", m["a"]) in m.items(),
        ("a", v(99)) in m.items(),
        ("x", v(1)) in m.items(),
        "a" in m.items(),
        ("a",) in m.items(),
        ("a", v(1), v(1)) in m.items(),
    ),
    "items as a set": lambda m, v: (
        m.items() & {("a", m["a"]), ("b", v(99))},
        m.items() | {("x", v(1))},
        m.items() - {("a", m["a"])},
        m.items() ^ {("a", m["a"]), ("x", v(1))},
        {("a", m["a"]), ("x", v(1))} & m.items(),
        {("a", m["a"]), ("x", v(1))} - m.items(),
    ),
    "items compared": lambda m, v: (
        m.items() == dict(m).items(),
        m.items() == set(m.items()),
        m.items() <= {*m.items(), ("x", v(1))},
        m.items() >= {("a", v(99))},
        m.items().isdisjoint({("a", v(99))}),
        m.items().isdisjoint({("a", m["a"])}),
    ),
    "values": lambda m, v: (sorted(m.values()), len(m.values()), m["a"] in m.values(), v(99) in m.values()),
    "views come anew": lambda m, v: [
        sorted(view) for view in (m.keys(), m.items(), m.values()) for _ in range(2)
    ],
    "views follow": lambda m, v: _followed(m, v),
    "dict of it": lambda m, v: dict(m),
    "unpacked": lambda m, v: {**m},
    "matched": lambda m, v: _matched(m),
    "sorted items": lambda m, v: sorted(m.items(), key=lambda item: item[0]),
    "getitem without a key": lambda m, v: m.__getitem__(),
    "get without a key": lambda m, v: m.get(),
    "get with too much": lambda m, v: m.get("a", 1, 2),
    "setdefault without a key": lambda m, v: m.setdefault(),
    "popitem with a key": lambda m, v: m.popitem("a"),
    "clear with a key": lambda m, v: m.clear("a"),
    "items with a key": lambda m, v: m.items("a"),
}

NO_VALUE = object()


def default_of(_mapping: Any) -> object:
    """A default that no serializer would take: it is never encoded."""
    return NO_VALUE


def _followed(mapping: Any, v: Valued) -> list[Any]:
    keys, items, values = mapping.keys(), mapping.items(), mapping.values()
    _set(mapping, "x", v(70))
    _deleted(mapping, "a")
    shown = [sorted(keys), sorted(items), sorted(values), "x" in keys, "a" in keys, len(items), v(70) in values]
    mapping.clear()
    return [*shown, list(keys), len(values)]


def _matched(mapping: Any) -> Any:
    match mapping:
        case {"a": found, **rest}:
            return found, rest
    return None


def outcome(mapping: Any, use: Use, v: Valued) -> Any:
    """What a use returns, or the builtin kind of error that it raises."""
    try:
        return use(mapping, v)
    except (KeyError, TypeError, ValueError) as error:
        builtin = next(kind for kind in (KeyError, TypeError, ValueError) if isinstance(error, kind))
        return builtin, error.args if builtin is KeyError else None


def changes_a_dict(use: Use) -> bool:
    before, after = content_of("orjson"), content_of("orjson")
    outcome(after, use, lambda number: number)
    return before != after


CHANGING = [name for name, use in USES.items() if changes_a_dict(use)]
