"""Small HTML tables, which notebooks show for reports and changes.

The invariants: every text is escaped, as keys and messages come from other writers; and of a long list only the
first names are shown, so that what a cell shows stays small.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from html import escape
from itertools import islice
from typing import Any

from ebooklet_tx.timestamps import as_datetime

SHOWN_ITEMS = 5
MAX_SHOWN_CHARACTERS = 200

_EMPTY: tuple[object, ...] = ((), [], {})
"""What a table of facts leaves out, as it leaves out None."""


def html_table(title: str, rows: Iterable[tuple[str, ...]], *, heads: tuple[str, ...] = ()) -> str:
    """Returns a table under a title; the first cell of each row names it."""
    lines = [f"<table><caption>{escape(title)}</caption>"]
    if heads:
        lines.append("<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>")
    for name, *cells in rows:
        shown = "".join(f"<td>{escape(_short(cell))}</td>" for cell in cells)
        lines.append(f'<tr><th style="text-align:left">{escape(_short(name))}</th>{shown}</tr>')
    return "\n".join([*lines, "</table>"])


def counted(count: int, one: str, many: str | None = None) -> str:
    """Returns a count with its noun: `1 key`, `1,200 keys`; `many` says it where more than an `s` differs."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


class ShownAsTable:
    """A dataclass that prints in bounded length; notebooks show a table of its fields that are not empty."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{name}={_bounded(value)}" for name, value in _facts(self))
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _repr_html_(self) -> str:
        told = [(name, value) for name, value in _facts(self) if value is not None and value not in _EMPTY]
        rows = [(name.removesuffix("_us"), _in_words(name, value)) for name, value in told]
        return html_table(type(self).__qualname__, rows)


def _facts(record: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(record, field.name)) for field in fields(record) if field.repr]


def _bounded(value: object) -> str:
    if not isinstance(value, list | tuple | dict) or len(value) <= SHOWN_ITEMS:
        return repr(value)
    if isinstance(value, dict):
        first, (opening, closing) = repr(dict(islice(value.items(), SHOWN_ITEMS))), "{}"
    else:
        first, (opening, closing) = repr(list(value[:SHOWN_ITEMS])), "[]" if isinstance(value, list) else "()"
    return f"{opening}{first[1:-1]}, ... and {len(value) - SHOWN_ITEMS:,} more{closing}"


def _in_words(name: str, value: object) -> str:
    """Returns the value of a field for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        moment = as_datetime(value) if name.endswith("_us") else None
        return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment is not None else f"{value:,}"
    if isinstance(value, Mapping):
        return _joined([f"{key}: {one}" for key, one in islice(value.items(), SHOWN_ITEMS)], len(value))
    if isinstance(value, list | tuple):
        return f"{len(value):,}: {_joined([_item(one) for one in value[:SHOWN_ITEMS]], len(value))}"
    return _item(value)


def _item(value: object) -> str:
    """Returns a record in its own words, or a plain value."""
    words = getattr(value, "words", None)
    if callable(words):
        return str(words())
    if is_dataclass(value) and hasattr(value, "key"):
        return str(value.key)
    return str(value)


def _joined(shown: list[str], count: int) -> str:
    more = f", and {count - len(shown):,} more" if count > len(shown) else ""
    return ", ".join(shown) + more


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."


__all__ = ["ShownAsTable", "counted", "html_table"]
