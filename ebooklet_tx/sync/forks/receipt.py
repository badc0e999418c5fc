"""Receipts: what a worker hands back, from which its changes can be taken in.

The invariant: a receipt that `check_receipt` returned names objects of its own fork alone, and nothing in it is
larger than what a worker can have written. What those objects say is held to the digests in the receipt.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.errors import InvalidArgumentError, InvalidTypeError, UnsupportedFormatError
from ebooklet_tx.formats.checks import is_hex_128, is_plain_text, short
from ebooklet_tx.formats.fork import is_changes_name
from ebooklet_tx.limits import MAX_CHANGES_BYTES, MAX_CHANGES_OBJECTS, MAX_COUNT
from ebooklet_tx.records import DIGEST_BYTES

RECEIPT_FORMAT = 1

MAX_WORKER_CHARS = 200
"""Of a worker's name."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker changed in a fork: a small record, which may travel by pickle or in any other way.

    The changes themselves lie in the remote, where the receipt names them.

    Attributes:
        fork_id: The fork.
        uuid: The database's identity.
        base_seq: The number of the commit that the fork was made on.
        base_commit_id: That commit's id.
        receipt_id: This receipt's id, 32 hex digits.
        worker: Whose changes they are, for messages.
        objects: The objects that list the changes: name, digest, size in bytes, and rows of each.
        set_count: How many keys were set.
        deleted_count: How many were deleted.
        value_bytes: Encoded bytes of what was set.
        format: The version of this record.

    Examples:
        >>> with db.fork().open(worker="north") as part:
        ...     part["c"] = 3
        >>> part.receipt.worker, part.receipt.set_count, part.receipt.deleted_count
        ('north', 1, 0)
    """

    fork_id: str
    uuid: str
    base_seq: int
    base_commit_id: str
    receipt_id: str
    worker: str
    objects: tuple[tuple[str, bytes, int, int], ...] = ()
    set_count: int = 0
    deleted_count: int = 0
    value_bytes: int = 0
    format: int = RECEIPT_FORMAT

    def __bool__(self) -> bool:
        """Whether anything was changed."""
        return bool(self.objects)


def check_receipt(receipt: object, *, uuid: str) -> Receipt:
    """Returns a receipt of a database, checked as foreign input.

    Raises:
        InvalidTypeError: It is none.
        InvalidArgumentError: It is another database's, or says what no worker can have written.
        UnsupportedFormatError: A newer version made it.
    """
    if not isinstance(receipt, Receipt):
        raise InvalidTypeError(
            f"merge takes the receipts of parts of a fork, and {short(receipt)} is none; give part.receipt, as "
            "it is when the with-block of the part has ended",
            operation="merge",
        )
    if type(receipt.format) is int and receipt.format > RECEIPT_FORMAT:
        raise UnsupportedFormatError(
            f"a receipt is of format {receipt.format}; this version of ebooklet_tx takes up to {RECEIPT_FORMAT}. "
            "Upgrade ebooklet_tx here",
            operation="merge",
        )
    problem = _problem_of(receipt)
    if problem is not None:
        raise InvalidArgumentError(
            f"a receipt can't be taken in: {problem}; nothing was changed", operation="merge"
        )
    if receipt.uuid != uuid:
        raise InvalidArgumentError(
            f"a receipt of the worker {short(receipt.worker)} is of the database {receipt.uuid}, and this one is "
            f"{uuid}; nothing was changed",
            operation="merge",
        )
    return receipt


def _problem_of(receipt: Receipt) -> str | None:
    counts = receipt.base_seq, receipt.set_count, receipt.deleted_count, receipt.value_bytes
    ids = receipt.fork_id, receipt.uuid, receipt.base_commit_id, receipt.receipt_id
    if type(receipt.format) is not int or receipt.format < 1:
        return f"its format is {short(receipt.format)}"
    if not all(map(is_hex_128, ids)):
        return "one of its ids is not 32 hex digits"
    if not all(type(count) is int and 0 <= count <= MAX_COUNT for count in counts) or not receipt.base_seq:
        return "one of its counts is not possible"
    if not is_plain_text(receipt.worker) or len(receipt.worker) > MAX_WORKER_CHARS:
        return "its worker's name is not short printable text"
    if type(receipt.objects) is not tuple or len(receipt.objects) > MAX_CHANGES_OBJECTS:
        return f"it does not list at most {MAX_CHANGES_OBJECTS} objects"
    if not all(map(_is_object, receipt.objects)):
        return "one of the objects that it lists can't be one"
    names = [name for name, *_ in receipt.objects]
    if len(set(names)) != len(names) or not all(name[5:37] == receipt.fork_id for name in names):
        return "it lists an object twice, or one of another fork"
    if sum(rows for *_, rows in receipt.objects) != receipt.set_count + receipt.deleted_count:
        return "its objects have other rows than it counts"
    return None


def _is_object(item: object) -> bool:
    if type(item) is not tuple or len(item) != 4:
        return False
    name, digest, size_bytes, rows = item
    return (
        is_changes_name(name)
        and type(digest) is bytes
        and len(digest) == DIGEST_BYTES
        and type(size_bytes) is int
        and 0 < size_bytes <= MAX_CHANGES_BYTES
        and type(rows) is int
        and 0 < rows <= size_bytes
    )


__all__ = ["RECEIPT_FORMAT", "Receipt", "check_receipt"]
