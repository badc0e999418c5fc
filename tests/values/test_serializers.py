"""Value serializers: booklet's by name, a user's class, and failures that name the key."""

from __future__ import annotations

import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from booklet import serializers as booklet_serializers

from ebooklet_tx.errors import InvalidArgumentError, InvalidValueError, LocalIntegrityError, MissingPackageError
from ebooklet_tx.values import serializers
from ebooklet_tx.values.serializers import (
    CUSTOM,
    checked_value,
    decode_metadata,
    encode_metadata,
    resolve,
    resolve_stored,
    stored_name,
)


class Reversed:
    """A user's own."""

    @staticmethod
    def dumps(value: bytes) -> bytes:
        return value[::-1]

    loads = dumps


class Broken(Reversed):
    @staticmethod
    def dumps(value: Any) -> Any:
        return "no bytes"

    @staticmethod
    def loads(value: bytes) -> Any:
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("name", "value"), [("str", "text"), ("pickle", {1, 2}), ("json", [1]), ("orjson", {"a": 1})]
)
def test_booklets_own_by_name(name: str, value: Any) -> None:
    serializer = resolve(name)
    assert serializer.name == name
    assert serializer.loads("k", serializer.dumps("k", value)) == value
    assert resolve_stored(serializer.code, None, "the file").name == name


def test_the_names_and_numbers_are_those_of_booklet() -> None:
    assert booklet_serializers.serial_name_dict == serializers._CODES


def test_every_code_of_booklet_resolves() -> None:
    for name, code in booklet_serializers.serial_name_dict.items():
        assert resolve(name).code == code
        assert stored_name(code, "the file") == name
        if code:
            assert resolve_stored(code, None, "the file").code == code


def test_none_is_bytes() -> None:
    serializer = resolve(None)
    assert serializer.dumps("k", b"1") == b"1"
    with pytest.raises(InvalidValueError, match="'k'"):
        serializer.dumps("k", "text")


def test_a_users_class() -> None:
    serializer = resolve(Reversed)
    assert serializer.name == CUSTOM
    assert serializer.loads("k", serializer.dumps("k", b"123")) == b"123"
    assert resolve_stored(0, Reversed, "the file").name == CUSTOM
    for given in (None, "str"):
        with pytest.raises(InvalidArgumentError, match="pass that class"):
            resolve_stored(0, given, "the file")


@pytest.mark.parametrize("given", ["no such", 5, object(), type("Half", (), {"dumps": len})])
def test_what_is_no_serializer(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="value_serializer"):
        resolve(given)


def test_a_code_that_booklet_does_not_know() -> None:
    with pytest.raises(InvalidArgumentError, match="number 999"):
        resolve_stored(999, None, "the file")


def test_one_that_a_later_booklet_has_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(booklet_serializers.serial_name_dict, "later", 999)
    monkeypatch.setitem(booklet_serializers.serial_int_dict, 999, Reversed)
    assert resolve("later").dumps("k", b"12") == b"21"
    assert resolve_stored(999, None, "the file").name == stored_name(999, "the file") == "later"


def test_failures_name_the_key() -> None:
    with pytest.raises(InvalidValueError, match="'the key'"):
        resolve("orjson").dumps("the key", object())
    with pytest.raises(InvalidValueError, match="'the key' must be bytes, not str"):
        resolve(Broken).dumps("the key", b"1")
    with pytest.raises(LocalIntegrityError, match="'the key' is intact"):
        resolve(Broken).loads("the key", b"1")


@pytest.mark.parametrize("missing", [b"cno_such_package\nStation\n.", b"cpickle\nNoSuchClass\n."])
def test_a_class_that_is_not_found_here_is_told(missing: bytes) -> None:
    for serializer in (resolve("pickle"), resolve(pickle)):
        with pytest.raises(LocalIntegrityError, match=r"(no_such|NoSuch).*not found here"):
            serializer.loads("k", missing)
        with pytest.raises(LocalIntegrityError, match=r"encoded otherwise.*decode_value=False"):
            serializer.loads("k", b"no pickle")


@pytest.mark.parametrize("value", [1.5, -0.25, Decimal("2.5"), Fraction(1, 3)])
def test_ints_hold_no_fractions(value: Any) -> None:
    for name in ("uint1", "int4"):
        with pytest.raises(InvalidValueError, match=r"'k'.*round it first|negative"):
            resolve(name).dumps("k", value)


@pytest.mark.parametrize("value", [True, 7, 7.0, Decimal(7), Fraction(14, 2), "7"])
def test_ints_hold_whole_numbers_of_any_type(value: Any) -> None:
    serializer = resolve("int4")
    assert serializer.loads("k", serializer.dumps("k", value)) == int(value)


def test_bytes_and_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_value("k", bytearray(b"1")) == checked_value("k", memoryview(b"1")) == b"1"
    monkeypatch.setattr(serializers, "MAX_VALUE_BYTES", 3)
    assert checked_value("k", b"123") == b"123"
    with pytest.raises(InvalidValueError, match="limit is 3"):
        checked_value("k", b"1234")


def test_metadata_is_json() -> None:
    assert decode_metadata(encode_metadata({"a": [1, None, "ü"]})) == {"a": [1, None, "ü"]}
    with pytest.raises(InvalidValueError, match="give JSON types"):
        encode_metadata(object())


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = resolve("pickle_zstd").dumps("key", 1)
    monkeypatch.delattr(booklet_serializers, "zstd")
    with pytest.raises(MissingPackageError, match=r"'pickle_zstd'.*'key'.*pip install \"ebooklet-tx\[zstd\]\""):
        resolve("pickle_zstd").dumps("key", 1)
    with pytest.raises(MissingPackageError, match=r"ebooklet-tx\[zstd\]"):
        resolve("pickle_zstd").loads("key", packed)


@pytest.mark.parametrize(("name", "extra"), [("pd_zstd", "pandas"), ("gpd_zstd", "geopandas")])
def test_a_package_that_pandas_misses_is_named(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> bytes:
        raise ImportError("Missing optional dependency 'pyarrow'.")

    kind = booklet_serializers.serial_dict[name]
    monkeypatch.setattr(kind, "dumps", refuse)
    with pytest.raises(MissingPackageError, match=rf"package pyarrow.*ebooklet-tx\[{extra}\]"):
        resolve(name).dumps("key", 1)
    # A serializer of the user's own may miss what it likes.
    with pytest.raises(InvalidValueError, match="pyarrow"):
        resolve(kind).dumps("key", 1)
