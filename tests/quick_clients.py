"""Makes S3 clients in half the time: botocore works out the same for each, and here it does so once.

Owns memories of pure functions and of tables that nobody changes, for the life of the process. Where botocore
has no such function any more, nothing is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from botocore import client, endpoint_provider, hooks

from ebooklet_tx.connection import S3Connection
from ebooklet_tx.stores.s3 import sender


def remember() -> None:
    """Lets botocore remember aliases of events, which handlers take keywords, a service's rules and methods."""
    aliaser = getattr(hooks, "EventAliaser", None)
    if hasattr(aliaser, "_alias_event_name"):
        aliaser._alias_event_name = _aliases_once(aliaser._alias_event_name)
    if hasattr(hooks, "accepts_kwargs"):
        hooks.accepts_kwargs = _inspected_once(hooks.accepts_kwargs)
    if hasattr(endpoint_provider, "RuleSet"):
        endpoint_provider.RuleSet = _read_once(endpoint_provider.RuleSet)
    creator = getattr(client, "ClientCreator", None)
    if hasattr(creator, "_create_methods"):
        creator._create_methods = _methods_once(creator._create_methods)


def _aliases_once(work_out: Callable[[Any, str], str]) -> Callable[[Any, str], str]:
    found: dict[str, str] = {}

    def alias(self: Any, event_name: str) -> str:
        if event_name not in found:
            found[event_name] = work_out(self, event_name)
        return found[event_name]

    return alias


def _inspected_once(inspect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    found: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def accepts(handler: Any) -> Any:
        # A bound method is another object each time, and its function stays.
        plain = getattr(handler, "__func__", handler)
        if plain not in found:
            found[plain] = inspect(handler)
        return found[plain]

    return accepts


def _read_once(read: Callable[..., Any]) -> Callable[..., Any]:
    # Our loader gives the same lists each time; they are kept, so that no others get their ids.
    found: dict[int, tuple[Any, Any]] = {}

    def rules(**described: Any) -> Any:
        known = found.get(id(described["rules"]))
        if known is None:
            known = found[id(described["rules"])] = (described["rules"], read(**described))
        return known[1]

    return rules


def _methods_once(create: Callable[[Any, Any], dict[str, Any]]) -> Callable[[Any, Any], dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def methods(self: Any, service_model: Any) -> dict[str, Any]:
        name = service_model.service_name
        if name not in found:
            found[name] = create(self, service_model)
        return dict(found[name])

    return methods


class SharedClients:
    """One client for all stores that are made of connections to one place; a client that was closed opens again.

    For stores whose clients nothing is changed of, nor listens to: each of them would be asked by all.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Gives their clients to the stores that are made within the block."""
        genuine = sender.make_client

        def make(connection: S3Connection) -> tuple[Any, Any]:
            place = dataclasses.astuple(dataclasses.replace(connection, bucket="any", db_key="any"))
            if place not in self._made:
                self._made[place] = genuine(connection)
            return self._made[place]

        with mock.patch.object(sender, "make_client", make):
            yield

    def close(self) -> None:
        """Closes the connections of them all."""
        for shared, _ in self._made.values():
            shared.close()
