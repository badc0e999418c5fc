"""Arrays: kept as they are, or refused, where numpy is installed."""

from __future__ import annotations

from typing import Any

import pytest

from ebooklet_tx.errors import InvalidValueError
from ebooklet_tx.values.serializers import resolve

np: Any = pytest.importorskip("numpy")
WHOLE = [np.arange(4), np.array([1.0, -2.0]), np.array([True]), np.array([[1, 2], [3, 4]], "u1"), np.float64(3)]
OTHERS = [np.array([1.5]), np.array([1.0, np.nan]), np.array([np.inf]), np.array([1000]), np.array([1 + 1j])]


@pytest.mark.parametrize("name", ["numpy_int1", "numpy_int2_zstd"])
def test_arrays_of_whole_numbers_are_taken(name: str) -> None:
    if name.endswith("zstd"):
        pytest.importorskip("zstandard")
    serializer = resolve(name)
    for value in WHOLE:
        assert (serializer.loads("k", serializer.dumps("k", value)) == value.ravel()).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_arrays_of_other_numbers_are_refused() -> None:
    for value in OTHERS:
        with pytest.raises(InvalidValueError, match="fractions, NaN or too large"):
            resolve("numpy_int1").dumps("k", value)


def test_what_orjson_makes_of_nan_and_arrays() -> None:
    serializer = resolve("orjson")
    encoded = serializer.dumps("k", [float("nan"), float("inf"), np.arange(2)])
    assert serializer.loads("k", encoded) == [None, None, [0, 1]]
