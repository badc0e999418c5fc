"""A sink of Ray's datasets: each task writes into a part of a fork, and one push commits all of it.

The invariant: no value passes through Ray's driver. What the tasks hand back are receipts, and of a task that was
tried several times only the one that Ray counts is taken in.

Needs the extra `ray`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ebooklet_tx.connection import RemoteConn
from ebooklet_tx.database import Database
from ebooklet_tx.database.forking import Fork
from ebooklet_tx.errors import InvalidArgumentError, MissingPackageError, SessionClosedError
from ebooklet_tx.sync.forks.merge import MergeResult
from ebooklet_tx.sync.forks.receipt import Receipt
from ebooklet_tx.sync.pull.resolve import Resolver, check_choice

try:
    from ray.data import Datasink as RayDatasink
    from ray.data.block import BlockAccessor
except ImportError as error:
    raise MissingPackageError(
        'ebooklet_tx.ray uses ray with its data, which is not installed; pip install "ebooklet-tx[ray]"'
    ) from error


class Datasink(RayDatasink):  # type: ignore[misc]  # Where Ray is not installed, its class is not known.
    """Takes the rows of a Ray dataset in as pending changes of a database: a key and a value from each.

    `database.changes().push()` then makes one commit of all of it. A write that fails leaves the database as it
    was, and what its tasks sent is deleted by `collect` in its time.

    Args:
        database: An open database, which was pushed; it stays with the driver.
        key: The column that holds the keys.
        value: The column that holds the values.
        on_conflict: What becomes of a key that two tasks set, or that is pending here; see `Database.merge`.
        connection: How the workers reach the database; None for its address, with credentials that boto3 finds
            there. What is given here travels to the workers, credentials included.
        value_serializer: The class, where the database has one of its own.
        ttl_seconds: For how long the work may take; see `Database.fork`.

    Attributes:
        result: What was taken in; None before that.

    Examples:
        ```python
        import ray
        from ebooklet_tx.ray import Datasink

        with ebooklet_tx.open(remote, "gauges.blt", "w") as db:
            rows = ray.data.range(1000).map(lambda row: {"key": f"square {row['id']}", "value": row["id"] ** 2})
            rows.write_datasink(Datasink(db))
            db.changes().push()
        ```
    """

    def __init__(
        self,
        database: Database,
        *,
        key: str = "key",
        value: str = "value",
        on_conflict: str | Resolver = "raise",
        connection: RemoteConn | None = None,
        value_serializer: Any = None,
        ttl_seconds: int = 86_400,
    ) -> None:
        check_choice(on_conflict)
        self.result: MergeResult | None = None
        self._database: Database | None = database
        self._on_conflict: str | Resolver | None = on_conflict
        self._columns = key, value
        self._to_open = connection, value_serializer
        self._ttl_seconds = ttl_seconds
        self._fork: Fork | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A session does not travel, nor does what is asked about conflicts.
        return self.__dict__ | {"_database": None, "_on_conflict": None}

    def on_write_start(self, schema: Any = None) -> None:
        """Makes the fork, in Ray's driver."""
        del schema
        self._fork = self._here().fork(self._ttl_seconds)

    def write(self, blocks: Iterable[Any], ctx: Any) -> Receipt:
        """Writes the rows of a task into a part of the fork, in a worker; returns the receipt.

        Raises:
            InvalidArgumentError: A row has no such columns.
        """
        del ctx
        if self._fork is None:
            raise InvalidArgumentError(
                "no fork was made before this task began; hand the sink to Dataset.write_datasink"
            )
        key, value = self._columns
        connection, value_serializer = self._to_open
        with self._fork.open(connection, value_serializer=value_serializer) as part:
            for block in blocks:
                for row in BlockAccessor.for_block(block).iter_rows(public_row_format=True):
                    try:
                        part[row[key]] = row[value]
                    except KeyError as error:
                        raise InvalidArgumentError(
                            f"a row has the columns {', '.join(map(repr, row))}; {key!r} and {value!r} are "
                            "wanted: name others with Datasink(db, key=, value=)"
                        ) from error
        return part.receipt

    def on_write_complete(self, write_result: Any) -> None:
        """Takes in what the tasks wrote, in Ray's driver.

        Raises:
            ConflictError: Two tasks set the same key; nothing was taken in.
        """
        receipts = [receipt for receipt in write_result.write_returns if receipt]
        self.result = self._here().merge(*receipts, on_conflict=self._on_conflict or "raise")

    def _here(self) -> Database:
        if self._database is None:
            raise SessionClosedError(
                "this sink has travelled to a worker, where there is no database to write to"
            )
        return self._database


__all__ = ["Datasink"]
