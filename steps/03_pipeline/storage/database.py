"""Results on disk, in SQLite or PostgreSQL, with dead letters and claims beside them."""

import logging
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic

import orjson
import sqlalchemy as sa
from prometheus_client import Counter, Histogram
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, TimeoutError

from chassis.errors import RequestError
from chassis.telemetry import SECONDS
from tables import CLAIMS, DEAD_LETTERS, RESULTS, TRIAL, create_tables

PATIENCE = 2  # seconds for a lock of SQLite, for a connection to PostgreSQL, for one from the pool
TRUST = 1  # seconds; what could be written so long ago could be written now
CLAIMED = timedelta(days=1)  # so long a claim is kept

STORED = Counter("stored_results", "Results stored; those that were there already do not count")
COMMIT = Histogram("commit_seconds", "How long it took to have the results of a commit on disk", buckets=SECONDS)
COMMIT_RESULTS = Histogram("commit_results", "Results in a commit", buckets=[1, 2, 4, 8, 16, 32, 64, 256, 1024])
BURIED = Counter("dead_letters", "What came through the broker and was no result")


class AlreadyClaimed(Exception):
    """A claim's key is another request's."""


class Database:
    """Results on disk. While it cannot be used, each method is RequestError with 503; the next call tries again.

    All methods wait for the disk, so none is for an event loop.
    """

    def __init__(self, url: str | sa.URL):
        # However many read, there is a connection to write with.
        self._readers, self._writer = create_pool(url), create_pool(url, pool_size=1, max_overflow=0)
        self._insert, self._bury, self._claim = map(self._insert_new, (RESULTS, DEAD_LETTERS, CLAIMS))
        self._has_tables, self._problem, self._trusted_until = False, None, 0.0

    def _insert_new(self, table: sa.Table) -> sa.Insert:
        """The SQL that inserts rows, but those whose key is there already."""
        statement = {"sqlite": sqlite, "postgresql": postgresql}[self._writer.name].insert(table)
        statement = statement.on_conflict_do_nothing(index_elements=list(table.primary_key))
        return statement.execution_options(preserve_rowcount=True)

    def insert(self, rows: list[dict]) -> None:
        """Commit rows, but those whose id is there already. With no rows, find out whether it could."""
        if not rows:
            return self._try_to_insert()
        # Two writers that insert the same ids in different orders would wait for each other for ever.
        rows = sorted(rows, key=lambda row: row["id"])
        with self._connection(self._writer) as connection, COMMIT.time():
            stored = connection.execute(self._insert, rows).rowcount
            connection.commit()
        STORED.inc(stored)
        COMMIT_RESULTS.observe(len(rows))
        if stored:  # else nothing had to be written
            self._trusted_until = monotonic() + TRUST

    def _try_to_insert(self) -> None:
        if monotonic() < self._trusted_until:
            return  # many ask, and each trial waits for the disk
        with self._connection(self._writer) as connection:
            # Only to write shows whether the disk is full. Nobody else sees this row.
            connection.execute(self._insert, TRIAL)
            connection.execute(RESULTS.delete().where(RESULTS.c.id == TRIAL["id"]))
            connection.commit()
        self._trusted_until = monotonic() + TRUST

    def newest(self, limit: int, before: str | None = None, digit: int | None = None) -> tuple[list[dict], str | None]:
        """Return a page of up to `limit` rows, newest first, and the `before` of the next page, None after the last.

        The page begins after the row with the id `before`. RequestError with 422 if there is no such row.
        """
        query = sa.select(RESULTS) if digit is None else sa.select(RESULTS).where(RESULTS.c.prediction == digit)
        return self._page(query, RESULTS, "result", limit, before)

    def dead_letters(self, limit: int, before: str | None = None, shown: int = 1000) -> tuple[list[dict], str | None]:
        """The same of dead letters, with the `size` of each body, but no more than `shown` bytes of it."""
        *columns, body = DEAD_LETTERS.c
        start = sa.func.substr(body, 1, shown, type_=body.type).label("body")
        query = sa.select(*columns, sa.func.length(body).label("size"), start)
        return self._page(query, DEAD_LETTERS, "dead letter", limit, before)

    def _page(self, query: sa.Select, table: sa.Table, name: str, limit: int, before: str | None):
        # Rows may have the same time. With the id, each has its place, which no later row changes.
        place = sa.tuple_(table.c.time, table.c.id)
        query = query.order_by(table.c.time.desc(), table.c.id.desc()).limit(limit + 1)
        with self._connection(self._readers) as connection:
            if before is not None:
                last = connection.execute(sa.select(table.c.time).where(table.c.id == before)).first()
                if not last:
                    raise RequestError(422, f"before: there is no {name} with the id {before}")
                query = query.where(place < sa.tuple_(last.time, before))
            rows = [row._asdict() for row in connection.execute(query)]
        return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else None

    def count(self) -> list[tuple[int, str, int]]:
        """Return (digit, model version, number of results) for each of these pairs."""
        pair = RESULTS.c.prediction, RESULTS.c.model_version
        with self._connection(self._readers) as connection:
            return [tuple(row) for row in connection.execute(sa.select(*pair, sa.func.count()).group_by(*pair))]

    def bury(self, letters: list[dict]) -> None:
        """Commit dead letters, but those whose id is there already."""
        letters = sorted(letters, key=lambda letter: letter["id"])  # as above
        with self._connection(self._writer) as connection:
            buried = connection.execute(self._bury, letters).rowcount
            connection.commit()
        BURIED.inc(buried)

    def claim(self, claims: list[dict]) -> None:
        """Commit claims: in each, a `key` that is from now on that of a `request`. They are kept for a day.

        Raises AlreadyClaimed, and commits none, if one of the keys is another request's.
        """
        now = datetime.now(UTC)
        claims = sorted(({**claim, "time": now} for claim in claims), key=lambda claim: claim["key"])
        keys = [claim["key"] for claim in claims]
        with self._connection(self._writer) as connection:
            connection.execute(CLAIMS.delete().where(CLAIMS.c.time < now - CLAIMED))
            connection.execute(self._claim, claims)
            query = sa.select(CLAIMS.c.key, CLAIMS.c.request).where(CLAIMS.c.key.in_(keys))
            owners = {row.key: row.request for row in connection.execute(query)}
            if any(owners[claim["key"]] != claim["request"] for claim in claims):
                raise AlreadyClaimed
            connection.commit()

    def close(self) -> None:
        self._readers.dispose()
        self._writer.dispose()

    @contextmanager
    def _connection(self, pool: sa.Engine):
        try:
            with pool.connect() as connection:
                if not self._has_tables:
                    create_tables(connection)
                    self._has_tables = True
                yield connection
        except DataError:
            raise  # the fault of a row
        except TimeoutError as error:  # the pool's own, which says nothing of the database
            raise RequestError(
                503, "all connections to the database are busy: try again later", Retry_After="1"
            ) from error
        except DBAPIError as error:
            self._has_tables, self._trusted_until = False, 0.0  # it may be another database that comes back
            self.close()  # what is open; the next call opens it anew
            raise self._refused(error.orig) from error
        if self._problem:
            self._problem = None
            logging.warning("the database can be used again")

    def _refused(self, cause: Exception) -> RequestError:
        """Say what clients may know. The log has the rest, once."""
        if self._writer.name == "sqlite":
            problem = str(cause)
        else:
            problem = f"PostgreSQL error {cause.sqlstate}" if cause.sqlstate else "no connection to PostgreSQL"
        if problem != self._problem:
            self._problem = problem
            logging.error("the database cannot be used: %s", cause)
        return RequestError(503, f"the database cannot be used ({problem}): try again later", Retry_After="1")


def create_pool(url: str | sa.URL, **options) -> sa.Engine:
    """Return a pool of connections to the database, none of which is open yet. The options are SQLAlchemy's."""
    is_sqlite = sa.make_url(url).get_backend_name() == "sqlite"
    of_sqlite = {"timeout": PATIENCE}
    of_postgresql = {
        "connect_timeout": PATIENCE,
        "tcp_user_timeout": 1000 * PATIENCE,  # a server that is gone without a word
        "options": "-c timezone=UTC",
    }
    engine = sa.create_engine(
        url,
        connect_args=of_sqlite if is_sqlite else of_postgresql,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        pool_pre_ping=not is_sqlite,  # PostgreSQL may have been restarted meanwhile
        pool_timeout=PATIENCE,
        **options,
    )
    if is_sqlite:

        @sa.event.listens_for(engine, "connect")
        def set_up(connection, record):
            connection.execute("PRAGMA journal_mode = WAL")  # who reads does not wait for who writes
            connection.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on disk
            connection.execute("PRAGMA fullfsync = ON")  # on macOS, a sync ends in the disk's cache otherwise

    return engine
