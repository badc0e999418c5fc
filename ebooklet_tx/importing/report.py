"""What an import from ebooklet did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ebooklet_tx.html_tables import ShownAsTable, counted

MAX_LISTED = 1000
"""How many keys a report names of each kind; all of them are counted."""


@dataclass(frozen=True, slots=True, repr=False)
class ImportReport(ShownAsTable):
    """What an import from ebooklet did; true when all of the source is in the target.

    Attributes:
        layout: How the source lies there: `per_key_0_5`, `per_key` or `grouped`.
        serializer: Booklet's name of the serializer of the values; "custom" for a class.
        key_count: How many keys the source has.
        imported_keys: How many of them were written to the target now.
        imported_bytes: The encoded bytes of their values.
        present_keys: How many the target had already, with the same timestamp.
        newer_keys: How many the target has with a newer timestamp; they were left as they are.
        retimed_keys: How many came with another timestamp than ebooklet's index has, as a push of ebooklet's that
            was cut short leaves them. The value's own timestamp was taken.
        missing_keys: How many could not be had, because their objects are missing or damaged.
        missing: Why, for the first thousand of them.
        pushes: How many commits were made.
        seq: The number of the target's newest commit.
        verified_keys: How many values were read back and found equal; None where that was not asked for.
        differing: The first thousand keys that were found to differ.
        differing_keys: How many differ.
        other_keys: How many keys the target has that the source does not; None where nothing was verified.
    """

    layout: str
    serializer: str | None
    key_count: int
    imported_keys: int
    imported_bytes: int
    present_keys: int
    newer_keys: int
    retimed_keys: int
    missing_keys: int
    missing: Mapping[str, str]
    pushes: int
    seq: int
    verified_keys: int | None = None
    differing: tuple[str, ...] = ()
    differing_keys: int = 0
    other_keys: int | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is missing, and nothing was found to differ."""
        return not self.missing_keys and not self.differing_keys

    def __bool__(self) -> bool:
        return self.sound

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return {**asdict(self), "differing": list(self.differing), "sound": self.sound}

    def words(self) -> str:
        """Returns the same in words, a line for each fact."""
        lines = [
            f"source     {counted(self.key_count, 'key')}, {self.layout}, "
            f"serializer {self.serializer or 'none (bytes)'}",
            f"imported   {counted(self.imported_keys, 'key')}, {self.imported_bytes:,} bytes, in "
            f"{counted(self.pushes, 'push', 'pushes')}; "
            f"the target stands at commit {self.seq}",
        ]
        if self.present_keys:
            lines.append(f"there      {counted(self.present_keys, 'key was', 'keys were')} in the target already")
        if self.newer_keys:
            lines.append(f"newer      {counted(self.newer_keys, 'key')} newer in the target, left so")
        if self.retimed_keys:
            retimed = counted(self.retimed_keys, "key has", "keys have")
            lines.append(f"retimed    {retimed} another time than ebooklet's index says")
        if self.missing_keys:
            lines.append(f"MISSING    {counted(self.missing_keys, 'key')} could not be had:")
            lines += [f"           {key!r}: {why}" for key, why in list(self.missing.items())[:10]]
        if self.verified_keys is not None:
            verified = counted(self.verified_keys, "value is", "values are")
            lines.append(f"verified   {verified} equal, and so are the timestamps")
        if self.other_keys:
            lines.append(f"others     {counted(self.other_keys, 'key')} of the target not in the source")
        if self.differing_keys:
            lines.append(f"DIFFERENT  {counted(self.differing_keys, 'key')}, such as {list(self.differing[:10])}")
        return "\n".join(lines)


__all__ = ["MAX_LISTED", "ImportReport"]
