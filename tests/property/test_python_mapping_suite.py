"""Python's own tests of the mapping protocol, over databases, where the interpreter brings them."""

from __future__ import annotations

import importlib
import types
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from tests.pairs import Bench
from tests.property.mapping_kinds import KINDS, SERIALIZERS


def _mapping_tests() -> types.ModuleType | None:
    try:
        return importlib.import_module("test.mapping_tests")
    except ModuleNotFoundError:
        return None


SUITE = _mapping_tests()
NO_STR_KEYS = "it sets int keys; keys are str"
EXEMPT = {
    ("TestMappingProtocol", "test_values"): NO_STR_KEYS,
    ("TestMappingProtocol", "test_items"): NO_STR_KEYS,
    ("TestMappingProtocol", "test_clear"): NO_STR_KEYS,
    ("TestMappingProtocol", "test_update"): NO_STR_KEYS,
    ("TestMappingProtocol", "test_fromkeys"): "a database is opened at a place, and has no fromkeys()",
    ("TestMappingProtocol", "test_copy"): "a database is opened at a place, and has no copy()",
    ("TestMappingProtocol", "test_popitem"): "it asks for copy()",
    ("TestMappingProtocol", "test_setdefault"): "it changes a value in place; values are copies",
}
REFERENCES: dict[str, dict[str, Any]] = {
    "pickle": {"1": "2", "key1": "value1", "key2": (1, 2, 3)},
    "orjson": {"1": "2", "key1": "value1", "key2": [1, 2, 3]},
    "bytes": {"1": b"2", "key1": b"value1", "key2": b"\x01\x02\x03"},
    "class": {"1": "2", "key1": "value1", "key2": {"n": [1, None]}},
}


# The second class sets numbers throughout, which a database of bytes does not take.
SUITES = [
    *(("BasicTestMappingProtocol", kind) for kind in KINDS),
    ("TestMappingProtocol", "pickle"),
    ("TestMappingProtocol", "class"),
]


def _cases() -> list[Any]:
    if SUITE is None:
        return []
    found = []
    for suite in ("BasicTestMappingProtocol", "TestMappingProtocol"):
        for kind in KINDS:
            if (suite, kind) not in SUITES:
                continue
            for name in sorted(dir(getattr(SUITE, suite))):
                if name.startswith("test_"):
                    why = EXEMPT.get((suite, name))
                    marks = [pytest.mark.skip(reason=why)] if why else []
                    found.append(pytest.param(suite, kind, name, marks=marks, id=f"{suite}-{kind}-{name}"))
    return found


CASES = _cases()


@pytest.mark.skipif(SUITE is not None, reason="test.mapping_tests is there; its tests run by name")
def test_the_suite_of_python_is_not_there() -> None:
    pytest.skip("this Python comes without test.mapping_tests")


@pytest.mark.parametrize(("suite", "kind", "name"), CASES)
def test_the_suite_of_python_for_mappings(tmp_path: Path, suite: str, kind: str, name: str) -> None:
    opened: list[Database] = []

    def make(*arguments: Any, **more: Any) -> Database:
        at = Bench(tmp_path, f"db{len(opened)}")
        opened.append(at.open(at.name, value_serializer=SERIALIZERS[kind]))
        opened[-1].update(*arguments, **more)
        return opened[-1]

    class Case(getattr(SUITE, suite)):  # type: ignore[misc]
        type2test = staticmethod(make)

        def _reference(self) -> dict[str, Any]:
            return dict(REFERENCES[kind])

    case = Case(name)
    try:
        case.debug()
    finally:
        for db in opened:
            db.close()
    assert opened or name in ("test_getitem",)
