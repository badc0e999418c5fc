"""What was asked of a store, as far as messages and the meaning of an answer depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class ErrorFields(TypedDict):
    """The fields that every error about a request carries."""

    object_name: str | None
    operation: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a store.

    Attributes:
        operation: The store's operation.
        location: The store, as messages name it.
        key: The object; empty when the request is about none.
        writes: True when a success changes the store.
        if_match: True when the write is conditional on an ETag.
        if_absent: True when the write is conditional on the object's absence.
    """

    operation: str
    location: str
    key: str = ""
    writes: bool = False
    if_match: bool = False
    if_absent: bool = False

    @property
    def conditional(self) -> bool:
        """True when the write has a condition."""
        return self.if_match or self.if_absent

    @property
    def fields(self) -> ErrorFields:
        """The fields of an error about this request."""
        return {"object_name": self.key or None, "operation": self.operation}

    def describe(self) -> str:
        """Names operation, object and store."""
        return f"{self.operation} of {self.key!r} at {self.location}"
