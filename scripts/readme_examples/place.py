"""Where an example takes place, and how it says that something is not as documented.

Owns the list of examples. The invariant: examples share a server and a bucket and nothing else; each has
database keys and machines (empty folders) of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ebooklet_tx as ebooklet

Example = Callable[["Place"], None]
EXAMPLES: list[tuple[str, Example]] = []

_numbers = itertools.count(1)


class Mismatch(Exception):
    """Something is not as it is documented."""


@dataclass
class Place:
    """The surroundings of one example.

    Attributes:
        endpoint: The S3 server's URL.
        bucket: A bucket whose objects can be read by anybody by URL.
        dead_endpoint: A URL at which nobody listens.
        folder: The example's own folder.
    """

    endpoint: str
    bucket: str
    dead_endpoint: str
    folder: Path
    number: int = field(default_factory=lambda: next(_numbers))

    def connection(self, name: str = "db", **changed: Any) -> ebooklet.S3Connection:
        """Returns a connection with credentials to one of the example's databases."""
        arguments = {
            "access_key_id": "readme-key",
            "access_key": "readme-secret",
            "db_key": self.key(name),
            "bucket": self.bucket,
            "endpoint_url": self.endpoint,
        }
        return ebooklet.S3Connection(**arguments | changed)

    def key(self, name: str = "db") -> str:
        """Returns the key of one of the example's databases in the bucket."""
        return f"example-{self.number}-{name}.blt"

    def url(self, name: str = "db") -> str:
        """Returns the public URL of one of the example's databases."""
        return f"{self.endpoint}/{self.bucket}/{self.key(name)}"

    def file(self, machine: str = "") -> Path:
        """Returns the path of a local file: a named machine has one, without a name it is a new machine."""
        folder = self.folder / (machine or f"machine-{next(_numbers)}")
        folder.mkdir(exist_ok=True)
        return folder / "data.blt"

    def pushed(self, values: dict[str, Any], name: str = "db", machine: str = "here", **options: Any) -> Path:
        """Makes a database with these values, pushes it, and returns its local file."""
        path = self.file(machine)
        with ebooklet.open(self.connection(name), path, "n", **{"value_serializer": "orjson"} | options) as db:
            db.update(values)
            expect(bool(db.changes().push()), True, "the push")
        return path

    def seen(self, remote: Any = None) -> dict[str, Any]:
        """Returns what a new machine sees in a remote."""
        with ebooklet.open(self.connection() if remote is None else remote, self.file()) as db:
            return dict(db.items())


def example(what: str) -> Callable[[Example], Example]:
    """Enters a function in the list of examples."""

    def enter(function: Example) -> Example:
        EXAMPLES.append((what, function))
        return function

    return enter


def expect(found: Any, wanted: Any, what: str = "it") -> None:
    """Demands equality, of the types as well where they are plain."""
    if found != wanted or (isinstance(wanted, bool | int | str | bytes) and type(found) is not type(wanted)):
        raise Mismatch(f"{what} is {found!r}, not {wanted!r}")


def hold(condition: object, what: str) -> None:
    """Demands a truth."""
    if not condition:
        raise Mismatch(what)


def refused(kinds: Any, act: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    """Demands an exception of one of these kinds."""
    try:
        result = act(*arguments, **named)
    except kinds:
        return
    if isinstance(result, ebooklet.Database):
        result.close()
    raise Mismatch(f"it was not refused: {result!r} came back")
