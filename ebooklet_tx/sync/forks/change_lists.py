"""The lists of changes that receipts name, held as they were read: in memory, past a bound in a temporary file.

The invariant: each is what its receipt says, by digest when it comes, by its rows whenever they are gone through.
Rows are decoded by the page, so that a merge of any size takes the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from ebooklet_tx.errors import ObjectMissingError, RemoteIntegrityError, RemoteMissingError
from ebooklet_tx.formats.fork import ChangedRow, decode_changes
from ebooklet_tx.formats.object_names import pack_prefix_of
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.forks.receipt import Receipt
from ebooklet_tx.sync.forks.spill import SPILL_BYTES, Held, Spill
from ebooklet_tx.sync.in_flight import side_by_side
from ebooklet_tx.sync.remote import Remote


class ChangeLists:
    """Reads what receipts name, and gives the rows of each as often as they are wanted; close it."""

    def __init__(self, spill_bytes: int = SPILL_BYTES) -> None:
        self._spill = Spill(spill_bytes)
        self._held: dict[str, Held] = {}

    def read(self, remote: Remote, receipts: Sequence[Receipt]) -> None:
        """Reads what some receipts name and is not here yet, several objects at once.

        Raises:
            RemoteMissingError: An object is gone: the fork has expired.
            RemoteIntegrityError: One is not what its receipt says.
            OfflineError: The store can't be reached.
        """
        tasks = [(receipt, item) for receipt in receipts for item in receipt.objects if item[0] not in self._held]
        if not tasks:
            return

        def fetch(task: tuple[Receipt, tuple[str, bytes, int, int]]) -> bytes:
            return _fetched(remote, *task)

        sizes, rows = [item[2] for _, item in tasks], [item[3] for _, item in tasks]
        with remote.reporter.phase("merge", keys_total=sum(rows), bytes_total=sum(sizes)) as phase:
            objects = side_by_side(
                tasks, fetch, size_bytes=lambda task: task[1][2], threads=remote.threads, phase=phase
            )
            with closing(objects):
                for (_, (name, _, size_bytes, count)), data in objects:
                    self._held[name] = self._spill.put(data)
                    phase.advance(count, size_bytes)

    def pages(self, receipt: Receipt) -> Iterator[list[ChangedRow]]:
        """Yields the rows of a receipt that was read, in the order of their keys.

        Raises:
            RemoteIntegrityError: They are not what the receipt says; what was yielded before is sound by itself.
        """
        prefix, last = pack_prefix_of(receipt.fork_id), ""
        for name, _, _, count in receipt.objects:
            found = 0
            for page in decode_changes(self._spill.read(self._held[name]), name=name):
                found += len(page)
                if page[0].row.key <= last:
                    raise _damaged(receipt, name, "its keys do not follow those of the object before it")
                if any(row.ref is not None and not row.ref.name.startswith(prefix) for row in page):
                    raise _damaged(receipt, name, "it names a pack that is none of the fork's")
                last = page[-1].row.key
                yield page
            if found != count:
                raise _damaged(receipt, name, "it has another number of rows than the receipt says")

    def close(self) -> None:
        """Lets go of what was read."""
        self._held.clear()
        self._spill.close()


def _fetched(remote: Remote, receipt: Receipt, item: tuple[str, bytes, int, int]) -> bytes:
    name, digest, size_bytes, _ = item
    try:
        data = remote.store.get_range(remote.names.object(name), 0, size_bytes)
    except ObjectMissingError as error:
        raise RemoteMissingError(
            f"the changes of the worker {receipt.worker} are gone from {remote.root_place}: the fork "
            f"{receipt.fork_id} has expired; run that work again on a new fork. Nothing was merged",
            object_name=remote.names.object(name),
            operation="merge",
        ) from error
    if digest_of(data) != digest:
        raise _damaged(receipt, name, "its digest is not the receipt's")
    return data


def _damaged(receipt: Receipt, name: str, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"the changes of the worker {receipt.worker} in {name} can't be taken in: {problem}; nothing was merged. "
        "Run that work again",
        operation="merge",
    )


__all__ = ["ChangeLists"]
