"""The tables: results, dead letters, claims."""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

Row = dict[str, Any]  # a value for each column, by its name


class Time(sa.TypeDecorator[datetime]):
    """A time with a zone. It is stored in UTC, since SQLite does not store the zone."""

    impl, cache_ok = sa.DateTime(timezone=True), True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


TABLES = sa.MetaData()

RESULTS = sa.Table(
    "results",
    TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("time", Time, nullable=False),
    sa.Column("features", sa.JSON, nullable=False),
    # as text, whatever kind of model it comes from: one index serves numbers and text
    sa.Column("prediction", sa.String(200), nullable=False),
    sa.Column("prediction_is_number", sa.Boolean, nullable=False),
    sa.Column("probabilities", sa.JSON(none_as_null=True)),
    sa.Column("model_version", sa.String(128), nullable=False),
    sa.Column("model_format", sa.String(128), nullable=False),
    sa.Column("preprocess", sa.String(128)),
    sa.Column("timings_ms", sa.JSON, nullable=False),
    sa.Index("results_by_time", "time", "id"),
    sa.Index("results_by_prediction", "prediction", "time", "id"),
    sa.Index("results_by_model", "prediction", "prediction_is_number", "model_version"),
)
# parts of messages that cannot be stored, for a person to look at
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
# which request an Idempotency-Key belongs to, both as SHA-256 digests
CLAIMS = sa.Table(
    "claims",
    TABLES,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("time", Time, nullable=False),
    sa.Index("claims_by_time", "time"),
)
# A row that is inserted and deleted again, to check that results can be stored. No client can send its id.
PROBE_ROW: Row = {
    "id": "/readyz",
    "request_id": "",
    "time": datetime.now(UTC),
    "features": [],
    "prediction": "",
    "prediction_is_number": False,
    "probabilities": None,
    "model_version": "",
    "model_format": "",
    "preprocess": None,
    "timings_ms": {},
}


class OldTables(Exception):
    """The database was made by an older version of this service, with other columns."""

    def __init__(self) -> None:
        super().__init__("its tables are of an older version of storage: set DATABASE_URL to a new, empty database")


def create_tables(connection: sa.Connection) -> None:
    """Create the tables and indexes that are missing. Raises OldTables if `results` has other columns."""
    inspector = sa.inspect(connection)
    if inspector.has_table(RESULTS.name):
        columns = {column["name"] for column in inspector.get_columns(RESULTS.name)}
        if not columns.issuperset(RESULTS.columns.keys()):
            raise OldTables
    try:
        _create(connection)
    except sa.exc.IntegrityError:  # another worker is creating them in PostgreSQL at this moment
        connection.rollback()
        _create(connection)


def _create(connection: sa.Connection) -> None:
    for table in TABLES.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    connection.commit()
