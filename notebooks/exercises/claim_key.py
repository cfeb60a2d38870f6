"""Two gateways get the same Idempotency-Key at the same moment: who owns it?"""

import sqlite3
import tempfile
from pathlib import Path

notebook = "03_wires"
minutes = 15
hints = [
    "Between your SELECT and your INSERT, the other gateway can do all of its work. What you have read is then no "
    "longer true.",
    "So write first, and let the database decide who was first: it has a primary key. `ON CONFLICT DO NOTHING` makes "
    "the loser go on without an error.",
    "Then commit, and read who owns the key. That cannot change any more.",
]


def stub(database, key, request):
    """Return whether the key belongs to this request: True if it is new, or was claimed by the same request."""
    found = database.execute("SELECT request FROM claims WHERE key = ?", (key,)).fetchone()
    if found is None:
        database.execute("INSERT INTO claims VALUES (?, ?)", (key, request))
        database.commit()
        return True
    return found[0] == request


def solution(database, key, request):
    """Write first, then read. The primary key lets one of two writers win, and both read the same owner afterwards.

    Whoever reads first and then writes acts on what was true a moment ago. That goes well in each test with one client,
    and fails on a busy day.
    """
    database.execute("INSERT INTO claims VALUES (?, ?) ON CONFLICT DO NOTHING", (key, request))
    database.commit()
    (owner,) = database.execute("SELECT request FROM claims WHERE key = ?", (key,)).fetchone()
    return owner == request


def replace(database, key, request):
    found = database.execute("SELECT request FROM claims WHERE key = ?", (key,)).fetchone()
    if found is None:
        database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (key, request))
        database.commit()
    return found is None or found[0] == request


def always(database, key, request):
    database.execute("INSERT INTO claims VALUES (?, ?) ON CONFLICT DO NOTHING", (key, request))
    database.commit()
    return True


def without_a_commit(database, key, request):
    database.execute("INSERT INTO claims VALUES (?, ?) ON CONFLICT DO NOTHING", (key, request))
    (owner,) = database.execute("SELECT request FROM claims WHERE key = ?", (key,)).fetchone()
    return owner == request


def only_once(database, key, request):
    new = database.execute("INSERT INTO claims VALUES (?, ?) ON CONFLICT DO NOTHING", (key, request)).rowcount
    database.commit()
    return new == 1


def with_a_cursor(database, key, request):
    cursor = database.cursor()
    found = cursor.execute("SELECT request FROM claims WHERE key = ?", (key,)).fetchone()
    if found is None:
        cursor.execute("INSERT INTO claims VALUES (?, ?)", (key, request))
        database.commit()
    return found is None or found[0] == request


wrong = [
    (with_a_cursor, "IntegrityError"),
    (replace, "at the same moment"),
    (always, "a day later"),
    (without_a_commit, "is not kept"),
    (only_once, "sends its request again"),
]


class InterruptedCursor(sqlite3.Cursor):
    def execute(self, *arguments):
        self.connection._turn()
        return super().execute(*arguments)


class Interrupted(sqlite3.Connection):
    """A connection that lets somebody else act before one of its statements."""

    before, act = -1, None

    def execute(self, *arguments):
        self._turn()
        return super().execute(*arguments)

    def cursor(self, factory=InterruptedCursor):
        return super().cursor(factory)

    def commit(self):
        self._turn()
        super().commit()

    def _turn(self):
        self.before -= 1
        if self.before == -1:
            self.act()


def check(claim_key):
    with tempfile.TemporaryDirectory() as folder:
        return one_after_the_other(claim_key, Path(folder, "calm.db")) or next(
            filter(None, (together(claim_key, Path(folder, f"{moment}.db"), moment) for moment in range(10))), ""
        )


def connect(path):
    database = sqlite3.connect(path, timeout=0, factory=Interrupted)
    database.executescript(
        "PRAGMA synchronous = OFF; CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, request TEXT)"
    )
    return database


def one_after_the_other(claim_key, path):
    asked = []
    for request in ("seven", "seven", "eight"):
        database = connect(path)
        asked.append(bool(claim_key(database, "order-1", request)))
        database.close()  # what was not committed is gone
        database = connect(path)
        kept = database.execute("SELECT count(*) FROM claims").fetchone()[0]
        database.close()
        if not kept:
            return "the claim is not kept: another connection does not see it."
    if asked[:2] != [True, True]:
        return "a client sends its request again with its key, and the key is not its own any more."
    return "another request has the same key, a day later, and gets True." if asked[2] else ""


def together(claim_key, path, moment):
    """Let the second gateway act before one of the statements of the first."""
    first, second = connect(path), connect(path)
    answers = []

    def act():
        try:
            answers.append(bool(claim_key(second, "order-1", "eight")))
        except sqlite3.OperationalError:  # the first holds the lock, so the second has to wait for it
            second.rollback()

    first.before, first.act = moment, act
    try:
        answers.append(bool(claim_key(first, "order-1", "seven")))
        if len(answers) == 1:
            act()
    except sqlite3.IntegrityError:
        return "two gateways ask within a millisecond, and one of them gets an IntegrityError, so its client gets 500."
    finally:
        first.close()
        second.close()
    if sum(answers) != 1:
        return (
            f"two requests have the same key at the same moment, and {sum(answers)} of them are told that it is theirs."
        )
    return ""
