"""Results on disk, in SQLite or PostgreSQL, with dead letters and claims beside them."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

import sqlalchemy as sa
from prometheus_client import Counter, Histogram
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, TimeoutError

from chassis.errors import RequestError
from chassis.telemetry import SECONDS
from pools import create_pool
from tables import CLAIMS, DEAD_LETTERS, PROBE_ROW, RESULTS, OldTables, Row, create_tables

PROBE_SECONDS = 1  # after a successful write, the database counts as writable for that time
CLAIM_AGE = timedelta(days=1)  # older claims are deleted

STORED = Counter("stored_results", "Results stored; a result that was stored before does not count")
COMMIT = Histogram("commit_seconds", "How long it took to have the results of a commit on disk", buckets=SECONDS)
COMMIT_RESULTS = Histogram("commit_results", "Results in a commit", buckets=[1, 2, 4, 8, 16, 32, 64, 256, 1024])
NEW_DEAD_LETTERS = Counter("dead_letters", "Parts of messages that cannot be stored")


class AlreadyClaimed(Exception):
    """The key of a claim belongs to another request."""


def spellings(prediction: str) -> set[str]:
    """Return the texts that a prediction may be stored as: 3 and 3.0 are the same number."""
    found = {prediction}
    with suppress(ValueError, OverflowError):  # it is not a number, or infinite
        number = float(prediction)
        found |= {str(number), str(int(number))} if number.is_integer() else {str(number)}
    return found


class Database:
    """Results on disk.

    While the database cannot be used, each method raises RequestError (503), and the next call tries again. All
    methods wait for the disk: call them in a thread, never on the event loop.
    """

    def __init__(self, url: str | sa.URL):
        # The writer has a connection of its own, so any number of readers cannot block it.
        self._readers, self._writer = create_pool(url), create_pool(url, pool_size=1, max_overflow=0)
        self._insert_results = self._insert_new(RESULTS)
        self._insert_dead_letters = self._insert_new(DEAD_LETTERS)
        self._insert_claims = self._insert_new(CLAIMS)
        self._has_tables, self._writable_until = False, 0.0
        self._problem: str | None = None  # the last one in the log

    def _insert_new(self, table: sa.Table) -> sa.Insert:
        """Return the SQL that inserts rows and skips those whose primary key is already there."""
        insert = sqlite.insert(table) if self._writer.name == "sqlite" else postgresql.insert(table)
        statement = insert.on_conflict_do_nothing(index_elements=list(table.primary_key))
        return statement.execution_options(preserve_rowcount=True)

    def insert(self, rows: list[Row]) -> bool:
        """Commit the rows. Skip ids that are already stored. With no rows, check that it is possible to write.

        Return whether all rows are new.
        """
        if not rows:
            self._probe()
            return True
        # Always in the same order: two writers with the same ids in different orders could block each other.
        rows = sorted(rows, key=lambda row: row["id"])
        with self._connection(self._writer) as connection, COMMIT.time():
            stored = connection.execute(self._insert_results, rows).rowcount
            connection.commit()
        STORED.inc(stored)
        COMMIT_RESULTS.observe(len(rows))
        if stored:  # otherwise nothing was written
            self._writable_until = monotonic() + PROBE_SECONDS
        return stored == len(rows)

    def _probe(self) -> None:
        if monotonic() < self._writable_until:
            return  # health checks come often, and each probe waits for the disk
        with self._connection(self._writer) as connection:
            # Only a write shows whether the disk is full. No other connection sees this row.
            connection.execute(self._insert_results, PROBE_ROW)
            connection.execute(RESULTS.delete().where(RESULTS.c.id == PROBE_ROW["id"]))
            connection.commit()
        self._writable_until = monotonic() + PROBE_SECONDS

    def newest(
        self, limit: int, before: str | None = None, prediction: str | None = None
    ) -> tuple[list[Row], str | None]:
        """Return a page of up to `limit` rows, newest first, and the `before` of the next page, None after the last.

        The page begins after the row with the id `before`. Raises RequestError (422) if there is no such row.
        """
        query = sa.select(RESULTS)
        if prediction is not None:
            query = query.where(RESULTS.c.prediction.in_(spellings(prediction)))
        return self._page(query, RESULTS, "result", limit, before)

    def dead_letters(self, limit: int, before: str | None = None, shown: int = 1000) -> tuple[list[Row], str | None]:
        """Return a page of dead letters in the same way, with the `size` of each body and its first `shown` bytes."""
        *columns, body = DEAD_LETTERS.c
        start = sa.func.substr(body, 1, shown, type_=body.type).label("body")
        query = sa.select(*columns, sa.func.length(body).label("size"), start)
        return self._page(query, DEAD_LETTERS, "dead letter", limit, before)

    def _page(
        self, query: sa.Select, table: sa.Table, name: str, limit: int, before: str | None
    ) -> tuple[list[Row], str | None]:
        # Rows may have the same time. Together with the id, each has a place that no later row changes.
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

    def find(self, ids: list[str]) -> list[Row]:
        """Return the rows that have these ids, in the order of the ids."""
        with self._connection(self._readers) as connection:
            rows = [row._asdict() for row in connection.execute(sa.select(RESULTS).where(RESULTS.c.id.in_(ids)))]
        places = {id: place for place, id in enumerate(ids)}
        return sorted(rows, key=lambda row: places[row["id"]])

    def count_by_prediction(self, limit: int) -> list[tuple[str, bool, int]]:
        """Return (prediction as text, whether it is a number, results) of the `limit` most frequent predictions."""
        count, pair = sa.func.count(), (RESULTS.c.prediction, RESULTS.c.prediction_is_number)
        query = sa.select(*pair, count).group_by(*pair).order_by(count.desc(), *pair).limit(limit)
        with self._connection(self._readers) as connection:
            return [tuple(row) for row in connection.execute(query)]

    def count_by_model_version(self) -> dict[str, int]:
        version = RESULTS.c.model_version
        query = sa.select(version, sa.func.count().label("results")).group_by(version)
        with self._connection(self._readers) as connection:
            return {row.model_version: row.results for row in connection.execute(query)}

    def insert_dead_letters(self, letters: list[Row]) -> None:
        """Commit dead letters. Skip ids that are already stored."""
        letters = sorted(letters, key=lambda letter: letter["id"])  # as in insert()
        with self._connection(self._writer) as connection:
            new = connection.execute(self._insert_dead_letters, letters).rowcount
            connection.commit()
        NEW_DEAD_LETTERS.inc(new)

    def claim(self, claims: list[Row]) -> bool:
        """Commit claims. Each gives a `key` to a `request` for a day. Return whether all are new.

        Raises AlreadyClaimed, and commits nothing, if one of the keys belongs to another request.
        """
        now = datetime.now(UTC)
        claims = sorted(({**claim, "time": now} for claim in claims), key=lambda claim: claim["key"])
        keys = [claim["key"] for claim in claims]
        with self._connection(self._writer) as connection:
            connection.execute(CLAIMS.delete().where(CLAIMS.c.time < now - CLAIM_AGE))
            new = connection.execute(self._insert_claims, claims).rowcount
            query = sa.select(CLAIMS.c.key, CLAIMS.c.request).where(CLAIMS.c.key.in_(keys))
            owners = {row.key: row.request for row in connection.execute(query)}
            if any(owners[claim["key"]] != claim["request"] for claim in claims):
                raise AlreadyClaimed
            connection.commit()
        return bool(new == len(claims))

    def close(self) -> None:
        self._readers.dispose()
        self._writer.dispose()

    @contextmanager
    def _connection(self, pool: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with pool.connect() as connection:
                if not self._has_tables:
                    create_tables(connection)
                    self._has_tables = True
                yield connection
        except DataError:
            raise  # caused by a row, not by the database
        except TimeoutError as error:  # the pool's, which says nothing about the database
            sentence = "all connections to the database are busy: try again later"
            raise RequestError(503, sentence, Retry_After="1") from error
        except (DBAPIError, OldTables) as error:
            self._has_tables, self._writable_until = False, 0.0  # another database may come back
            self.close()  # the next call opens new connections
            raise self._unusable(error) from error
        if self._problem and pool is self._writer:  # to read is possible also when the disk is full
            self._problem = None
            logging.warning("the database can be used again")

    def _unusable(self, error: DBAPIError | OldTables) -> RequestError:
        """Return the error for clients. Write the details to the log, once for each problem."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, (sqlite3.Error, OldTables)):
            problem = str(cause)
        else:  # the message of PostgreSQL's driver names host and user
            state = getattr(cause, "sqlstate", None)
            problem = f"PostgreSQL error {state}" if state else "no connection to PostgreSQL"
        if problem != self._problem:
            self._problem = problem
            logging.error("the database cannot be used: %s", cause)
        return RequestError(503, f"the database cannot be used ({problem}): try again later", Retry_After="1")
