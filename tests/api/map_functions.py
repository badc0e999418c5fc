"""What the tests of `map` apply to items: here alone, so that a worker process loads little else."""

from __future__ import annotations

import os
import threading
from typing import Any

import ebooklet_tx


def twice(key: str, value: int) -> tuple[str, int]:
    return key + key, 2 * value


def value_alone(key: str, value: int) -> Any:
    return value


def odd_only(key: str, value: int) -> tuple[str, int] | None:
    return (key, value) if value % 2 else None


def where(key: str, value: Any) -> tuple[str, int]:
    return key, os.getpid()


def failing(key: str, value: int) -> tuple[str, int]:
    raise ArithmeticError(key)


def same(key: str, value: Any) -> tuple[str, Any]:
    return key, value


class TwoWordsError(Exception):
    """Pickle takes it and can't load it again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def raising(key: str, value: Any) -> tuple[str, Any]:
    raise TwoWordsError("no", key)


def leaving(key: str, value: Any) -> tuple[str, Any]:
    raise SystemExit(3)


def dying(key: str, value: Any) -> tuple[str, Any]:
    os._exit(9)


def answering_with_a_lock(key: str, value: Any) -> tuple[str, Any]:
    return key, threading.Lock()


def in_a_clean_process(key: str, value: Any) -> tuple[str, int]:
    return key, len(ebooklet_tx.database.life._open_databases)
