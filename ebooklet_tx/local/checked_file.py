"""The file that Booklet is given to write to: ours, and checked.

Booklet takes a path or an `io.BytesIO`. Given a path it locks and opens the file itself, writes
without looking at how much was taken (so a full disk passes unseen), and marks and unlocks the
file when a forked child ends. Given this class, which is the BytesIO that it accepts, every byte
goes through `os.pwrite` in full or raises. Booklet follows the pointers in the file without a look at
where they lead, so what it writes into the part that was there before is checked first, and what it reads
without an end is cut off.

Booklet reads and writes six bytes here and nineteen there, several times for each key. So the pages that
it touches are kept, and written at `flush()`; what is larger than a page goes straight through.

Owns the position of one Booklet instance in one descriptor, and the pages not yet written. The invariants:
what is read is what was written, flushed or not; once `sink()` was called, or in any process but the one that
made it, nothing is written any more.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class EndlessChainError(Exception):
    """Booklet follows a chain that has no end."""


PAGE_BYTES = 4096
KEPT_PAGES = 8192


class CheckedFile(io.BytesIO):
    """A seat for Booklet on a descriptor that somebody else owns, locks and closes."""

    def __init__(
        self, fd: int, *, check_write: Callable[[int, int], None] | None = None, max_reads: int | None = None
    ) -> None:
        """Takes a seat; nobody else may change the file while it is taken.

        Args:
            fd: The descriptor.
            check_write: Called with offset and length before each write; raises to refuse it.
            max_reads: How many reads one operation of Booklet may take that writes nothing.
        """
        super().__init__()
        self._check_write = check_write
        self._max_reads = max_reads
        self._reads = 0
        self._fd = fd
        self._position = 0
        self._end = os.fstat(fd).st_size
        self._pages: dict[int, bytearray] = {}
        self._changed: dict[int, tuple[int, int]] = {}
        self._pid = os.getpid()
        self._sunk = False

    def sink(self) -> None:
        """From here on reads are empty and writes go nowhere, so that Booklet can be let go of."""
        self._sunk = True
        self._pages.clear()
        self._changed.clear()

    def next_operation(self) -> None:
        """Begins to count reads anew."""
        self._reads = 0

    def fileno(self) -> int:
        """Refuses: with the descriptor Booklet would unlock the file behind its owner's back."""
        raise io.UnsupportedOperation("the descriptor belongs to the session that opened the file")

    def seek(self, position: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END:
            position += 0 if self._sunk else self._end
        elif whence == os.SEEK_CUR:
            position += self._position
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        if self._sunk:
            return b""
        self._reads += 1
        if self._max_reads is not None and self._reads > self._max_reads:
            raise EndlessChainError("a chain of the hash index runs in a circle")
        position = self._position
        left = max(0, self._end - position)
        size = left if size is None or size < 0 or size > left else size
        self._position = position + size
        at = position % PAGE_BYTES
        if at + size <= PAGE_BYTES:
            return bytes(self._page(position // PAGE_BYTES)[at : at + size])
        if size > PAGE_BYTES:
            self.flush()
            return os.pread(self._fd, size, position)
        first = self._page(position // PAGE_BYTES)[at:]
        return bytes(first + self._page(position // PAGE_BYTES + 1)[: size - len(first)])

    def write(self, data: object, /) -> int:
        # Released before returning or raising: Booklet clears the bytearray that it gave.
        with memoryview(data) as view:  # type: ignore[arg-type]
            if self._sunk or os.getpid() != self._pid:
                return len(view)
            position, size = self._position, len(view)
            if self._check_write is not None:
                self._check_write(position, size)
            self._reads = 0
            if size > PAGE_BYTES:
                self._write_through(position, view)
            else:
                self._write_pages(position, view)
            self._position = position + size
            self._end = max(self._end, self._position)
            return size

    def flush(self) -> None:
        """Writes the changed pages to the file; durability is the owner's fsync.

        Raises:
            OSError: The file system took no more. What was written before stays written.
        """
        if self._sunk or os.getpid() != self._pid:
            return
        for number, (start, end) in sorted(self._changed.items()):
            # Not the whole page: the guard may have been put into it since it was read.
            with memoryview(self._pages[number]) as page, page[start:end] as part:
                write_all(self._fd, part, number * PAGE_BYTES + start)
        self._changed.clear()

    def close(self) -> None:
        """Lets go of the seat only; the descriptor stays its owner's."""
        self.sink()

    def _page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= KEPT_PAGES:
                self.flush()
                self._pages.clear()
            page = bytearray(os.pread(self._fd, PAGE_BYTES, number * PAGE_BYTES))
            # Behind the end of the file there is nothing yet; a write may make something.
            page.extend(bytes(PAGE_BYTES - len(page)))
            self._pages[number] = page
        return page

    def _write_pages(self, position: int, view: memoryview) -> None:
        """Writes at most a page's length into one or two kept pages."""
        number, at = divmod(position, PAGE_BYTES)
        room = PAGE_BYTES - at
        self._change(number, at, view[:room])
        if len(view) > room:
            self._change(number + 1, 0, view[room:])

    def _change(self, number: int, at: int, part: memoryview) -> None:
        end = at + len(part)
        self._page(number)[at:end] = part
        old = self._changed.get(number)
        self._changed[number] = (at, end) if old is None else (min(at, old[0]), max(end, old[1]))

    def _write_through(self, position: int, view: memoryview) -> None:
        self.flush()
        write_all(self._fd, view, position)
        for number in range(position // PAGE_BYTES, (position + len(view)) // PAGE_BYTES + 1):
            self._pages.pop(number, None)


def write_all(fd: int, data: memoryview | bytes, offset_bytes: int) -> None:
    """Writes every byte at an offset, however many calls that takes.

    Raises:
        OSError: The file system took no more; what was written before stays written.
    """
    done = 0
    with memoryview(data) as view:
        while done < len(view):
            with view[done:] as rest:
                done += os.pwrite(fd, rest, offset_bytes + done)


def fsync_folder(path: str | os.PathLike[str]) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
