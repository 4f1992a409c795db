"""The tables of an SQL ledger, and how one of an older version becomes one of today's.

Each migration is plain DDL that SQLite and PostgreSQL both take, run in one transaction with the note of its version.
Alembic would be a second heavy dependency and a second configuration for what is a list of statements here.
Times are microseconds since 1970, source ids a JSON array, states the words of ``BatchState``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Column, MetaData, Table, Text, inspect, select, text

from annolab_async.errors import LedgerError

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = [
    "METADATA",
    "VERSION",
    "batches",
    "is_current",
    "leases",
    "migrate",
    "runs",
    "transitions",
]

# For statements; what else holds of the columns, such as which are never null, the migrations say.
METADATA: Final = MetaData()

schema: Final = Table("annolab_schema", METADATA, Column("schema_version", BigInteger))

runs: Final = Table(
    "annolab_runs",
    METADATA,
    Column("id", BigInteger, primary_key=True),
    Column("name", Text),
    Column("fingerprint", Text),
    Column("details", Text),
    Column("created_at", BigInteger),
    Column("planned_batches", BigInteger),
    Column("next_split_number", BigInteger),
)

batches: Final = Table(
    "annolab_batches",
    METADATA,
    Column("run_id", BigInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("state", Text),
    Column("version", BigInteger),
    Column("inference_job_id", BigInteger),
    Column("attempts", BigInteger),
    Column("status", Text),
    Column("error", Text),
    Column("owner", Text),
    Column("parent", BigInteger),
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
    Column("sent_at", BigInteger),
    Column("submitted_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("source_count", BigInteger),
    Column("source_ids", Text),
)

transitions: Final = Table(
    "annolab_transitions",
    METADATA,
    Column("run_id", BigInteger, primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("change_id", Text),
    Column("previous", Text),
    Column("state", Text),
    Column("owner", Text),
    Column("inference_job_id", BigInteger),
    Column("status", Text),
    Column("error", Text),
    Column("at", BigInteger),
    Column("uncertainty", BigInteger),
)

leases: Final = Table(
    "annolab_leases",
    METADATA,
    Column("run_id", BigInteger, primary_key=True),
    Column("owner", Text, primary_key=True),
    Column("expires_at", BigInteger),
)

# What is written here is never edited: databases out there were made by it.
_MIGRATIONS: Final[list[tuple[str, ...]]] = [
    (
        """
        CREATE TABLE annolab_runs (
            id BIGINT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            fingerprint TEXT NOT NULL,
            details TEXT NOT NULL,
            created_at BIGINT NOT NULL,
            planned_batches BIGINT,
            next_split_number BIGINT NOT NULL
        )
        """,
        """
        CREATE TABLE annolab_batches (
            run_id BIGINT NOT NULL REFERENCES annolab_runs (id),
            number BIGINT NOT NULL,
            state TEXT NOT NULL,
            version BIGINT NOT NULL,
            inference_job_id BIGINT,
            attempts BIGINT NOT NULL,
            status TEXT,
            error TEXT,
            owner TEXT,
            parent BIGINT,
            created_at BIGINT NOT NULL,
            updated_at BIGINT NOT NULL,
            sent_at BIGINT,
            submitted_at BIGINT,
            ended_at BIGINT,
            source_count BIGINT NOT NULL,
            source_ids TEXT NOT NULL,
            PRIMARY KEY (run_id, number)
        )
        """,
        # For pages, which ask for the lowest numbers in a state, and counts, which read nothing else.
        """
        CREATE INDEX annolab_batches_by_state
            ON annolab_batches (run_id, state, number, source_count)
        """,
        # For claims: whatever else has become of a run, what is left to claim begins here.
        """
        CREATE INDEX annolab_batches_to_claim
            ON annolab_batches (run_id, number) WHERE state = 'planned'
        """,
        """
        CREATE TABLE annolab_transitions (
            run_id BIGINT NOT NULL,
            number BIGINT NOT NULL,
            version BIGINT NOT NULL,
            change_id TEXT NOT NULL,
            previous TEXT NOT NULL,
            state TEXT NOT NULL,
            owner TEXT NOT NULL,
            inference_job_id BIGINT,
            status TEXT,
            error TEXT,
            at BIGINT NOT NULL,
            PRIMARY KEY (run_id, number, version)
        )
        """,
        """
        CREATE TABLE annolab_leases (
            run_id BIGINT NOT NULL,
            owner TEXT NOT NULL,
            expires_at BIGINT NOT NULL,
            PRIMARY KEY (run_id, owner)
        )
        """,
    ),
    # In microseconds.
    ("ALTER TABLE annolab_transitions ADD COLUMN uncertainty BIGINT",),
]

VERSION: Final = len(_MIGRATIONS)


def migrate(connection: Connection, where: str) -> None:
    """Bring the tables to today's version, in the transaction that is under way.

    Args:
        connection: in a transaction that no other ledger's migration can be in at the same time.
        where: the ledger's name in errors.

    Raises:
        LedgerError: the tables are of a newer version, or of no version.
    """
    version, today = _version(connection, where), len(_MIGRATIONS)
    if version == 0:
        connection.execute(
            text("CREATE TABLE annolab_schema (schema_version BIGINT NOT NULL PRIMARY KEY)")
        )
        connection.execute(schema.insert().values(schema_version=today))
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(text(statement))
    # Also when nothing has changed: whether it can be written must show now, not once batches are sent.
    connection.execute(schema.update().values(schema_version=today))


def is_current(connection: Connection, where: str) -> bool:
    """Return whether the tables are of today's version, and not of an older one. Nothing is changed.

    Args:
        connection: in a transaction.
        where: the ledger's name in errors.

    Raises:
        LedgerError: there are none, or they are of a newer version, or of no version.
    """
    version = _version(connection, where)
    if version == 0:
        raise LedgerError(
            where=where,
            what="it holds no ledger",
            hint="Check the path or URL; nothing in it was changed.",
        )
    return version == len(_MIGRATIONS)


def _version(connection: Connection, where: str) -> int:
    tables = inspect(connection).get_table_names()
    if schema.name not in tables:
        if strangers := [name for name in tables if name in METADATA.tables]:
            raise LedgerError(
                where=where,
                what=f"it has a table {strangers[0]}, but no note of a schema version",
                hint="Restore it from a copy, or use another database.",
            )
        return 0
    versions = connection.scalars(select(schema.c.schema_version)).all()
    if len(versions) != 1:
        raise LedgerError(
            where=where,
            what=f"it has {len(versions)} notes of a schema version",
            hint="Restore it from a copy, or use another database.",
        )
    version = int(versions[0])
    if version > len(_MIGRATIONS):
        raise LedgerError(
            where=where,
            what=f"it was written by a newer annolab-async (schema version {version}, "
            f"and this one knows {len(_MIGRATIONS)})",
            hint="Upgrade annolab-async here.",
        )
    return version
