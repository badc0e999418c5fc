"""The alembic environment of the journal.

Owns no state. It runs on the connection that `ebooklet_tx.local.journal.migrate` hands over, inside the
transaction that it began there, so that a migration takes place as a whole or not at all.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.local.journal.tables import metadata


def _run() -> None:
    connection = context.config.attributes.get("connection")
    if not isinstance(connection, Connection):
        raise InvalidArgumentError(
            "these migrations run on one journal, through ebooklet_tx.local.journal.migrate, and not from "
            "alembic's command line; open the database to migrate its journal"
        )
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=False,
        transactional_ddl=False,
    )
    context.run_migrations()


_run()
