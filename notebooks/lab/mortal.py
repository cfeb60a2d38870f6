"""A consumer that is killed after some of its steps, to try every moment at which a process can die."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self


class Killed(BaseException):
    """Stands for kill -9. `except Exception` does not catch it."""


class Process:
    """One life of a consumer, which has one message to store, and dies after so many `steps` (None: it does not).

    It is the message too, with `data` and `ack()`. Steps are statements and commits of its database, and ack(). While
    the database is `locked`, no statement about results succeeds.
    """

    def __init__(self, path: Path, data: bytes, steps: int | None = None, locked: bool = False):
        self.data, self.locked = data, locked
        self.acknowledged = self.dead = False
        self.last = "it began"  # the last step that was done
        self._left = -1 if steps is None else steps
        self.database = sqlite3.connect(path, factory=Database)
        self.database.process = self

    def run(self, store: Callable[[Self, sqlite3.Connection], None]) -> None:
        """Raises what `store` raises. A kill is no error."""
        with contextlib.suppress(Killed), contextlib.closing(self.database):  # rolls back what was not committed
            store(self, self.database)

    def ack(self) -> None:
        self.step("message.ack()", lambda: None)
        self.acknowledged = True

    def step(self, name: str, act: Callable[[], Any]) -> Any:
        if self.dead or self._left == 0:  # nothing runs after a kill, not even what stands in `finally`
            self.dead = True
            raise Killed
        self._left -= 1
        self.last = name
        return act()


class Database(sqlite3.Connection):
    """The connection of such a process."""

    process: Process

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        return self._statement("execute", super().execute, sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        return self._statement("executemany", super().executemany, sql, *rest)

    def _statement(self, name: str, act: Callable[..., sqlite3.Cursor], sql: str, *rest: Any) -> sqlite3.Cursor:
        if self.process.locked and "results" in sql:
            raise sqlite3.OperationalError("database is locked")
        return self.process.step(f"an {name}()", lambda: act(sql, *rest))

    def commit(self) -> None:
        self.process.step("the commit()", super().commit)

    def __exit__(self, kind: type | None, *_: object) -> Literal[False]:
        if kind is None:
            self.commit()
        else:
            self.rollback()
        return False
