"""What is read from a database: single values, many values, views, timestamps and the metadata.

The invariants: a read sees what was written in this session, committed or not, then what is on this machine, then
the remote; every value that is returned was checked against its digest.
"""

from __future__ import annotations

from collections.abc import (
    Generator,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from itertools import chain, islice
from typing import Any, Literal, overload

from ebooklet_tx.database.life import OpenSession
from ebooklet_tx.database.views import ItemsOf, KeysOf, ValuesOf
from ebooklet_tx.errors import (
    Error,
)
from ebooklet_tx.keys import is_text, several, text_of
from ebooklet_tx.progress import ProgressOption, telling, telling_each
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.read.fetch import Found, fetch_many, read_value
from ebooklet_tx.sync.read.load import load_all, load_some
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.read.visible_keys import count_keys, key_pages
from ebooklet_tx.sync.read.whole_index import try_load_index
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.serializers import decode_metadata

PAGE_KEYS = 1000
MAX_PAGE_KEYS = 64_000
"""Keys are looked up a page at a time, the first page small and those behind it larger."""


class ReadableDatabase(OpenSession, Mapping[str, Any]):
    """The reading half of a database."""

    @at_edge
    def __getitem__(self, key: str) -> Any:
        found = self._read_user(key)
        if found is None:
            raise KeyError(key)
        return self._serializer.loads(key, found[1])

    @at_edge
    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, or `default` when there is none.

        Examples:
            >>> db.get("a"), db.get("z"), db.get("z", 0)
            (1, None, 0)
        """
        found = self._read_user(key)
        return default if found is None else self._serializer.loads(key, found[1])

    @at_edge
    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and is_text(key) and self._timestamp_of(key) is not None

    def _read_user(self, key: object) -> tuple[int, bytes] | None:
        """Like `_read`, for a user's key: `""`, the metadata's, counts as missing."""
        return self._read(text) if (text := text_of(key)) else None

    def _read(self, key: str) -> tuple[int, bytes] | None:
        """Returns timestamp and encoded value of a key, uncommitted writes included."""
        session = self._usable()
        with session.mutex:
            overlay = session.local.overlay
            operation = overlay.operations.get(key)
            if operation is not None:
                value, stamp = operation
                return None if value is None else (stamp, value)
            here = session.local.read_here(key)
        if here is not None:
            return here
        found = read_value(reader_of(session), key)
        return None if found is None else (found[0].timestamp_us, found[1])

    def _timestamp_of(self, key: str) -> int | None:
        session = self._usable()
        if not key:
            return None
        with session.mutex:
            overlay = session.local.overlay
            operation = overlay.operations.get(key)
            if operation is not None:
                return None if operation[0] is None else operation[1]
            entry = session.local.entry(key)
        if entry is None or not entry.is_decided:
            entry = reader_of(session).entries([key]).get(key)
        return None if entry is None or entry.digest is None else entry.timestamp_us

    def _committed_timestamps(self, keys: Sequence[str]) -> dict[str, int]:
        """Returns the timestamps that keys in order had at the last commit; missing keys are left out."""
        entries = reader_of(self._usable()).entries(keys, in_order=True) if keys else {}
        return {key: entry.timestamp_us for key, entry in entries.items() if entry.digest is not None}

    @at_edge
    def __len__(self) -> int:
        return count_keys(reader_of(self._usable()))

    def __iter__(self) -> Iterator[str]:
        return self._iter_keys("")

    @at_edge
    def _iter_keys(self, prefix: str) -> Iterator[str]:
        for page in self._key_pages(prefix):
            yield from page

    def _key_pages(self, prefix: str) -> Iterator[list[str]]:
        """Yields visible keys in order, a page at a time, each merged with what is uncommitted.

        Writing while iterating is allowed; a key that is there all the while comes exactly once.
        """
        session = self._usable()
        after = ""
        pages = key_pages(reader_of(session), prefix)
        while True:
            self._usable()
            # Before the page is read and after it: what is committed in between is in one of them.
            before = self._written_behind(after, prefix)
            committed = next(pages, [])
            upto = committed[-1] if committed else None
            page = {key for key in committed if key > after}
            for written in (before, self._written_behind(after, prefix)):
                for key, value in written.items():
                    if upto is not None and key > upto:
                        continue
                    if value is None:
                        page.discard(key)
                    else:
                        page.add(key)
            yield sorted(page)
            if upto is None:
                return
            after = upto

    def _written_behind(self, after: str, prefix: str) -> dict[str, bytes | None]:
        """Returns what uncommitted writes say of keys with a prefix behind one."""
        session = self._usable()
        return session.local.written(prefix, after)

    @at_edge
    def keys(self, prefix: str = "") -> KeysView[str]:
        """Returns a view of the keys in order, all of them or those with a prefix.

        Examples:
            >>> list(db.keys()), list(db.keys(prefix="b")), "a" in db.keys()
            (['a', 'b'], ['b'], True)
        """
        self._usable()
        return KeysOf(self, text_of(prefix))

    @at_edge
    def items(self) -> ItemsView[str, Any]:
        """Returns a view of the pairs in order of key; values that are not here are fetched.

        Examples:
            >>> list(db.items())
            [('a', 1), ('b', 2)]
        """
        self._usable()
        return ItemsOf(self)

    @at_edge
    def values(self) -> ValuesView[Any]:
        """Returns a view of the values in order of key; those that are not here are fetched.

        Examples:
            >>> sum(db.values())
            3
        """
        self._usable()
        return ValuesOf(self)

    @at_edge
    def _iter_items(self) -> Iterator[tuple[str, Any]]:
        for key, value in self._read_many(chain.from_iterable(self._key_pages("")), in_order=True):
            if isinstance(value, Error):
                raise value
            if value is not None:
                yield key, self._serializer.loads(key, value)

    def _read_many(self, keys: Iterable[str], *, in_order: bool = False) -> Iterator[tuple[str, Found]]:
        """Yields what each key has, uncommitted writes included, in the order of the keys.

        `in_order` says that the keys are all of the journal's between the first and the last, in order.
        """
        self._usable()
        for page in _pages(keys):
            yield from self._read_page(page, in_order=in_order)

    def _read_page(self, page: Sequence[str], *, in_order: bool) -> Iterator[tuple[str, Found]]:
        session = self._usable()
        uncommitted = self._uncommitted(page)
        others = [key for key in page if key not in uncommitted]
        committed = fetch_many(reader_of(session), others, in_order=in_order)
        for key in page:
            yield (key, uncommitted[key]) if key in uncommitted else next(committed)

    def _uncommitted(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Returns the values of keys that uncommitted writes decide; `""` counts as missing."""
        session = self._usable()
        return session.local.written_of(keys) | {key: None for key in keys if not key}

    def get_items(
        self, keys: Iterable[str], default: Any = None, *, progress: ProgressOption = None
    ) -> Iterator[tuple[str, Any]]:
        """Yields (key, value) for the keys given, in their order, with `default` for missing ones.

        Values that are not on this machine are fetched together.

        Args:
            keys: The keys.
            default: What a missing one has.
            progress: As in `Change.push`; of each part of some 32 MB that is fetched.

        Examples:
            >>> dict(db.get_items(["b", "z"], default=0))
            {'b': 2, 'z': 0}
        """
        found = self._items_of([text_of(key) for key in several(keys, "get_items")], default)
        return telling_each(progress, found)

    @at_edge
    def _items_of(self, keys: Sequence[str], default: Any) -> Generator[tuple[str, Any], None, None]:
        for key, value in self._read_many(keys):
            if isinstance(value, Error):
                raise value
            yield key, default if value is None else self._serializer.loads(key, value)

    @at_edge
    def load_items(self, keys: Iterable[str] | None = None, *, progress: ProgressOption = None) -> dict[str, str]:
        """Fetches values so that they are on this machine; all of them, or those of some keys.

        With all of them comes the whole index, as by `load_index`, unless a writer beside this session keeps the
        local file: then an offline session has everything. Ctrl-C keeps what has arrived.

        Args:
            keys: The keys; None for all.
            progress: As in `Change.push`.

        Returns:
            The keys whose values could not be fetched, each with the reason.

        Raises:
            ReadOnlyError: The folder of the local file can't be written, so that nothing can be kept.

        Examples:
            >>> db.load_items()  # An empty dict: every value is here now.
            {}
        """
        reader = reader_of(self._usable())
        reader.local.check_keeps()
        with telling(progress):
            if keys is None:
                if not self.offline:
                    try_load_index(reader)
                failures = load_all(reader)
            else:
                wanted = map(text_of, several(keys, "load_items"))
                failures = chain.from_iterable(load_some(reader, page) for page in _pages(wanted))
            found = {key: str(error) for key, error in failures}
        # What was written since then needs no copy of what it replaces.
        for key in self._uncommitted(list(found)):
            if key:
                del found[key]
        return found

    @overload
    def timestamps(self, include_value: Literal[False] = False) -> Iterator[tuple[str, int]]: ...

    @overload
    def timestamps(self, include_value: Literal[True]) -> Iterator[tuple[str, int, Any]]: ...

    @overload
    def timestamps(self, include_value: bool) -> Iterator[tuple[str, int] | tuple[str, int, Any]]: ...

    @at_edge
    def timestamps(self, include_value: bool = False) -> Iterator[tuple[str, int] | tuple[str, int, Any]]:
        """Yields (key, timestamp in microseconds), with the value behind it if asked.

        Examples:
            >>> db.set_timestamp("a", 1_700_000_000_000_000)
            >>> next(db.timestamps()), next(db.timestamps(include_value=True))
            (('a', 1700000000000000), ('a', 1700000000000000, 1))
        """
        if not include_value:
            for key in self:
                stamp = self._timestamp_of(key)
                if stamp is not None:
                    yield key, stamp
            return
        for page in _pages(self):
            session = self._usable()
            journal, version = session.journal, session.journal.version()
            before = self._committed_timestamps(page)
            for key, value in self._read_page(page, in_order=True):
                if isinstance(value, Error):
                    raise value
                self._usable()
                # In this order: what another thread commits in between is seen in the journal's version.
                is_as_before = (
                    key not in session.local.overlay.operations
                    and session.journal is journal
                    and journal.version() == version
                )
                stamp = before.get(key) if is_as_before else self._timestamp_of(key)
                if stamp != before.get(key):
                    # Not committed, or written since its page was read: the value may have another timestamp.
                    found = self._read(key)
                    stamp, value = found or (None, None)
                if stamp is not None and value is not None:
                    yield key, stamp, self._serializer.loads(key, value)

    @at_edge
    def get_timestamp(
        self, key: str, include_value: bool = False, decode_value: bool = True, default: Any = None
    ) -> Any:
        """Returns a key's timestamp in microseconds, or (timestamp, value); `default` when missing.

        Examples:
            >>> db.set_timestamp("a", "2026-01-31T12:00:00+00:00")
            >>> db.get_timestamp("a"), db.get_timestamp("z", default=0)
            (1769860800000000, 0)
        """
        if not include_value:
            stamp = self._timestamp_of(text_of(key))
            return default if stamp is None else stamp
        found = self._read_user(key)
        if found is None:
            return default
        stamp, value = found
        return stamp, self._serializer.loads(key, value) if decode_value else value

    @at_edge
    def get_metadata(self, include_timestamp: bool = False) -> Any:
        """Returns the database's metadata, None when there is none; or (metadata, timestamp).

        Examples:
            >>> db.set_metadata({"owner": "me"})
            >>> db.get_metadata()
            {'owner': 'me'}
        """
        found = self._read(METADATA_KEY)
        if found is None:
            return None
        data = decode_metadata(found[1])
        return (data, found[0]) if include_timestamp else data


def _pages(keys: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(keys)
    page_keys = PAGE_KEYS
    while page := list(islice(remaining, page_keys)):
        yield page
        page_keys = min(page_keys * 4, MAX_PAGE_KEYS)


__all__ = ["ReadableDatabase"]
