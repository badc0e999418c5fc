"""Value serializers: those of Booklet by name, or a class of the user's.

The invariant: what `dumps` returns is bytes of at most 4 GiB - 1, whatever the
serializer is, and a serializer's own failure comes out as `InvalidValueError` naming the key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from ebooklet_tx.errors import InvalidArgumentError, InvalidValueError, LocalIntegrityError, MissingPackageError
from ebooklet_tx.records import MAX_VALUE_BYTES, METADATA_KEY
from ebooklet_tx.values.plain_serializers import INT_NAMES, PLAIN

CUSTOM = "custom"
"""How a remote names a serializer class of the user's own."""

_NOT_FOUND_HERE = (
    "it holds an object of a module or class that is not found here: make that importable under the name that it "
    "had where the value was written (a class of a script or a notebook is one of __main__)"
)
_OTHERWISE_ENCODED = "it was encoded otherwise, such as by a caller with encode_value=False"

_CUSTOM_CODE = 0
_NUMPY_INTS = "numpy_int"
_PACKAGES = {"gpd": "geopandas", "np": "numpy", "pd": "pandas", "zstd": "zstandard"}
"""Packages that Booklet's serializers use when they are there, by the names that it gives them."""
EXTRAS = {
    "geopandas": "geopandas",
    "msgpack": "msgpack",
    "numpy": "numpy",
    "pandas": "pandas",
    "shapely": "shapely",
    "zstandard": "zstd",
}
"""The extras of this package that install them, as `pyproject.toml` has them."""
_TABLES: dict[str | None, str] = {"gpd_zstd": "geopandas", "pd_zstd": "pandas"}
"""Serializers that write through pyarrow, and the extras that bring it."""


_NAMES_BY_CODE: dict[int, str | None] = dict(
    enumerate(
        (
            *(None, "str", "pickle", "json", "orjson"),
            *(f"{sign}int{size}" for size in (1, 2, 4, 5, 8) for sign in ("u", "")),
            *("pickle_zstd", "orjson_zstd"),
            *(f"numpy_int{size}" for size in (1, 2, 4, 8)),
            *(f"numpy_int{size}_zstd" for size in (2, 4, 8)),
            *("pd_zstd", "gpd_zstd", "zstd", "wkb", "wkb_zstd", "msgpack", "msgpack_zstd", "bytes"),
        ),
        start=1,
    )
)
"""Booklet's serializers by the numbers that files have for them, to know one without importing Booklet."""
_CODES = {name: code for code, name in _NAMES_BY_CODE.items()}


@functools.cache
def _booklet() -> Any:
    # At first use: it imports numpy and pandas, where they are installed.
    from booklet import serializers

    return serializers


@dataclass(frozen=True, slots=True)
class Serializer:
    """A pair of functions under the name by which Booklet and remote know it."""

    name: str | None
    code: int
    _dumps: Callable[[Any], Any]
    _loads: Callable[[bytes], Any]

    def dumps(self, key: str, value: Any) -> bytes:
        """Encodes a value.

        Raises:
            InvalidValueError: The serializer refused it, or it is over 4 GiB - 1.
        """
        try:
            encoded = self._dumps(value)
        except Exception as error:
            self._check_packages(key, error)
            raise InvalidValueError(
                f"the value of key {key!r} (a {type(value).__name__}) can't be encoded by the serializer "
                f"{self.name!r}: {error}; give a value that it takes, or open with another value_serializer",
                key=key,
            ) from error
        return checked_value(key, encoded)

    def loads(self, key: str, encoded: bytes) -> Any:
        """Decodes a value that was checked against its digest."""
        try:
            return self._loads(encoded)
        except Exception as error:
            self._check_packages(key, error)
            reason = _NOT_FOUND_HERE if self._misses_class(error) else _OTHERWISE_ENCODED
            raise LocalIntegrityError(
                f"the value of key {key!r} is intact, but the serializer {self.name!r} can't decode it: {error}; "
                f"{reason}; get_timestamp(key, include_value=True, decode_value=False) returns its bytes",
                key=key,
            ) from error

    def _misses_class(self, error: Exception) -> bool:
        """Whether an encoded value names a module or class that can't be found, as pickled ones do."""
        if self.code != _CUSTOM_CODE and not str(self.name).startswith("pickle"):
            return False
        return isinstance(error, ImportError) or "Can't get attribute" in str(error)

    def _check_packages(self, key: str, error: Exception) -> None:
        """Raises what a user can act on when Booklet's serializer lacks a package that it does not install."""
        if self.code == _CUSTOM_CODE:
            return
        package = None
        if isinstance(error, NameError):
            package = _PACKAGES.get(str(error.name), str(error.name))
        elif isinstance(error, ImportError) and self.name in _TABLES:
            # Raised by pandas itself.
            package = "pyarrow"
        if package is not None:
            extra = _TABLES[self.name] if package == "pyarrow" and self.name in _TABLES else EXTRAS.get(package)
            wanted = f'"ebooklet-tx[{extra}]"' if extra else package
            raise MissingPackageError(
                f"the serializer {self.name!r}, needed for the value of key {key!r}, uses the package {package}, "
                f"which is not installed; install it (pip install {wanted}) and try again",
                key=key,
            ) from error

    def dumps_any(self, key: str, value: Any) -> bytes:
        """Encodes a value, or the metadata, whose key is empty."""
        return self.dumps(key, value) if key != METADATA_KEY else encode_metadata(value)

    def loads_any(self, key: str, encoded: bytes) -> Any:
        """Decodes a value, or the metadata, whose key is empty."""
        return self.loads(key, encoded) if key != METADATA_KEY else decode_metadata(encoded)


