"""Objects that belong to one session: they can't be copied or sent to another process.

The invariant: a lock, an open file or a transaction has one owner, and only that owner ends it.
"""

from __future__ import annotations

from typing import NoReturn, SupportsIndex

from ebooklet_tx.errors import InvalidTypeError


class Unshared:
    """Refuses `copy.copy`, `copy.deepcopy` and `pickle.dumps`."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise InvalidTypeError(
            f"a {type(self).__name__} can't be copied or pickled: it belongs to a session, which holds locks and "
            "open files. Give the same one to other threads; in another process open the database again, or let "
            "map(function) send it the items; dict(database) copies what is in it"
        )


__all__ = ["Unshared"]
