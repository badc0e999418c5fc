"""The functions of the package with a store of the test's put below the retries, to count or to fail requests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import ebooklet_tx
from ebooklet_tx.sync.connecting import StoreWrapper, wrapped_stores

R = TypeVar("R")


def with_wrapped_stores(function: Callable[..., R]) -> Callable[..., R]:
    """Returns a function that takes `wrap_store` beside its own arguments."""

    @functools.wraps(function)
    def call(*arguments: Any, wrap_store: StoreWrapper | None = None, **options: Any) -> R:
        with wrapped_stores(wrap_store):
            return function(*arguments, **options)

    return call


open_database: Callable[..., ebooklet_tx.Database] = with_wrapped_stores(ebooklet_tx.open)
open_remote = with_wrapped_stores(ebooklet_tx.RemoteSession)
recover = with_wrapped_stores(ebooklet_tx.recover)
unlock = with_wrapped_stores(ebooklet_tx.unlock)
