"""Connections to SQLite or PostgreSQL."""

from sqlite3 import Connection
from typing import Any

import orjson
import sqlalchemy as sa

PATIENCE = 2  # seconds: for a lock of SQLite, for a connection to PostgreSQL, for a connection from the pool


def create_pool(url: str | sa.URL, **options: Any) -> sa.Engine:
    """Return a pool of connections to the database, opened when they are needed. The options are SQLAlchemy's."""
    is_sqlite = sa.make_url(url).get_backend_name() == "sqlite"
    of_sqlite = {"timeout": PATIENCE}
    of_postgresql = {
        "connect_timeout": PATIENCE,
        # A server that is gone without a word is noticed while we send, and while we wait for its answer.
        "tcp_user_timeout": 1000 * PATIENCE,  # milliseconds
        **{"keepalives_idle": PATIENCE, "keepalives_interval": 1, "keepalives_count": 3},
        "options": "-c timezone=UTC",
    }
    engine = sa.create_engine(
        url,
        connect_args=of_sqlite if is_sqlite else of_postgresql,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        pool_pre_ping=not is_sqlite,  # PostgreSQL may have been restarted since the last use
        pool_timeout=PATIENCE,
        **options,
    )
    if is_sqlite:
        sa.event.listen(engine, "connect", set_up_sqlite)
    return engine


def set_up_sqlite(connection: Connection, record: object) -> None:
    connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
    connection.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on disk
    connection.execute("PRAGMA fullfsync = ON")  # on macOS: on the disk itself, not in its cache
