"""The kinds of serializer for which the mapping protocol is tested, and values that each of them takes."""

from __future__ import annotations

import json
from typing import Any


class HexJson:
    """A serializer of a user's own."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True).encode().hex().encode()

    @staticmethod
    def loads(encoded: bytes) -> Any:
        return json.loads(bytes.fromhex(encoded.decode()))


SERIALIZERS: dict[str, Any] = {"pickle": "pickle", "orjson": "orjson", "bytes": None, "class": HexJson}
KINDS = list(SERIALIZERS)


def valued(kind: str, number: int) -> Any:
    """A hashable value that the serializer takes; other numbers give other values."""
    return b"%d" % number if kind == "bytes" else number


def content_of(kind: str) -> dict[str, Any]:
    return {key: valued(kind, number) for number, key in enumerate(["b", "a", "d", "c"])}
