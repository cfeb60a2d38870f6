"""The tables: results, dead letters, claims."""

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable


class Time(sa.TypeDecorator):
    """A time with a zone, which SQLite would lose: it is written as UTC, and read as that."""

    impl, cache_ok = sa.DateTime(timezone=True), True

    def process_bind_param(self, value: datetime, dialect) -> datetime:
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime, dialect) -> datetime:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


TABLES = sa.MetaData()

RESULTS = sa.Table(
    "results",
    TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("time", Time, nullable=False),
    sa.Column("features", sa.JSON, nullable=False),
    sa.Column("prediction", sa.SmallInteger, nullable=False),
    sa.Column("probabilities", sa.JSON, nullable=False),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("model_format", sa.String(128), nullable=False),
    sa.Column("preprocess", sa.String(128)),
    sa.Column("timings_ms", sa.JSON, nullable=False),
    sa.Index("results_by_time", "time", "id"),
    sa.Index("results_by_digit", "prediction", "time", "id"),
    sa.Index("results_by_model", "prediction", "model_version"),
)
# What came through the broker and cannot be stored, for a person to look at
DEAD_LETTERS = sa.Table(
    "dead_letters",
    TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("time", Time, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("dead_letters_by_time", "time", "id"),
)
# Which request has an Idempotency-Key, both as SHA-256 digests
CLAIMS = sa.Table(
    "claims",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("time", Time, nullable=False),
    sa.Index("claims_by_time", "time"),
)
# What nobody can send, to find out whether one could store
TRIAL = {
    **{"id": "/readyz", "request_id": "", "time": datetime.now(UTC), "features": [], "prediction": 0},
    **{"probabilities": [], "model_version": "", "model_format": "", "preprocess": None, "timings_ms": {}},
}


def create_tables(connection: sa.Connection) -> None:
    """Create the tables and their indexes, those that are not there yet."""
    try:
        _create(connection)
    except sa.exc.IntegrityError:  # PostgreSQL, when another worker creates it just now
        connection.rollback()
        _create(connection)


def _create(connection: sa.Connection) -> None:
    for table in TABLES.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    connection.commit()