def checked_value(key: str, encoded: Any) -> bytes:
    """Returns encoded bytes that Booklet can hold.

    Raises:
        InvalidValueError: They are no bytes, or over 4 GiB - 1.
    """
    if type(encoded) is bytes and len(encoded) <= MAX_VALUE_BYTES:
        return encoded
    if isinstance(encoded, bytearray | memoryview):
        encoded = bytes(encoded)
    if not isinstance(encoded, bytes):
        raise InvalidValueError(
            f"the value of key {key!r} must be bytes, not {type(encoded).__name__}; "
            "open with a value_serializer to store other types",
            key=key,
        )
    if len(encoded) > MAX_VALUE_BYTES:
        raise InvalidValueError(
            f"the value of key {key!r} is {len(encoded)} bytes when encoded; Booklet's limit is "
            f"{MAX_VALUE_BYTES}; split it over several keys",
            key=key,
        )
    return encoded


def resolve(value_serializer: Any) -> Serializer:
    """Returns the serializer for a booklet name, None (bytes), or a class or instance with dumps and loads.

    Raises:
        InvalidArgumentError: It is none of these.
    """
    if value_serializer is None or isinstance(value_serializer, str):
        plain = PLAIN.get(value_serializer)
        if plain is None:
            return _resolve_in_booklet(value_serializer)
        is_int = value_serializer in INT_NAMES
        encode = functools.partial(_dumps_whole, plain.dumps) if is_int else plain.dumps
        return Serializer(value_serializer, _CODES[value_serializer], encode, plain.loads)
    dumps = getattr(value_serializer, "dumps", None)
    loads = getattr(value_serializer, "loads", None)
    if callable(dumps) and callable(loads):
        return Serializer(CUSTOM, _CUSTOM_CODE, dumps, loads)
    raise InvalidArgumentError(
        f"the value_serializer {value_serializer!r} has no dumps and loads; give a class or instance that has "
        "both, None for bytes, or the name of one of booklet's serializers"
    )


def _resolve_in_booklet(name: str | None) -> Serializer:
    names: dict[str | None, int] = _booklet().serial_name_dict
    if name not in names:
        known = ", ".join(sorted(each for each in names if each))
        raise InvalidArgumentError(
            f"unknown value_serializer {name!r}; give None for bytes, a class with dumps and "
            f"loads, or one of {known}"
        )
    code = names[name]
    kind = _booklet().serial_int_dict[code]
    dumps = _checked_dumps(kind) if str(name).startswith(_NUMPY_INTS) else kind.dumps
    return Serializer(name, code, dumps, kind.loads)


def named_serializer(value_serializer: Any) -> str | None:
    """Returns the name of the serializer that an argument asks for; None where none is named.

    Raises:
        InvalidArgumentError: There is none of that name, or it has no dumps and loads.
    """
    if value_serializer is None or (isinstance(value_serializer, str) and value_serializer in _CODES):
        return value_serializer
    return resolve(value_serializer).name


def same_serializer(first: str | None, second: str | None) -> bool:
    """True of two names of one serializer: Booklet stores bytes as they are under two of them."""
    return first == second or {first, second} <= {None, "bytes"}


class Undecoded:
    """Stands in for a user's serializer where encoded values are handled as they are."""

    @staticmethod
    def dumps(value: bytes) -> bytes:
        return value

    @staticmethod
    def loads(value: bytes) -> bytes:
        return value


def _checked_dumps(kind: Any) -> Callable[[Any], Any]:
    """Returns the `dumps` of an array of ints that refuses fractions and high bits, which it would cut."""

    def dumps(value: Any) -> Any:
        encoded = kind.dumps(value)
        if value.dtype.kind in "fciu" and not (kind.loads(encoded) == value.ravel()).all():
            raise ValueError(
                f"it holds numbers of {value.dtype} that these ints can't: fractions, NaN or too large ones; "
                "round them first, or take a wider type"
            )
        return encoded

    return dumps


def _dumps_whole(dumps: Callable[[Any], Any], value: Any) -> Any:
    """Encodes a number as an int, and refuses fractions, which Booklet's own functions cut."""
    encoded = dumps(value)
    if type(value) is not int and hasattr(type(value), "__float__") and value != int(value):
        raise ValueError("it is no whole number, and ints hold no fractions; round it first")
    return encoded


def resolve_stored(code: int, given: Any, where: str) -> Serializer:
    """Returns the serializer that a Booklet header names; `given` is needed only for a custom one."""
    if code == _CUSTOM_CODE:
        if given is None or isinstance(given, str):
            raise InvalidArgumentError(
                f"{where} was made with a serializer class of its own; pass that class as value_serializer"
            )
        return resolve(given)
    return resolve(_name_of_code(code, where))


def stored_name(code: int, where: str) -> str | None:
    """Returns the name of the serializer that a Booklet header names, without needing a custom one."""
    return CUSTOM if code == _CUSTOM_CODE else _name_of_code(code, where)


def _name_of_code(code: int, where: str) -> str | None:
    if code in _NAMES_BY_CODE:
        return _NAMES_BY_CODE[code]
    # The installed Booklet may have more than were there when this was written.
    names: dict[int, str | None] = {number: name for name, number in _booklet().serial_name_dict.items()}
    if code not in names:
        raise InvalidArgumentError(
            f"{where} names the value serializer number {code}, which this booklet does not know; "
            "install a newer booklet"
        )
    return names[code]


def encode_metadata(data: Any) -> bytes:
    """Encodes a database's metadata as booklet does: JSON.

    Raises:
        InvalidValueError: It is not JSON-serializable.
    """
    try:
        return orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"the metadata can't be encoded as JSON: {error}; give JSON types", key=METADATA_KEY
        ) from error


def decode_metadata(encoded: bytes) -> Any:
    """Decodes a database's metadata."""
    return orjson.loads(encoded)
