"""What an import from ebooklet did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ebooklet_tx.html_tables import ShownAsTable

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
            f"source     {self.key_count:,} keys, {self.layout}, serializer {self.serializer or 'none (bytes)'}",
            f"imported   {self.imported_keys:,} keys, {self.imported_bytes:,} bytes, in {self.pushes:,} pushes; "
            f"the target stands at commit {self.seq}",
        ]
        if self.present_keys:
            lines.append(f"there      {self.present_keys:,} keys were in the target already")
        if self.newer_keys:
            lines.append(f"newer      {self.newer_keys:,} keys are newer in the target, and were left so")
        if self.retimed_keys:
            lines.append(f"retimed    {self.retimed_keys:,} keys have another time than ebooklet's index says")
        if self.missing_keys:
            lines.append(f"MISSING    {self.missing_keys:,} keys could not be had:")
            lines += [f"           {key!r}: {why}" for key, why in list(self.missing.items())[:10]]
        if self.verified_keys is not None:
            lines.append(f"verified   {self.verified_keys:,} values are equal, as are their timestamps")
        if self.other_keys:
            lines.append(f"others     {self.other_keys:,} keys of the target are not in the source")
        if self.differing_keys:
            lines.append(f"DIFFERENT  {self.differing_keys:,} keys, among them {list(self.differing[:10])}")
        return "\n".join(lines)


__all__ = ["MAX_LISTED", "ImportReport"]
